"""Places in the images that the maps are measured on: objects, and what should not matter."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from lightning_saliency.callbacks.failures import warn
from lightning_saliency.errors import InputError

OBJECT = "object"
"""The name of the region that a map should lie on: the ground truth."""

PLACES = ("border", "center", "top_left", "top_right", "bottom_left", "bottom_right")
"""Places that have a name: ``border`` is the frame that takes a tenth of the shorter side,
``center`` the middle half of both sides, the corners are a quarter of both sides."""

RegionSpec: TypeAlias = str | Sequence[float] | Tensor
"""One of :data:`PLACES`; a box (left, top, right, bottom) in pixels, the same in all images; boxes
(N, 4), one for each sample; or masks (H, W), (N, H, W) or (N, 1, H, W), bool or > 0.5 inside."""

RegionsSpec: TypeAlias = Mapping[str, RegionSpec] | Sequence[str] | Tensor
"""Regions by name, names of :data:`PLACES`, or masks or boxes of the object alone."""

_FORMS = (
    f"a place ({', '.join(PLACES)}), a box (left, top, right, bottom) in pixels, boxes (N, 4), or "
    "masks (N, H, W)"
)


class Regions:
    """The regions that a user gave, by name.

    Args:
        spec: see :data:`RegionsSpec`; None for none.
        count: how many samples there are; masks and boxes are for one or for this many.

    Raises:
        InputError: ``spec`` is none of the forms, a name cannot stand in a tag, there are not as
            many masks as samples, or no mask has a pixel inside.
    """

    def __init__(self, spec: RegionsSpec | None, count: int) -> None:
        self._count = count
        self._specs: dict[str, RegionSpec] = {}
        for name, region in _by_name(spec).items():
            _check_name(name)
            self._specs[name] = _checked(name, region, count)

    @property
    def names(self) -> list[str]:
        """The names, in the order given."""
        return list(self._specs)

    def check(self, size: tuple[int, int]) -> None:
        """Check that the regions fit the images, and warn of samples that have none of a region.

        Args:
            size: (height, width) of the images.

        Raises:
            InputError: a mask has another size, or a region has no pixel in any image.
        """
        masks = self.masks(size, self._count)
        for name, mask in masks.items():
            if not bool(mask.any()):
                raise InputError(
                    f"Expected the region '{name}' to have a pixel in the images of {size[0]} x "
                    f"{size[1]} pixels, but it has none. A box is (left, top, right, bottom) in "
                    "pixels of the image as the model takes it."
                )
        warn_of_empty(masks)
        for name, region in self._specs.items():
            if isinstance(region, Tensor) and region.dim() <= 2 and region.shape[-1] == 4:
                _check_inside(name, region.reshape(-1, 4), size)

    def masks(self, size: tuple[int, int], count: int) -> dict[str, Tensor]:
        """Return the regions in images of this size, bool, (count, 1, H, W) or (1, 1, H, W).

        Args:
            size: (height, width) of the images.
            count: how many samples; if more regions were given, the first are taken.

        Raises:
            InputError: a mask has another size, or a box lies outside the images.
        """
        found = {}
        for name, region in self._specs.items():
            if isinstance(region, str):
                found[name] = _place(region, size)[None, None]
            else:
                found[name] = region_masks(region, size, f"the region '{name}'")[:count]
        return found


def region_masks(region: object, size: tuple[int, int], source: str) -> Tensor:
    """Return masks (n, 1, H, W), bool, of boxes or masks.

    A pixel is in a box if some of it is. A box without extent has no pixel.

    Args:
        region: boxes (4,) or (n, 4), or masks (H, W), (n, H, W) or (n, 1, H, W).
        size: (height, width) of the images.
        source: where it comes from, for the message.

    Raises:
        InputError: it is neither, or of another size than the images.
    """
    values = _tensor(region)
    if values is None or values.dim() not in (1, 2, 3, 4):
        came = f"shape {tuple(values.shape)}" if values is not None else type(region).__name__
        raise InputError(f"Expected {source} as boxes (N, 4) or masks (N, H, W), got {came}.")
    if values.dim() <= 2 and values.shape[-1] == 4 and size[1] != 4:
        return _boxes(values.reshape(-1, 4), size)
    if values.dim() == 4 and values.shape[1] == 1:
        values = values[:, 0]
    if values.dim() == 2:
        values = values[None]
    if values.dim() != 3 or tuple(values.shape[1:]) != tuple(size):
        raise InputError(
            f"Expected {source} as boxes (N, 4) or as masks of the images' size, (N, {size[0]}, "
            f"{size[1]}), got shape {tuple(values.shape)}. Resize the masks as the images are."
        )
    return _inside(values)[:, None]


def warn_of_empty(masks: Mapping[str, Tensor]) -> None:
    """Warn of samples in which a region has no pixel.

    Args:
        masks: by name, bool, (N, 1, H, W).
    """
    for name, mask in masks.items():
        empty = (~mask.flatten(1).any(1)).nonzero().flatten().tolist()
        if empty:
            warn(
                f"The region '{name}' has no pixel in sample {', '.join(map(str, empty))}; the "
                f"means over the samples leave {'it' if len(empty) == 1 else 'them'} out."
            )


def _by_name(spec: object) -> dict[str, Any]:
    if spec is None:
        return {}
    if isinstance(spec, Tensor):
        return {OBJECT: spec}
    if isinstance(spec, Mapping):
        return dict(spec)
    if isinstance(spec, (list, tuple)) and all(isinstance(entry, str) for entry in spec):
        return {entry: entry for entry in spec}
    raise InputError(
        "Expected regions as a mapping from names to regions, such as {'corner': (0, 0, 8, 8)}, a "
        f"list of places, or a tensor of masks or boxes of the object, got {spec!r}."
    )


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not name or name != name.strip() or "/" in name:
        raise InputError(
            "Expected the name of a region to be a text that can stand in a tag, without slashes "
            f"and without spaces at its ends, got {name!r}."
        )


def _checked(name: str, region: object, count: int) -> RegionSpec:
    if isinstance(region, str) and region in PLACES:
        return region
    values = _tensor(region)
    is_boxes = values is not None and values.dim() in (1, 2) and values.shape[-1] == 4
    is_masks = values is not None and values.dim() in (2, 3, 4) and values.numel() > 0
    if values is None or not (is_boxes or is_masks):
        came = repr(region) if values is None else f"shape {tuple(values.shape)}"
        raise InputError(f"Expected the region '{name}' to be {_FORMS}, got {came}.")
    is_one = values.dim() == 1 or (values.dim() == 2 and not is_boxes)
    if not is_one and len(values) not in (1, count):
        raise InputError(
            f"Expected one region '{name}' for all samples or one for each of the {count} samples, "
            f"got {len(values)}."
        )
    if is_boxes and not bool(_has_extent(values.reshape(-1, 4)).any()):
        raise InputError(
            f"Expected the region '{name}' as boxes (left, top, right, bottom) with left < right "
            f"and top < bottom, got {values.tolist()}."
        )
    if not is_boxes and not bool(_inside(values).any()):
        raise InputError(
            f"Expected the region '{name}' to have a pixel inside, but its masks are empty. Masks "
            "are bool, or numbers that are above 0.5 inside."
        )
    return values


def _tensor(region: object) -> Tensor | None:
    if isinstance(region, Tensor):
        return region.detach()
    if isinstance(region, Sequence) and not isinstance(region, str):
        try:
            return torch.tensor(region)
        except (TypeError, ValueError, RuntimeError):
            return None
    return None


def _inside(values: Tensor) -> Tensor:
    return values if values.dtype == torch.bool else values > 0.5


def _boxes(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    left, top, right, bottom = boxes.double().unbind(1)
    rows = torch.arange(size[0], device=boxes.device)
    columns = torch.arange(size[1], device=boxes.device)
    # Pixel i reaches from i to i + 1.
    tall = (rows < bottom[:, None]) & (rows + 1 > top[:, None])
    wide = (columns < right[:, None]) & (columns + 1 > left[:, None])
    return (tall[:, :, None] & wide[:, None, :] & _has_extent(boxes)[:, None, None])[:, None]


def _check_inside(name: str, boxes: Tensor, size: tuple[int, int]) -> None:
    """Raise if boxes reach beyond images of this size; masks of four columns are none."""
    left, top, right, bottom = boxes.double().unbind(1)
    if size[1] == 4:
        return
    beyond = (left < 0) | (top < 0) | (right > size[1]) | (bottom > size[0])
    if bool(beyond.any()):
        number = int(beyond.nonzero()[0])
        which = f"box {number} of " if len(boxes) > 1 else ""
        raise InputError(
            f"Expected {which}the region '{name}' inside the images, (left, top, right, bottom) in "
            f"pixels from 0 to {size[1]} across and 0 to {size[0]} down, got "
            f"{boxes[number].tolist()}. Boxes are for the image as the model takes it: scale them "
            "as it was resized."
        )


def _has_extent(boxes: Tensor) -> Tensor:
    return (boxes[:, 0] < boxes[:, 2]) & (boxes[:, 1] < boxes[:, 3])


def _place(name: str, size: tuple[int, int]) -> Tensor:
    mask = torch.zeros(size, dtype=torch.bool)
    height, width = size
    if name == "border":
        frame = max(1, round(0.1 * min(size)))
        mask[:] = True
        mask[frame : height - frame, frame : width - frame] = False
    elif name == "center":
        mask[height // 4 : height - height // 4, width // 4 : width - width // 4] = True
    else:
        tall, wide = math.ceil(height / 4), math.ceil(width / 4)
        rows = slice(0, tall) if name.startswith("top") else slice(height - tall, height)
        columns = slice(0, wide) if name.endswith("left") else slice(width - wide, width)
        mask[rows, columns] = True
    return mask
