"""The passes that the gradient methods are made of: one for a method alone, or one for several."""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from lightning_saliency.errors import LayerError, ModelError, NoGradientError
from lightning_saliency.network.backward_rules import BackwardRules, refuse_custom_functions
from lightning_saliency.network.layers import Capture, capture
from lightning_saliency.network.relu_rules import (
    NO_RULE,
    SAME_DERIVATIVE,
    ReluChoice,
    ReluRule,
    ordinary,
)
from lightning_saliency.network.score import Target, class_logits, class_scores


def layer_gradient(
    model: nn.Module,
    image: Tensor,
    target: Target,
    layer: str = "",
    rules: AbstractContextManager[object] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return a layer's output and the derivative of each image's score with respect to it.

    One forward and one backward pass; the graph begins at the layer, so that nothing before it is
    recorded or differentiated. Call this inside
    :func:`~lightning_saliency.network.isolation.undisturbed.undisturbed`.

    Args:
        model: in eval mode, with frozen parameters.
        image: (N, C, H, W); a copy that the model may write to.
        target: see :data:`~lightning_saliency.network.score.Target`.
        layer: its name; ``""`` stands for the image.
        rules: a context in which the forward pass runs, for instance
            :class:`~lightning_saliency.network.backward_rules.BackwardRules`.

    Returns:
        (activation, gradient), both detached and of the layer's shape.

    Raises:
        LayerError: the layer does not exist, did not run once, or has no tensor as output.
        ModelError: the model returns no logits for each image.
        NoGradientError: the score does not depend on the layer in a differentiable way.
    """
    scores: Tensor | None = None
    with rules or nullcontext():
        if layer:
            with capture(model, layer, start_graph=True) as caught:
                output = model(image)
            activation = caught.activation
        else:
            activation = image.requires_grad_()
            # A clone, because a model that writes into its input may not write into a leaf.
            output = model(activation.clone())
        if callable(target) and not isinstance(target, Tensor):
            # What the user makes of the output is a part of what is explained.
            scores = class_scores(output, target, len(image))
    if scores is None:
        scores = class_scores(output, target, len(image))
    if isinstance(rules, BackwardRules) and rules.only_torch:
        refuse_custom_functions(scores, rules.method)
    if isinstance(rules, BackwardRules) and rules.check is not None:
        rules.check(scores)
    return activation.detach(), score_gradient(scores, activation, layer)


def score_gradient(scores: Tensor, activation: Tensor, layer: str = "") -> Tensor:
    """Return the derivative of the sum of ``scores`` with respect to ``activation``.

    Args:
        scores: (N,), one score for each image; images do not depend on one another in eval mode.
        activation: what the scores were computed from.
        layer: where it was caught, for the message; ``""`` stands for the image.

    Raises:
        NoGradientError: the scores do not depend on it in a differentiable way.
        ModelError: the model computes parts of itself again in the backward pass and that fails.
    """
    gradient = None
    if scores.requires_grad:
        try:
            (gradient,) = torch.autograd.grad(scores.sum(), activation, allow_unused=True)
        except RuntimeError as error:
            # Only one of the errors of torch.utils.checkpoint has a class.
            if "torch.utils.checkpoint" not in str(error):
                raise
            raise ModelError(
                "Expected a model that keeps its activations, but it uses torch.utils.checkpoint, "
                "and the second run of a checkpointed part does not know the backward rules. "
                "Switch checkpointing off while the model is in eval mode, or take RISE."
            ) from error
    if gradient is None:
        where = f"the output of layer '{layer}'" if layer else "the image"
        raise NoGradientError(
            f"Expected the score to depend on {where} in a differentiable way, but it does "
            "not. Look for detach(), argmax or rounding in the model's forward, or take "
            "RISE, which needs no gradient."
        )
    return gradient


LayerGradient: TypeAlias = tuple[Tensor, Tensor]
"""A layer's output and the derivative of each image's score with respect to it, both detached."""


@dataclass(frozen=True)
class GradientRequest:
    """What a method needs of a pass: one layer's output and the gradient that arrives there.

    Attributes:
        layer: its name; ``""`` stands for the image.
        rule: how each ReLU passes the gradient back; None for the ordinary derivative.
    """

    layer: str = ""
    rule: ReluRule | None = None


class SharedPass:
    """A model's forward pass, recorded so that several methods can read it.

    The graph begins at the first layer that is requested. All ordinary gradients come from one
    backward pass, and those with a rule for ReLU from one backward pass for each rule, on the
    same graph: the ReLUs look up their rule during the backward pass. The result is what
    :func:`~lightning_saliency.network.layer_gradient.layer_gradient` gives for each request.

    Make it inside :func:`~lightning_saliency.network.isolation.undisturbed.undisturbed`. Requests
    that this pass cannot serve are left out, without a reason; computed one by one they raise it.

    Args:
        model: in eval mode, with frozen parameters, not sharded.
        image: (N, C, H, W); a copy that the model may write to.
        requests: the gradients that are needed.

    Attributes:
        output: what the model returned.
    """

    def __init__(
        self, model: nn.Module, image: Tensor, requests: Iterable[GradientRequest]
    ) -> None:
        unique = list(dict.fromkeys(requests))
        self._count = len(image)
        self._choice: ReluChoice | None = None
        rules: BackwardRules | None = None
        caught: list[Capture] = []
        with ExitStack() as stack:
            if any(request.rule is not None for request in unique):
                self._choice = ReluChoice()
                rules = BackwardRules(self._choice.rules(), refused=NO_RULE, strict=False)
                stack.enter_context(rules)
            for layer in dict.fromkeys(request.layer for request in unique if request.layer):
                with suppress(LayerError):
                    caught.append(stack.enter_context(capture(model, layer)))
            if any(not request.layer for request in unique):
                image.requires_grad_()
            # A clone, because a model that writes into its input may not write into a leaf.
            self.output = model(image.clone())
        self._activations = {"": image}
        for capture_ in caught:
            with suppress(LayerError):
                self._activations[capture_.layer] = capture_.activation
        self._requests = [
            request
            for request in unique
            if request.layer in self._activations and _serves(rules, request, self.output)
        ]

    def gradients(self, target: Target) -> dict[GradientRequest, LayerGradient]:
        """Return what this pass can serve, for a target; call it again for another one.

        Args:
            target: see :data:`~lightning_saliency.network.score.Target`.

        Raises:
            InputError: the target cannot be used, or the model returned no logits.
        """
        scores = class_scores(self.output, target, self._count).sum()
        found: dict[GradientRequest, LayerGradient] = {}
        for rule in dict.fromkeys(request.rule for request in self._requests):
            group = [request for request in self._requests if request.rule is rule]
            # Whatever goes wrong in this one, the other backward passes may work.
            with suppress(Exception):
                found.update(self._group_gradients(scores, group, rule))
        return found

    def _group_gradients(
        self, scores: Tensor, group: Sequence[GradientRequest], rule: ReluRule | None
    ) -> dict[GradientRequest, LayerGradient]:
        activations = [self._activations[request.layer] for request in group]
        if self._choice:
            self._choice.rule = rule or ordinary
        gradients = torch.autograd.grad(scores, activations, retain_graph=True, allow_unused=True)
        return {
            request: (activation.detach(), gradient)
            for request, activation, gradient in zip(group, activations, gradients, strict=True)
            if gradient is not None
        }


def _serves(rules: BackwardRules | None, request: GradientRequest, output: object) -> bool:
    if rules is None:
        return True
    if request.rule is None:
        return set(rules.replaced) <= SAME_DERIVATIVE
    with suppress(ModelError):
        refuse_custom_functions(class_logits(output), rules.method)
        return rules.problem is None
    return False
