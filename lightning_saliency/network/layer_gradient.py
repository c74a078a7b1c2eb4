"""The one backward pass that the gradient methods are made of."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from lightning_saliency.errors import ModelError, NoGradientError
from lightning_saliency.network.activation import capture
from lightning_saliency.network.backward_rules import BackwardRules, refuse_custom_functions
from lightning_saliency.network.score import Target, class_scores

__all__ = ["layer_gradient", "score_gradient"]


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
    :func:`~lightning_saliency.network.undisturbed.undisturbed`.

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
    with rules or nullcontext():
        if layer:
            with capture(model, layer, start_graph=True) as caught:
                output = model(image)
            activation = caught.activation
        else:
            activation = image.requires_grad_()
            # A clone, because a model that writes into its input may not write into a leaf.
            output = model(activation.clone())
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
        with _checkpoints_explained():
            (gradient,) = torch.autograd.grad(scores.sum(), activation, allow_unused=True)
    if gradient is None:
        where = f"the output of layer '{layer}'" if layer else "the image"
        raise NoGradientError(
            f"Expected the score to depend on {where} in a differentiable way, but it does "
            "not. Look for detach(), argmax or rounding in the model's forward, or take "
            "RISE, which needs no gradient."
        )
    return gradient


@contextmanager
def _checkpoints_explained() -> Iterator[None]:
    """Say what to do where ``torch.utils.checkpoint`` stops a backward pass.

    Raises:
        ModelError: it did, and says why in its cause.
    """
    try:
        yield
    except RuntimeError as error:
        # Only one of its errors has a class.
        if "torch.utils.checkpoint" not in str(error):
            raise
        raise ModelError(
            "Expected a model that keeps its activations, but it uses torch.utils.checkpoint, and "
            "the second run of a checkpointed part does not know the backward rules. Switch "
            "checkpointing off while the model is in eval mode, or take RISE."
        ) from error
