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
    call it); a tuple or list whose first entry is one of these, unless another entry might be the
    logits as well; and one unit, (N,) or (N, 1). Of one image, when ``count`` says that it is one,
    also what ``squeeze()`` leaves: (classes,), or () of one unit.

    One unit stands for two classes, 0 and 1, whose logits are minus and plus what the unit puts
    out: (N, 2) comes back, with half the value in each, so that their softmax is the unit's
    sigmoid.

    Args:
        output: what the model returned.
        count: N; the output is checked to have a row for each image if this is given.

    Raises:
        ModelError: there are no logits in it, or not one row for each image.
    """
    logits = _find_logits(output, count)
    if logits.dim() == 3:
        raise ModelError(
            "Expected logits (N, classes) or a picture of them (N, classes, H, W), but the model "
            f"returned {tuple(logits.shape)}, of which it is not clear what are the classes. Say "
            "what is explained, with a callable as target, such as "
            "target=lambda output: output[..., 3].amax(1) for class 3 of (N, T, classes), or wrap "
            "the model so that it returns its logits, in a callback by "
            "forward=lambda module, images: module(images).mean(1)."
        )
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


def is_score_map(output: object, count: int) -> bool:
    """Whether :func:`class_logits` averages a model's output over space.

    Args:
        output: what the model returned, with logits in it.
        count: N, of how many images.
    """
    logits = _find_logits(output, count)
    return logits.dim() == 4 and logits.shape[2:].numel() > 1


def spatial_logits(output: object) -> Tensor:
    """Return a segmentation's logits, (N, classes, H, W).

    Args:
        output: what the model returned; see :func:`class_logits`.

    Raises:
        ModelError: there are none in it.
    """
    logits = _find_logits(output)
    if logits.dim() != 4:
        raise ModelError(
            "Expected a model that returns logits for each pixel, (N, classes, H, W), but it "
            f"returned {tuple(logits.shape)}."
        )
    return logits


def _find_logits(output: object, count: int | None = None) -> Tensor:
    found = output
    if isinstance(found, Mapping) and ("logits" in found or "out" in found):
        found = found["logits" if "logits" in found else "out"]
    elif not isinstance(found, Tensor) and hasattr(found, "logits"):
        found = found.logits
    elif isinstance(found, (tuple, list)) and found:
        _refuse_ambiguous(found)
        return _find_logits(found[0], count)
    if isinstance(found, Tensor) and found.dim() < 2 and count == 1:
        found = found.reshape(1, -1)
    if not isinstance(found, Tensor) or not found.is_floating_point() or found.dim() < 1:
        keys = f" with the keys {sorted(map(str, found))}" if isinstance(found, Mapping) else ""
        if isinstance(found, Tensor):
            keys = f" of shape {tuple(found.shape)} and {found.dtype}"
        raise ModelError(
            "Expected the model to return logits: a float tensor (N, classes) or (N, classes, H, "
            "W), an object or dict with 'logits', or a tuple that begins with one of these; it "
            f"returned {type(found).__name__}{keys}. Wrap it so that it returns its logits, or "
            "give a callable as target."
        )
    return found


def _refuse_ambiguous(parts: Sequence[object]) -> None:
    """Raise if it is not clear which of several tensors are the logits."""
    first = parts[0]
    if not isinstance(first, Tensor):
        return
    tables = [part for part in parts[1:] if isinstance(part, Tensor) and part.dim() == 2]
    others = [table for table in tables if len(table) == len(first) and table.shape[1] > 1]
    if any(first.dim() != 2 or table.shape != first.shape for table in others):
        shapes = " and ".join(str(tuple(part.shape)) for part in (first, *others))
        raise ModelError(
            f"Expected logits, but the model returned tensors of shapes {shapes}, and it is not "
            "clear which they are. Say so with a callable as target, such as "
            "target=lambda output: output[1][:, 3], or wrap the model so that it returns its "
            "logits alone, in a callback by forward=lambda module, images: module(images)[1]."
        )


# In half precision, too.
_SUMS_TO_ONE = 0.01
# What passes a number on without changing it.
_VIEWS = (
    *("Alias", "Clone", "Expand", "Permute", "Reshape", "Select", "Slice", "Squeeze"),
    *("TBackward", "ToCopy", "Transpose", "Unsafe", "Unsqueeze", "View"),
)


def probability_function(output: object) -> str | None:
    """Return "softmax" or "sigmoid" if the model's output is probabilities, not logits; else None.

    Rows that lie in [0, 1] and sum to 1 are taken for those of a softmax. Others in [0, 1] are
    probabilities if the model's last function is a sigmoid.

    Args:
        output: what the model returned, with its graph.
    """
    try:
        found = _find_logits(output)
    except ModelError:
        return None
    values = found.detach().float()
    if found.dim() == 3 or not bool(((values >= 0) & (values <= 1)).all()):
        return None
    has_classes = found.dim() > 1 and found.shape[1] > 1
    if has_classes and bool(((values.sum(1) - 1).abs() < _SUMS_TO_ONE).all()):
        return "softmax"
    node = found.grad_fn
    while node is not None and node.name().startswith(_VIEWS) and node.next_functions:
        node = node.next_functions[0][0]
    is_sigmoid = node is not None and node.name().lower().startswith(("sigmoid", "hardsigmoid"))
    return "sigmoid" if is_sigmoid else None


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
    scores = 2 * logits if _is_single_unit(output, count) else logits
    return scores.sigmoid() if kind == "sigmoid" else scores


def _is_single_unit(output: object, count: int | None) -> bool:
    found = _find_logits(output, count)
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
