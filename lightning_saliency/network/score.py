"""From what a model returns to one number for each image: the score that is explained."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from lightning_saliency.errors import InputError, ModelError

Target: TypeAlias = int | Sequence[int] | Tensor | Literal["predicted"] | Callable[..., Tensor]
"""What is explained: a class index for all images, one for each image (a sequence or an integer
tensor of shape (N,)), ``"predicted"`` for the class that the model predicts, or a callable from
the model's output to scores of shape (N,)."""

ScoreKind: TypeAlias = Literal["probability", "logit", "log_probability", "sigmoid"]
"""The score of a class: the softmax of the logits, the logit itself, the logarithm of the
softmax, or the sigmoid of the logit."""


def class_logits(output: object, count: int | None = None) -> Tensor:
    """Return the logits of each image, shape (N, classes), from a model's output.

    Understood are a tensor (N, classes); score maps (N, classes, H, W), which are averaged over
    space; an object or a mapping with ``logits`` (or ``out``, as torchvision's segmentation models
    call it); a tuple or list whose first entry is one of these; and one unit, (N,) or (N, 1).

    One unit stands for two classes, 0 and 1, whose logits are minus and plus what the unit puts
    out: (N, 2) comes back, with half the value in each, so that their softmax is the unit's
    sigmoid.

    Args:
        output: what the model returned.
        count: N; the output is checked to have a row for each image if this is given.

    Raises:
        ModelError: there are no logits in it, or not one row for each image.
    """
    logits = _find_logits(output)
    if count not in (None, len(logits)):
        raise ModelError(
            f"Expected the model to return one row of logits for each of {count} images, but it "
            f"returned {len(logits)}: a tensor of shape {tuple(logits.shape)}. Look for squeeze() "
            "or a mean over the batch in the model's forward."
        )
    if logits.dim() > 2:
        logits = logits.flatten(2).mean(2)
    if logits.dim() == 1:
        logits = logits[:, None]
    if logits.shape[1] == 1:
        logits = torch.cat([-logits, logits], dim=1) / 2
    return logits


def _find_logits(output: object) -> Tensor:
    found = output
    if isinstance(found, Mapping) and ("logits" in found or "out" in found):
        found = found["logits" if "logits" in found else "out"]
    elif not isinstance(found, Tensor) and hasattr(found, "logits"):
        found = found.logits
    elif isinstance(found, (tuple, list)) and found:
        return _find_logits(found[0])
    if not isinstance(found, Tensor) or not found.is_floating_point() or found.dim() < 1:
        keys = f" with the keys {sorted(map(str, found))}" if isinstance(found, Mapping) else ""
        raise ModelError(
            "Expected the model to return logits: a float tensor (N, classes) or (N, classes, H, "
            "W), an object or dict with 'logits', or a tuple that begins with one of these; it "
            f"returned {type(found).__name__}{keys}. Wrap it so that it returns its logits, or "
            "give a callable as target."
        )
    return found


def class_scores(output: object, target: Target, count: int | None = None) -> Tensor:
    """Return the score that is explained, one for each image, shape (N,).

    With a class as target it is that class's logit: before softmax, because the softmax couples
    the classes. For a model with one unit it is the unit's output for class 1, and its negative
    for class 0.

    Args:
        output: what the model returned for N images.
        target: see :data:`Target`.
        count: N, to check that there is a score for each image.

    Raises:
        ModelError: there are no logits in the output, or not one row for each image.
        InputError: a target is no class of the model, there is not one for each image, or a
            callable did not return one score for each image.
    """
    if callable(target) and not isinstance(target, Tensor):
        scores = target(output)
        count = count or _batch_size(output)
        if not isinstance(scores, Tensor) or scores.dim() != 1 or count not in (None, len(scores)):
            came = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise InputError(
                "Expected the target callable to return one score for each image, a tensor of "
                f"shape ({'N' if count is None else count},), but it returned {came}."
            )
        return scores
    scores = all_class_scores(output, count=count)
    return scores.gather(1, target_classes(scores, target)[:, None]).squeeze(1)


def all_class_scores(output: object, kind: ScoreKind = "logit", count: int | None = None) -> Tensor:
    """Return the score of every class, shape (N, classes).

    Args:
        output: what the model returned for N images.
        kind: ``"logit"`` for what :func:`class_scores` gives; the others are computed from the
            logits, in float32 at least.
        count: N, to check that there are scores for each image.

    Raises:
        ModelError: there are no logits in the output, or not one row for each image.
    """
    logits = class_logits(output, count)
    if kind != "logit":
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if kind == "probability":
        return logits.softmax(1)
    if kind == "log_probability":
        return logits.log_softmax(1)
    # Undo the halving of class_logits: the score of a single unit is the unit's output.
    scores = 2 * logits if _is_single_unit(output) else logits
    return scores.sigmoid() if kind == "sigmoid" else scores


def _is_single_unit(output: object) -> bool:
    found = _find_logits(output)
    return found.dim() == 1 or found.shape[1] == 1


def _batch_size(output: object) -> int | None:
    try:
        return len(_find_logits(output))
    except ModelError:
        return None


def part_of(target: Target, batch: slice) -> Target:
    """Return the targets of some of the images.

    Args:
        target: anything of :data:`Target`; of one for each image, (N,), a part is returned, others
            stay as they are.
        batch: which images.
    """
    if isinstance(target, Tensor):
        return target[batch] if target.dim() else target
    if isinstance(target, Sequence) and not isinstance(target, str):
        return target[batch]
    return target


def target_classes(logits: Tensor, target: Target) -> Tensor:
    """Return one class index for each image, int64, shape (N,), on the logits' device.

    Args:
        logits: (N, classes).
        target: anything of :data:`Target` but a callable.

    Raises:
        InputError: a target is no class of the model, or there is not one for each image.
    """
    count, classes = logits.shape
    if isinstance(target, str):
        if target != "predicted":
            raise InputError(f"Expected a class index or 'predicted' as target, got '{target}'.")
        return logits.argmax(1)
    wanted = _class_indices(target, logits.device)
    if wanted.dim() == 0:
        wanted = wanted.expand(count)
    if wanted.shape != (count,):
        raise InputError(
            f"Expected one target for all images or one for each of the {count} images, got "
            f"targets of shape {tuple(wanted.shape)}."
        )
    wanted = wanted.long()
    outside = (wanted < 0) | (wanted >= classes)
    if bool(outside.any()):
        raise InputError(
            f"Expected targets from 0 to {classes - 1}, because the model has {classes} classes, "
            f"got {int(wanted[outside][0])}."
        )
    return wanted


def _class_indices(target: object, device: torch.device) -> Tensor:
    if target is None or isinstance(target, bool):
        raise InputError(
            f"Expected a class index, one for each image, or 'predicted' as target, got {target}."
        )
    try:
        # A clone, because labels that came under inference mode cannot be part of a graph.
        indices = torch.as_tensor(target, device=device).clone()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"Expected class indices (integers) as target, got {target!r} ({error})."
        ) from error
    if indices.is_floating_point() or indices.is_complex() or indices.dtype == torch.bool:
        raise InputError(
            f"Expected class indices (integers) as target, got {indices.dtype}. For one-hot or "
            "soft labels pass labels.argmax(1); to explain something else than a class pass a "
            "callable."
        )
    return indices
