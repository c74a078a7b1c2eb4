"""Take images, labels and regions out of a batch of whatever form."""

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor

from lightning_saliency.callbacks.samples.regions import OBJECT, region_masks
from lightning_saliency.errors import InputError

Unpack: TypeAlias = Callable[
    [Any],
    tuple[Tensor, Tensor | None]
    | tuple[Tensor, Tensor | None, Tensor | Mapping[str, Tensor]]
    | tuple[
        Tensor,
        Tensor | None,
        Tensor | Mapping[str, Tensor] | None,
        Tensor | Mapping[str, Tensor],
    ],
]
"""From a batch of the user's loader to images (N, C, H, W) and labels (N,), or None for none; and,
if there is ground truth, as a third entry the objects' masks (N, H, W) or boxes (N, 4), or a
mapping from names of regions to these. A fourth entry (the third may be None) is what the model
gets beside the images: a tensor (N, ...), or a mapping from names to such tensors."""

_IMAGE_KEYS = ("image", "images", "img", "imgs", "pixel_values", "x", "input", "inputs", "data")
_LABEL_KEYS = ("label", "labels", "target", "targets", "y", "class", "class_id", "cls")
_HOW = (
    "Say how: SaliencyCallback(..., unpack=lambda batch: (batch['pixels'], batch['class'])), or "
    "(images, None) without labels; in a file that is pickled or read by the command line, a "
    "function with a name instead of a lambda."
)


def unpack_batch(
    batch: object, unpack: Unpack | None = None
) -> tuple[Tensor, Tensor | None, dict[str, Tensor], dict[str, Tensor]]:
    """Return images (N, C, H, W), labels, regions and further inputs of a batch.

    Without ``unpack``, these are understood: a tensor of images; a tuple, list or named tuple that
    begins with images and goes on with labels; a mapping or dataclass with the usual names
    (``image``, ``images``, ``pixel_values``, ``x``, ...; ``label``, ``labels``, ``target``, ``y``,
    ...).

    Args:
        batch: what the model's ``validation_step`` receives.
        unpack: the user's own way to take it apart.

    Returns:
        (images, labels, regions, inputs); labels as they are in the batch, None if there are none;
        regions by name, bool, (N, 1, H, W), and inputs by name, (N, ...), which only ``unpack`` can
        give.

    Raises:
        InputError: no images (N, C, H, W) were found, or the lengths differ.
    """
    found: Any = unpack(batch) if unpack is not None else _unpack_by_form(batch)
    if not isinstance(found, (tuple, list)) or len(found) not in (2, 3, 4):
        raise InputError(
            "Expected unpack to return a pair (images, labels or None), or these and the objects' "
            "masks or boxes (or None), or these and further inputs of the model, got "
            f"{_describe(found)}. {_HOW}"
        )
    images, labels = found[:2]
    if not isinstance(images, Tensor) or images.dim() != 4:
        whose = "unpack to return" if unpack is not None else "the batch to hold"
        raise InputError(
            f"Expected {whose} images of shape (N, C, H, W), got {_describe(images)} out of a "
            f"batch that is {_describe(batch)}. {_HOW}"
        )
    if isinstance(labels, Tensor) and labels.dim() > 0 and len(labels) != len(images):
        raise InputError(
            f"Expected one label for each image, got {len(images)} images and {len(labels)} "
            f"labels. {_HOW}"
        )
    has_regions = len(found) == 3 or (len(found) == 4 and found[2] is not None)
    regions = _regions(found[2], images) if has_regions else {}
    inputs = _inputs(found[3], images) if len(found) == 4 else {}
    if unpack is None:
        _hint_at_masks(batch, images)
    return images, labels if isinstance(labels, Tensor) else None, regions, inputs


def image_key(batch: object, images: Tensor) -> str | None:
    """Return the name under which images stand in a batch, None if it has no names.

    Args:
        batch: what the model's ``validation_step`` receives.
        images: (N, C, H, W), found in it.
    """
    first = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
    entries = first if isinstance(first, Mapping) else getattr(first, "data", None)
    if not isinstance(entries, Mapping):
        return None
    names = [name for name, entry in entries.items() if entry is images and isinstance(name, str)]
    return names[0] if names else None


def _regions(given: object, images: Tensor) -> dict[str, Tensor]:
    named = given if isinstance(given, Mapping) else {OBJECT: given}
    size = images.shape[2], images.shape[3]
    masks = {}
    for name, region in named.items():
        masks[name] = region_masks(region, size, f"unpack to return the region '{name}'")
        if len(masks[name]) != len(images):
            raise InputError(
                f"Expected unpack to return the region '{name}' of each of the {len(images)} "
                f"images, got {len(masks[name])} of them."
            )
    return {name: mask.to(images.device) for name, mask in masks.items()}


def _hint_at_masks(batch: object, images: Tensor) -> None:
    """Say once that a third entry of a batch looks like masks or boxes of objects."""
    third = batch[2] if isinstance(batch, (tuple, list)) and len(batch) > 2 else None
    if not isinstance(third, Tensor) or len(third) != len(images):
        return
    is_mask = third.dim() in (3, 4) and third.shape[-2:] == images.shape[-2:]
    if is_mask and (third.dim() == 3 or third.shape[1] == 1):
        _say_once(
            f"The third entry of the validation batches, of shape {tuple(third.shape)}, looks like "
            "masks of the objects. It is not used. To measure how much of the maps lies on them: "
            "SaliencyCallback(..., unpack=lambda batch: batch[:3])."
        )


@lru_cache(maxsize=8)
def _say_once(text: str) -> None:
    rank_zero_info(text)


def _inputs(given: object, images: Tensor) -> dict[str, Tensor]:
    named: Mapping[Any, Any] = given if isinstance(given, Mapping) else {"": given}
    for name, value in named.items():
        if not isinstance(value, Tensor) or value.dim() == 0 or len(value) != len(images):
            raise InputError(
                "Expected the further inputs that unpack returns to be a tensor, or a mapping from "
                f"names to tensors, with one row for each of the {len(images)} images, got "
                f"{_describe(value)}{f' for {name!r}' if name else ''}."
            )
    return {str(name): value for name, value in named.items()}


def _unpack_by_form(batch: object) -> tuple[object, object]:
    if isinstance(batch, Tensor):
        return batch, None
    if isinstance(batch, Mapping):
        return _by_name(batch)
    if isinstance(batch, (tuple, list)) and batch:
        if isinstance(batch[0], Mapping):
            return _by_name(batch[0])
        return batch[0], batch[1] if len(batch) > 1 else None
    if is_dataclass(batch) and not isinstance(batch, type):
        return _by_name({field.name: getattr(batch, field.name) for field in fields(batch)})
    # Such as Hugging Face's BatchEncoding: a mapping in all but name.
    data = getattr(batch, "data", None)
    if isinstance(data, Mapping):
        return _by_name(data)
    return None, None


def _by_name(entries: Mapping[Any, Any]) -> tuple[object, object]:
    image = next((entries[key] for key in _IMAGE_KEYS if key in entries), None)
    label = next((entries[key] for key in _LABEL_KEYS if key in entries), None)
    return image, label


def _describe(found: object) -> str:
    """A short word for anything, such as "a dict with the keys 'a', 'b'"."""
    if isinstance(found, Tensor):
        return f"a tensor of shape {tuple(found.shape)}"
    if isinstance(found, Mapping):
        return "a dict with the keys " + ", ".join(repr(key) for key in list(found)[:8])
    if isinstance(found, (tuple, list)):
        inside = ", ".join(_describe(entry) for entry in found[:4])
        return f"a {type(found).__name__} of {len(found)} ({inside})"
    return "nothing" if found is None else f"a {type(found).__name__}"


def class_indices(labels: Tensor | None, source: str) -> Tensor:
    """Return ``labels`` as class indices, int64, shape (N,).

    Understood are integers, the two classes 0 and 1 in whatever dtype, and one-hot labels.

    Args:
        labels: what the batch holds as labels, (N,), (N, 1) or (N, classes), or None.
        source: where they come from, for the message.

    Raises:
        InputError: there are none, or they are no class indices.
    """
    instead = (
        "Explain the predicted class instead (target='predicted'), a fixed class (target=3), or "
        "give unpack= a function that returns class indices."
    )
    if labels is None:
        raise InputError(f"Expected labels in {source} for target='label', found none. {instead}")
    if labels.dim() == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    are_binary = bool(((labels == 0) | (labels == 1)).all())
    if labels.dim() == 2 and are_binary and bool((labels.sum(1) == 1).all()):
        return labels.long().argmax(1)
    is_index = not labels.is_floating_point() and labels.dtype != torch.bool
    if labels.dim() == 1 and (are_binary or (is_index and not bool((labels < 0).any()))):
        return labels.long()
    raise InputError(
        f"Expected class indices as labels, integers >= 0 of shape (N,), got {labels.dtype} of "
        f"shape {tuple(labels.shape)} in {source}{_guess(labels, is_index, are_binary)} {instead}"
    )


def known_labels(labels: Tensor | None) -> Tensor | None:
    """Return the right classes, int64, (N,), on the CPU; None where there is not one for each.

    Args:
        labels: what the batch holds as labels, or None.
    """
    try:
        return class_indices(labels, "the samples").cpu()
    except InputError:
        return None


def _guess(labels: Tensor, is_index: bool, are_binary: bool) -> str:
    """Say what labels that are no class indices look like, and what is usual then."""
    if labels.dim() == 1:
        if is_index:
            return ", some negative."
        return (
            ". If these are the numbers of a regression by one unit, explain what raises it: "
            "target=1 (or lowers it: target=0)."
        )
    if labels.dim() == 2 and are_binary:
        return ", several classes for each image. Explain one of them: target=1 for class 1."
    if labels.dim() > 2:
        return ", a class for each pixel. Explain one: target=1 for the mean score of class 1."
    return "."
