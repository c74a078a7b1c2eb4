"""Pictures of handwritten digits over clutter, with the pixels of each digit known."""

from operator import index as as_index
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.utils.data import Dataset

from lightning_saliency.errors import DependencyError, InputError

Split: TypeAlias = Literal["train", "val"]
"""Which scans: the first of each class to train with, or others to validate with."""

CLASSES = 10
"""The digits 0 to 9."""

# Of each class; every class has at least 174.
_TRAIN_SCANS = 139
_VAL_SCANS = 35


def load_scans(split: Split) -> Tensor:
    """Return the scans of a split, float32 (n, 8, 8) in [0, 1]; scan i shows the digit i % 10.

    Raises:
        DependencyError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DependencyError(
            "Expected scikit-learn, which ships the scanned digits, but it cannot be imported. "
            "Install it: pip install lightning-saliency[demo]"
        ) from error
    digits = load_digits()
    chosen = slice(0, _TRAIN_SCANS) if split == "train" else slice(_TRAIN_SCANS, None)
    count = _TRAIN_SCANS if split == "train" else _VAL_SCANS
    by_class = [digits.images[digits.target == label][chosen][:count] for label in range(CLASSES)]
    scans = np.stack(by_class, axis=1).reshape(-1, 8, 8) / 16
    return torch.from_numpy(scans).float()


def enlarge(scans: Tensor, side: int) -> Tensor:
    """Enlarge scans (n, 8, 8) to opacities (n, side, side) in [0, 1], with an empty border."""
    large = F.interpolate(F.pad(scans, (1, 1, 1, 1))[:, None], size=(side, side), mode="bicubic")
    # Steeper between paper and ink, or the strokes would be blurred as much as enlarged.
    ink = ((large[:, 0] - 0.15) / 0.55).clamp(0, 1)
    return ink * ink * (3 - 2 * ink)


_SMALLEST_SIZE = 32  # pixels; below, the digits have no room for their 8 x 8 pixels

_PATCH = 0.4  # side of the patch of a scan, of the picture's; the digit takes 8 / 10 of the patch
_PIECES = 24
_PIECE_SIDES = (0.2, 0.45)  # of the patch


class ClutteredDigits(Dataset[tuple[Any, ...]]):
    """Scanned digits at random places, over pieces of other scans and noise, in color.

    The scans are the 1,797 of 8 x 8 pixels that scikit-learn ships (``load_digits``; Alpaydin,
    Kaynak. Optical recognition of handwritten digits. UCI machine learning repository, 1998).
    A scan is enlarged smoothly to about a third of the picture's side and lies at a random place,
    fully inside. The clutter has the strokes and the scale of the digits, so that a network has to
    find the whole digit, and a good map lies on it.

    Both splits take equally many scans of each class: ``"train"`` the first 139, ``"val"`` the
    next 35, whatever the seed; the clutter is cut from scans of the same split. The classes take
    turns: the label of item i (of its first digit) is i % 10, so the first ten items show the ten
    classes. Item i shows scan i modulo the number of scans; past the last scan they come again at
    other places, in other colors and over other clutter.

    An item depends on the settings and its index alone, not on ``length`` nor on any global random
    stream, and is the same in every worker process.

    Args:
        split: ``"train"`` (1,390 scans) or ``"val"`` (350 scans, other ones).
        length: number of items; by default one for each scan.
        num_digits: digits in each picture, 1 or 2; two have different classes and do not overlap.
        size: side of the square picture in pixels, at least 32.
        with_mask: whether an item has the mask as its third entry.
        seed: another seed (>= 0) gives other pictures of the same scans.

    Attributes:
        class_names: ``("0", ..., "9")``.

    Raises:
        InputError: a setting is out of its range.
        DependencyError: scikit-learn is not installed.

    An item is a tuple (image, label, mask), without the mask if ``with_mask`` is False:

    * image: float32 (3, size, size) in [0, 1];
    * label: an int, or an int64 tensor (2,) if there are two digits;
    * mask: bool (num_digits, size, size), True on the strokes of each digit, in the labels' order.

    Example:
        >>> image, label, mask = ClutteredDigits("val")[3]
        >>> image.shape, label, mask.shape
        (torch.Size([3, 64, 64]), 3, torch.Size([1, 64, 64]))
    """

    class_names = tuple(str(label) for label in range(CLASSES))

    def __init__(
        self,
        split: Split = "train",
        length: int | None = None,
        *,
        num_digits: int = 1,
        size: int = 64,
        with_mask: bool = True,
        seed: int = 0,
    ) -> None:
        if split not in get_args(Split):
            raise InputError(f"Expected split to be 'train' or 'val', got {split!r}.")
        if type(num_digits) is not int or num_digits not in (1, 2):
            raise InputError(f"Expected num_digits to be 1 or 2, got {num_digits!r}.")
        self.split = split
        self.num_digits = num_digits
        self.size = _at_least("size", size, _SMALLEST_SIZE)
        self.with_mask = with_mask
        self.seed = _at_least("seed", seed, 0)
        self._patches = enlarge(load_scans(split), round(_PATCH * size))
        self._length = len(self._patches) if length is None else _at_least("length", length, 1)

    def __len__(self) -> int:
        """Return the number of items."""
        return self._length

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        """Draw item ``index``; a negative one counts from the end.

        Raises:
            IndexError: there is no such item.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"Expected an index below {len(self)}, got {index}.")
        index = as_index(index) % len(self)
        generator = self._generator(index)
        image = _draw_background(self.size, generator)
        _draw_clutter(image, self._patches, generator)
        labels, mask = self._draw_digits(image, index, generator)
        image = _add_noise(image, generator)
        label = labels[0] if self.num_digits == 1 else torch.tensor(labels)
        return (image, label, mask) if self.with_mask else (image, label)

    def _generator(self, index: int) -> Generator:
        # Hashed, since neighboring seeds and indices must not give related streams.
        entropy = (self.seed, get_args(Split).index(self.split), self.num_digits, index)
        seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
        return Generator().manual_seed(seed)

    def _draw_digits(
        self, image: Tensor, index: int, generator: Generator
    ) -> tuple[list[int], Tensor]:
        scans = [index % len(self._patches)]
        if self.num_digits == 2:
            row = _draw_int(0, len(self._patches) // CLASSES, generator)
            label = (scans[0] + _draw_int(1, CLASSES, generator)) % CLASSES
            scans.append(row * CLASSES + label)
        side = self._patches.shape[-1]
        places = _draw_places(self.num_digits, self.size - side, side, generator)
        mask = torch.zeros(self.num_digits, self.size, self.size, dtype=torch.bool)
        for layer, scan, (top, left) in zip(mask, scans, places, strict=True):
            color = 0.6 + 0.4 * _uniform(3, generator=generator)
            _paste(image, self._patches[scan], top, left, color)
            layer[top : top + side, left : left + side] = self._patches[scan] > 0.5
        return [scan % CLASSES for scan in scans], mask


def _at_least(name: str, value: int, least: int) -> int:
    """Return ``value``, or raise InputError unless it is an int of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"Expected {name} to be an integer of at least {least}, got {value!r}.")
    return value


def _uniform(*shape: int, generator: Generator) -> Tensor:
    """Draw float32 numbers of that shape from [0, 1), whatever the default dtype is."""
    return torch.rand(shape, generator=generator, dtype=torch.float32)


def _draw_int(low: int, high: int, generator: Generator) -> int:
    """Draw an integer from ``low`` to below ``high``."""
    return int(torch.randint(low, high, (), generator=generator))


def _draw_places(count: int, room: int, side: int, generator: Generator) -> list[tuple[int, int]]:
    """Draw (top, left) of one patch, or of two that do not overlap, ``room`` = size - side."""
    if count == 1:
        return [(_draw_int(0, room + 1, generator), _draw_int(0, room + 1, generator))]
    # Along one axis the patches follow each other, along the other they lie anywhere.
    ends = sorted(_draw_int(0, room - side + 1, generator) for _ in range(2))
    along = [ends[0], ends[1] + side]
    if _draw_int(0, 2, generator):
        along.reverse()
    across = [_draw_int(0, room + 1, generator) for _ in range(2)]
    places = list(zip(along, across, strict=True))
    return places if _draw_int(0, 2, generator) else [(left, top) for top, left in places]


def _draw_background(size: int, generator: Generator) -> Tensor:
    """Draw a dark, slowly changing color, float32 (3, size, size)."""
    clouds = 0.35 * _uniform(1, 3, 5, 5, generator=generator)
    return F.interpolate(clouds, size=(size, size), mode="bicubic")[0]


def _draw_clutter(image: Tensor, patches: Tensor, generator: Generator) -> None:
    """Paste rectangles cut from ``patches`` (n, side, side) all over ``image``, in place."""
    size, side = image.shape[-1], patches.shape[-1]
    low, high = (round(fraction * side) for fraction in _PIECE_SIDES)
    sides = torch.randint(low, high + 1, (_PIECES, 2), generator=generator)
    scans = torch.randint(len(patches), (_PIECES,), generator=generator).tolist()
    cut = (_uniform(_PIECES, 2, generator=generator) * (side + 1 - sides)).long().tolist()
    place = (_uniform(_PIECES, 2, generator=generator) * (size + 1 - sides)).long().tolist()
    colors = 0.15 + 0.6 * _uniform(_PIECES, 3, generator=generator)
    for piece, (height, width) in enumerate(sides.tolist()):
        y, x = cut[piece]
        opacity = patches[scans[piece], y : y + height, x : x + width]
        top, left = place[piece]
        _paste(image, opacity, top, left, colors[piece])


def _paste(image: Tensor, opacity: Tensor, top: int, left: int, color: Tensor) -> None:
    """Paint ``color`` (3,) over ``image`` (3, H, W) where ``opacity`` (h, w) says, in place."""
    height, width = opacity.shape
    part = image[:, top : top + height, left : left + width]
    part.lerp_(color[:, None, None].expand_as(part), opacity)


def _add_noise(image: Tensor, generator: Generator) -> Tensor:
    """Add the noise of a camera to ``image`` (3, H, W) and return it within [0, 1]."""
    noise = torch.randn(image.shape, generator=generator, dtype=torch.float32)
    return (image + 0.04 * noise).clamp_(0, 1)
