"""The pointing game: does the largest value of a map lie on the object?

Zhang, Lin, Brandt, Shen, Sclaroff. Top-down neural attention by excitation backprop. ECCV 2016,
arXiv:1608.00507.
"""

from typing import Any, Literal

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_saliency.errors import InputError
from lightning_saliency.image.saliency_map import check_maps, degenerate
from lightning_saliency.metrics.localization import check_regions

_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def largest_point(maps: Tensor) -> Tensor:
    """Return where each map is largest; among equal values the first, row by row.

    In an area where a map saturates this is a corner of the area: smooth such maps first.

    Args:
        maps: (N, 1, H, W), floating point.

    Returns:
        (N, 2), integer: row and column.

    Raises:
        InputError: ``maps`` are no maps.
    """
    check_maps(maps)
    # Half the time of argmax; both take the first of equal values.
    place = maps.detach().flatten(1).max(1).indices
    return torch.stack((place // maps.shape[3], place % maps.shape[3]), dim=1)


def pointing_hit(maps: Tensor, masks: Tensor, tolerance: float = 15) -> Tensor:
    """Return which maps have their largest value on the object or closer to it than ``tolerance``.

    Args:
        maps: (N, 1, H, W), floating point. In the publication they are resized to the original
            image.
        masks: (N, 1, H, W) or (1, 1, H, W), bool: the object.
        tolerance: distance in pixels, >= 0. The largest value hits if its distance to some pixel
            of the object is smaller: with 1 it must be on the object, with 0 nothing hits. 15 is
            meant for photographs of about 500 pixels; scale it with the image.

    Returns:
        (N,), bool. A degenerate map (constant, all zero, not finite) is a miss, and nothing hits an
        empty mask.

    Raises:
        InputError: these are no maps and masks, they do not fit together, or the tolerance is
            negative.
    """
    _check_tolerance(tolerance)
    masks = check_regions(maps, masks)
    return point_hit(largest_point(maps), masks, tolerance) & ~degenerate(maps)


def point_hit(points: Tensor, masks: Tensor, tolerance: float = 15) -> Tensor:
    """Return which points lie on the object or closer to it than ``tolerance``.

    Args:
        points: (N, 2), row and column in pixels of the mask, counted from 0; integer or floating
            point. They may lie outside the mask.
        masks: (N, 1, H, W), bool: the object.
        tolerance: see :func:`pointing_hit`.

    Returns:
        (N,), bool. Nothing hits an empty mask, and a point that is not finite misses.

    Raises:
        InputError: there is not a mask for each point, or the tolerance is negative.
    """
    _check_tolerance(tolerance)
    if not isinstance(points, Tensor) or points.dim() != 2 or points.shape[1] != 2:
        shape = str(tuple(points.shape)) if isinstance(points, Tensor) else type(points).__name__
        raise InputError(f"Expected points as a tensor (N, 2) of rows and columns, got {shape}.")
    count = len(points)
    if not isinstance(masks, Tensor) or masks.dtype != torch.bool or masks.dim() != 4:
        came = masks.dtype if isinstance(masks, Tensor) else type(masks).__name__
        raise InputError(f"Expected masks as a bool tensor ({count}, 1, H, W), got {came}.")
    if masks.shape[:2] != (count, 1) or masks.device != points.device:
        raise InputError(
            f"Expected masks of shape ({count}, 1, H, W) on {points.device}, like the points, got "
            f"{tuple(masks.shape)} on {masks.device}."
        )
    row, column = points[:, 0, None, None], points[:, 1, None, None]
    rows = torch.arange(masks.shape[2], device=masks.device)[:, None]
    columns = torch.arange(masks.shape[3], device=masks.device)
    near = (rows - row) ** 2 + (columns - column) ** 2 < tolerance**2
    return (near & masks[:, 0]).flatten(1).any(1)


class _ClassAccuracy(Metric):
    """Hits and misses of each class; the base of :class:`PointingGame` and its tally."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    hits: Tensor
    misses: Tensor

    def __init__(
        self, num_classes: int, average: Literal["macro", "none"] = "macro", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if num_classes < 1:
            raise InputError(f"Expected num_classes to be at least 1, got {num_classes}.")
        if average not in ("macro", "none"):
            raise InputError(f"Expected average to be 'macro' or 'none', got '{average}'.")
        self.num_classes = num_classes
        self.average = average
        for state in ("hits", "misses"):
            none = torch.zeros(num_classes, dtype=torch.long)
            self.add_state(state, default=none, dist_reduce_fx="sum")

    def compute(self) -> Tensor:
        """Return the accuracy, float32: no dimensions, or (num_classes,) for ``"none"``."""
        accuracy = self.hits / (self.hits + self.misses).clamp_min(1)
        return accuracy.mean() if self.average == "macro" else accuracy

    def _count(self, hits: Tensor, classes: Tensor) -> None:
        self._check_classes(classes, len(hits))
        classes = classes.to(hits.device)
        hit = classes[hits].bincount(minlength=self.num_classes)
        self.hits = self.hits + hit.to(self.hits.device)
        missed = classes[~hits].bincount(minlength=self.num_classes)
        self.misses = self.misses + missed.to(self.misses.device)

    def _check_classes(self, classes: object, count: int) -> None:
        if not isinstance(classes, Tensor) or classes.dtype not in _INTEGERS:
            came = classes.dtype if isinstance(classes, Tensor) else type(classes).__name__
            raise InputError(f"Expected classes as an integer tensor ({count},), got {came}.")
        if classes.shape != (count,):
            raise InputError(
                f"Expected one class for each of {count} maps, got shape {tuple(classes.shape)}."
            )
        outside = classes[(classes < 0) | (classes >= self.num_classes)]
        if len(outside) > 0:
            raise InputError(
                f"Expected classes from 0 to {self.num_classes - 1}, got {int(outside[0])}."
            )


class PointingGame(_ClassAccuracy):
    """Accuracy of pointing at objects, over batches and processes.

    Each class in an image counts once: ``update(maps, masks, classes)`` takes the map that explains
    the class and the mask of all its objects. The accuracy of a class is its hits over its hits and
    misses; a class that never occurred has 0 and counts in the mean, as in the published figures.
    :func:`pointing_hit` defines a hit.

    Args:
        num_classes: number of classes of the dataset.
        tolerance: in pixels, see :func:`pointing_hit`.
        average: ``"macro"`` for the mean over the classes, ``"none"`` for each class.
        kwargs: what every ``torchmetrics.Metric`` takes.

    Attributes:
        hits: (num_classes,), integer.
        misses: (num_classes,), integer.

    Raises:
        InputError: ``num_classes`` is below 1, ``average`` unknown, or the tolerance negative.

    Example:
        >>> import torch
        >>> maps = torch.zeros(2, 1, 8, 8)
        >>> maps[:, :, 2, 2] = 1.0
        >>> masks = torch.zeros(2, 1, 8, 8, dtype=torch.bool)
        >>> masks[0, :, 3:, 3:] = True
        >>> masks[1, :, 6:, 6:] = True
        >>> game = PointingGame(num_classes=2, tolerance=3)
        >>> game.update(maps, masks, torch.tensor([0, 1]))
        >>> game.compute()
        tensor(0.5000)
    """

    def __init__(
        self,
        num_classes: int,
        tolerance: float = 15,
        average: Literal["macro", "none"] = "macro",
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, average, **kwargs)
        _check_tolerance(tolerance)
        self.tolerance = tolerance

    def update(self, maps: Tensor, masks: Tensor, classes: Tensor) -> None:
        """Add a batch.

        Args:
            maps: (N, 1, H, W), floating point, at the size of the masks; N may be 0. Or points
                (N, 2), rows and columns, where there is no map, such as the image's center; see
                :func:`point_hit`.
            masks: (N, 1, H, W), bool: the objects of the class in the image.
            classes: (N,), integer, in [0, num_classes): the class that each map explains.

        Raises:
            InputError: these do not fit together, or a class is out of range.
        """
        points = isinstance(maps, Tensor) and maps.dim() == 2
        self._count((point_hit if points else pointing_hit)(maps, masks, self.tolerance), classes)


class PointingTally(_ClassAccuracy):
    """Accuracy of pointing from hits that are known already, such as those of a file of results.

    Args:
        num_classes: number of classes of the dataset.
        average: see :class:`PointingGame`.
        kwargs: what every ``torchmetrics.Metric`` takes.

    Attributes:
        hits: (num_classes,), integer.
        misses: (num_classes,), integer.

    Raises:
        InputError: ``num_classes`` is below 1, or ``average`` unknown.
    """

    def update(self, hits: Tensor, classes: Tensor) -> None:
        """Add some hits and misses.

        Args:
            hits: (N,), bool; N may be 0.
            classes: (N,), integer, in [0, num_classes).

        Raises:
            InputError: these do not fit together, or a class is out of range.
        """
        if not isinstance(hits, Tensor) or hits.dtype != torch.bool or hits.dim() != 1:
            came = hits.dtype if isinstance(hits, Tensor) else type(hits).__name__
            raise InputError(f"Expected hits as a bool tensor (N,), got {came}.")
        self._count(hits, classes)


def _check_tolerance(tolerance: float) -> None:
    if not tolerance >= 0:
        raise InputError(f"Expected a tolerance of 0 pixels or more, got {tolerance}.")
