"""The graph that excitation backpropagation records, and where a signal passes in it."""

from collections.abc import Collection, Iterator
from contextlib import ExitStack
from typing import Literal

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node, get_gradient_edge

from lightning_saliency.errors import ModelError, NoGradientError
from lightning_saliency.network.backward_rules import (
    INSTEAD,
    BackwardRules,
    Rules,
    refuse_custom_functions,
)
from lightning_saliency.network.excitation_rules import REFUSED, Domain, excitation_rules
from lightning_saliency.network.layer_gradient import score_gradient
from lightning_saliency.network.layers import capture
from lightning_saliency.network.score import Target, class_scores

# Of the signal at a layer.
_NEGLIGIBLE = 1e-3

# The value of a signal of 1 during the pass. The shares of single units of an early layer are about
# a millionth, which float16 cannot hold; a power of two changes no digit of them.
_UNIT_SIGNAL = 1024.0


def passed_signal(scores: Tensor, output: Tensor, layer: str) -> Tensor:
    """Pass a signal of 1 back from each score to a layer.

    Args:
        scores: (N,), recorded by :func:`record_excitation`.
        output: of the layer, of any shape, as recorded there.
        layer: its name, for the message; ``""`` for the image.

    Returns:
        The shape of ``output``; float64 for a float64 output, else float32.

    Raises:
        NoGradientError: the scores do not depend on the layer.
    """
    signal = score_gradient(_UNIT_SIGNAL * scores, output, layer)
    return signal.to(torch.promote_types(signal.dtype, torch.float32)) / _UNIT_SIGNAL


def record_excitation(
    model: nn.Module,
    image: Tensor,
    target: Target,
    layers: Collection[str],
    down_to: str = "",
    rules: Rules | None = None,
) -> tuple[Tensor, dict[str, Tensor], Domain]:
    """Run the model under the rules of excitation backpropagation.

    The graph begins at the image, whatever layers are asked for: an addition must know which of
    its summands come from the image, also from around a layer. It is only walked as far as the
    layers that a signal is wanted for.

    Args:
        model: in eval mode, with frozen parameters.
        image: (N, C, H, W); a copy that the model may write to.
        target: see :data:`~lightning_saliency.network.score.Target`.
        layers: names of layers; ``""`` stands for the image.
        down_to: the one of them where the signal is read; what runs before it passes no signal
            back.
        rules: rules of the user, which come before the built-in ones.

    Returns:
        (scores of shape (N,), the output of each layer, what the rules meet; its ``negative`` is
        filled in by the backward pass, see :func:`check_signs`).

    Raises:
        LayerError: a layer does not exist, did not run once, or has no tensor as output.
        ModelError: the model calls activations that the method is not defined for, or returns no
            logits for each image.
    """
    image = image.requires_grad_()
    with ExitStack() as stack:
        caught = {name: stack.enter_context(capture(model, name)) for name in layers if name}
        has_run = (lambda: caught[down_to].has_run) if down_to else (lambda: True)
        domain = Domain()
        every_rule = {**excitation_rules(has_run, domain), **(rules or {})}
        stack.enter_context(
            BackwardRules(every_rule, refused=REFUSED, method="excitation backprop")
        )
        # A clone, because a model that writes into its input may not write into a leaf.
        output = model(image.clone())
    found = {name: capture.activation for name, capture in caught.items()}
    if domain.products:
        raise ModelError(
            "Expected a model without products of two activations for excitation backprop, but it "
            f"multiplies some by {' and '.join(sorted(set(domain.products)))}, as attention and "
            f"gates do, for which there is no rule. Take {INSTEAD}, or give rules of your own."
        )
    scores = class_scores(output, target, len(image))
    if not rules:
        refuse_custom_functions(scores, "excitation backprop")
    return scores, {"": image, **found}, domain


def check_signs(model: nn.Module, domain: Domain) -> None:
    """Raise if a part of the signal went to negative inputs of a layer.

    Args:
        model: that was explained.
        domain: after the backward pass.

    Raises:
        ModelError: it did; the message names the layers.
    """
    if not domain.negative:
        return
    shares = torch.stack([share.float() for _, share in domain.negative]).tolist()
    bad = [
        weight
        for (weight, _), share in zip(domain.negative, shares, strict=True)
        if share > _NEGLIGIBLE
    ]
    if not bad:
        return
    names = {id(weight): name for name, weight in model.named_parameters()}
    layers = [names.get(id(w), "").rpartition(".")[0] or "a product with a constant" for w in bad]
    shown = ", ".join(f"'{layer}'" for layer in reversed(layers[-3:]))
    raise ModelError(
        "Expected the inputs of all layers to be >= 0 for excitation backprop, but there are "
        f"negative ones, to which a part of the signal goes, at {len(layers)} layers ({shown}, "
        "...), as after linear bottlenecks; the map would be no probability. Name a "
        f"saliency_layer after them, or take {INSTEAD}."
    )


def node_of(tensor: Tensor) -> Node:
    """Return the node of the graph that puts out ``tensor``.

    Args:
        tensor: of any shape, part of the graph; the image may be one.
    """
    return get_gradient_edge(tensor).node


def nodes_below(start: Tensor, stop: Collection[Node] = ()) -> Iterator[Node]:
    """Yield the nodes of the graph that ``start`` was computed by, each once.

    Args:
        start: a tensor of any shape, such as scores (N,).
        stop: nodes that are yielded, but not passed.
    """
    waiting, seen = [start.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        if node not in stop:
            waiting.extend(below for below, _ in node.next_functions)


def classifier_nodes(start: Tensor, role: Literal["classifier", "contrast"]) -> list[Node]:
    """Find the last layers with weights before ``start``: one, unless several heads are mixed.

    Args:
        start: scores (N,), or a classifier's output, recorded by :func:`record_excitation`.
        role: what they become, see
            :class:`~lightning_saliency.network.excitation_functions.WeightedSum`.

    Raises:
        NoGradientError: there is no such layer.
    """
    found: list[Node] = []
    # What is found on the way is where the walk stops; the list is shared on purpose.
    for node in nodes_below(start, found):
        if getattr(node, "has_weights", False):
            found.append(node)
            # The context of an autograd.Function is its node in the graph.
            vars(node)["role"] = role
    if not found:
        raise NoGradientError(
            "Expected a classifier that excitation backprop can start from, a linear or "
            "convolutional layer between the image and the score, but found none. Look for "
            "detach() in the model's forward."
        )
    return found


def is_bottleneck(scores: Tensor, layer: Tensor) -> bool:
    """Whether every signal from the scores to the image goes through ``layer``.

    Args:
        scores: (N,), recorded by :func:`record_excitation`.
        layer: a layer's output, (N, K, h, w) for instance, as recorded there.
    """
    below = set(nodes_below(scores, [node_of(layer)]))
    ends = {node for node in below if not node.next_functions}
    return ends <= {node_of(layer)}
