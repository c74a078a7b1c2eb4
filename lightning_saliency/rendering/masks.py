"""Masks of several areas, and the pixels of the image that they preserve."""

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from lightning_saliency.errors import InputError
from lightning_saliency.rendering.panel import Cell

# Four masks are as wide as the picture of one sample may get.
_IN_A_ROW = 4
_GRAY = 0.5


def mask_rows(
    image: Tensor,
    masks: Tensor,
    areas: Sequence[float],
    scores: Sequence[float],
    deleted: bool = False,
) -> list[list[Cell]]:
    """Return rows of pictures: each mask, and below it the pixels that it preserves.

    Other pixels are gray. A single mask has its pixels next to it.

    Args:
        image: (3, H, W), in [0, 1].
        masks: (A, h, w), in [0, 1]; resized to the image if needed.
        areas: A fractions of the image, written above the masks.
        scores: A class scores, written above the pixels; NaN is left out.
        deleted: whether the masks mark the pixels that are removed instead.

    Raises:
        InputError: there are not as many masks as areas and scores, or one has another shape.
    """
    if masks.dim() != 3 or not len(masks) == len(areas) == len(scores) > 0:
        raise InputError(
            f"Expected masks of shape (A, h, w) with A areas and scores, got {tuple(masks.shape)}, "
            f"{len(areas)} areas and {len(scores)} scores."
        )
    size = (image.shape[1], image.shape[2])
    shown = masks.detach().float().cpu().nan_to_num(0.0)[:, None]
    if tuple(shown.shape[2:]) != size:
        shown = F.interpolate(shown, size=size, mode="bilinear", align_corners=False)
    kept = 1 - shown if deleted else shown
    pictures = image.float().cpu() * kept + _GRAY * (1 - kept)
    above = [
        Cell(one.expand(3, -1, -1), f"area {area:.3g}")
        for one, area in zip(shown, areas, strict=True)
    ]
    below = [Cell(one, _title(score, deleted)) for one, score in zip(pictures, scores, strict=True)]
    if len(masks) == 1:
        return [[*above, *below]]
    rows = []
    for start in range(0, len(masks), _IN_A_ROW):
        rows += [above[start : start + _IN_A_ROW], below[start : start + _IN_A_ROW]]
    return rows


def _title(score: float, deleted: bool) -> str:
    words = "rest" if deleted else "kept"
    return words if math.isnan(score) else f"{words}, p {score:.2f}"
