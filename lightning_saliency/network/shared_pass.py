"""One forward pass from which the gradients of several methods are taken."""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from lightning_saliency.errors import LayerError, ModelError
from lightning_saliency.network.activation import Capture, capture
from lightning_saliency.network.backward_rules import BackwardRules, refuse_custom_functions
from lightning_saliency.network.relu_derivatives import SAME_DERIVATIVE, ReluRule, ordinary
from lightning_saliency.network.relu_rules import NO_RULE, ReluChoice
from lightning_saliency.network.score import Target, class_logits, class_scores

__all__ = ["GradientRequest", "LayerGradient", "SharedPass"]

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

    Make it inside :func:`~lightning_saliency.network.undisturbed.undisturbed`. Requests that this
    pass cannot serve are left out, without a reason; computed one by one they raise it.

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
        self._choice = ReluChoice()
        rules: BackwardRules | None = None
        caught: list[Capture] = []
        with ExitStack() as stack:
            if any(request.rule is not None for request in unique):
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
