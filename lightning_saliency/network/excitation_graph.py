"""The graph that excitation backpropagation records, and where in it a signal passes."""

from collections.abc import Collection, Iterator
from contextlib import ExitStack

from torch import Tensor, nn
from torch.autograd.graph import Node

from lightning_saliency.errors import ModelError
from lightning_saliency.network.activation import capture
from lightning_saliency.network.backward_rules import BackwardRules, Rules
from lightning_saliency.network.excitation_rules import REFUSED, excitation_rules
from lightning_saliency.network.score import Target, class_scores

__all__ = ["classifier_nodes", "nodes_below", "passes_nothing_by", "record_excitation"]


def record_excitation(
    model: nn.Module,
    image: Tensor,
    target: Target,
    layers: Collection[str],
    rules: Rules | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Run the model under the rules of excitation backpropagation.

    The graph begins at the image, whatever layers are asked for: an addition must know which of
    its summands come from the image, also from around a layer. It is only walked as far as the
    layers that a signal is wanted for.

    Args:
        model: in eval mode, with frozen parameters.
        image: (N, C, H, W); a copy that the model may write to.
        target: see :data:`~lightning_saliency.network.score.Target`.
        layers: names of layers; ``""`` stands for the image.
        rules: rules of the user, which come before the built-in ones.

    Returns:
        (scores of shape (N,), what each layer put out).

    Raises:
        LayerError: a layer does not exist, did not run once, or has no tensor as output.
        ModelError: the model calls activations that the method is not defined for, or returns no
            logits for each image.
    """
    image = image.requires_grad_()
    every_rule = {**excitation_rules(), **(rules or {})}
    with (
        ExitStack() as stack,
        BackwardRules(every_rule, refused=REFUSED, method="excitation backprop"),
    ):
        caught = {name: stack.enter_context(capture(model, name)) for name in layers if name}
        # A clone, because a model that writes into its input may not write into a leaf.
        output = model(image.clone())
    found = {name: capture.activation for name, capture in caught.items()}
    return class_scores(output, target, len(image)), {"": image, **found}


def nodes_below(start: Tensor, stop: Collection[Node | None] = ()) -> Iterator[Node]:
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


def classifier_nodes(start: Tensor) -> list[Node]:
    """Return the last layers with weights before ``start``: one, unless several heads are mixed.

    Args:
        start: scores (N,), or what a classifier put out, recorded by :func:`record_excitation`.

    Raises:
        ModelError: there is no such layer.
    """
    found: list[Node] = []
    # What is found on the way is where the walk stops; the list is shared on purpose.
    for node in nodes_below(start, found):
        if getattr(node, "has_weights", False):
            found.append(node)
    if not found:
        raise ModelError(
            "Expected a classifier that excitation backprop can start from, a linear or "
            "convolutional layer between the image and the score, but found none. Look for "
            "detach() and no_grad() in the model's forward."
        )
    return found


def passes_nothing_by(scores: Tensor, layer: Tensor) -> bool:
    """Whether every signal from the scores to the image goes through ``layer``.

    Args:
        scores: (N,), recorded by :func:`record_excitation`.
        layer: what a layer put out, (N, K, h, w) for instance, as recorded there.
    """
    leaves = [getattr(node, "variable", None) for node in nodes_below(scores, [layer.grad_fn])]
    return all(leaf is None or leaf is layer for leaf in leaves)
