"""One forward pass from which the gradients of several methods are taken."""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from lightning_saliency.errors import LayerError
from lightning_saliency.network.activation import Capture, capture
from lightning_saliency.network.backward_rules import BackwardRules
from lightning_saliency.network.relu_derivatives import SAME_DERIVATIVE, ReluRule, ordinary
from lightning_saliency.network.relu_rules import NO_RULE, ReluChoice
from lightning_saliency.network.score import Target, class_scores

__all__ = ["LayerReading", "Reading", "SharedPass"]

LayerReading: TypeAlias = tuple[Tensor, Tensor]
"""A layer's output and the derivative of each image's score with respect to it, both detached."""


@dataclass(frozen=True)
class Reading:
    """What a method wants of a pass: one layer's output and the gradient that arrives there.

    Attributes:
        layer: its name; ``""`` stands for the image.
        rule: how each ReLU hands the gradient down; None for the ordinary derivative.
    """

    layer: str = ""
    rule: ReluRule | None = None


class SharedPass:
    """A model's forward pass, recorded so that several methods can read it.

    The graph begins at the first layer that somebody wants. All ordinary gradients come from one
    backward pass, and those with a rule for ReLU from one backward pass for each rule, on the
    same graph: the ReLUs look up their rule when the backward pass comes by. What is read is what
    :func:`~lightning_saliency.network.layer_gradient.layer_gradient` gives for each reading.

    Make it inside :func:`~lightning_saliency.network.undisturbed.undisturbed`. Readings that this
    pass cannot serve are left out, without a reason; taken one by one they say what is wrong.

    Args:
        model: in eval mode, with frozen parameters, not sharded.
        image: (N, C, H, W); a copy that the model may write to.
        readings: what is wanted.

    Attributes:
        output: what the model returned.
    """

    def __init__(self, model: nn.Module, image: Tensor, readings: Iterable[Reading]) -> None:
        wanted = list(dict.fromkeys(readings))
        self._count = len(image)
        self._choice = ReluChoice()
        rules: BackwardRules | None = None
        caught: list[Capture] = []
        with ExitStack() as stack:
            if any(reading.rule is not None for reading in wanted):
                rules = BackwardRules(self._choice.rules(), refused=NO_RULE, strict=False)
                stack.enter_context(rules)
            for layer in dict.fromkeys(reading.layer for reading in wanted if reading.layer):
                with suppress(LayerError):
                    caught.append(stack.enter_context(capture(model, layer)))
            if any(not reading.layer for reading in wanted):
                image.requires_grad_()
            # A clone, because a model that writes into its input may not write into a leaf.
            self.output = model(image.clone())
        self._activations = {"": image}
        for capture_ in caught:
            with suppress(LayerError):
                self._activations[capture_.layer] = capture_.activation
        self._readings = [
            reading
            for reading in wanted
            if reading.layer in self._activations and _serves(rules, reading)
        ]

    def read(self, target: Target) -> dict[Reading, LayerReading]:
        """Return what can be read for a target; call it again for another one.

        Args:
            target: see :data:`~lightning_saliency.network.score.Target`.

        Raises:
            InputError: the target cannot be used, or the model returned no logits.
        """
        scores = class_scores(self.output, target, self._count).sum()
        found: dict[Reading, LayerReading] = {}
        for rule in dict.fromkeys(reading.rule for reading in self._readings):
            group = [reading for reading in self._readings if reading.rule is rule]
            # Whatever goes wrong in this one, the other backward passes may work.
            with suppress(Exception):
                found.update(self._read_group(scores, group, rule))
        return found

    def _read_group(
        self, scores: Tensor, group: Sequence[Reading], rule: ReluRule | None
    ) -> dict[Reading, LayerReading]:
        activations = [self._activations[reading.layer] for reading in group]
        self._choice.rule = rule or ordinary
        gradients = torch.autograd.grad(scores, activations, retain_graph=True, allow_unused=True)
        return {
            reading: (activation.detach(), gradient)
            for reading, activation, gradient in zip(group, activations, gradients, strict=True)
            if gradient is not None
        }


def _serves(rules: BackwardRules | None, reading: Reading) -> bool:
    if rules is None:
        return True
    if reading.rule is None:
        return set(rules.replaced) <= SAME_DERIVATIVE
    return rules.problem is None
