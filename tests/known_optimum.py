"""Scores of a picture's parts for which the best mask of each area is known.

Pictures are white, 48 x 48 pixels, and masks fade them to black; so a picture is its mask. Most
scores are 10 for the whole picture. They depend on how much is seen of one or two parts of it, so
that the best mask of an area is found by counting.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lightning_saliency.attribution.mask_search.rewards import Variant

SIDE = 48
AREAS = (0.02, 0.05, 0.1, 0.2)


@dataclass(frozen=True, eq=False)
class KnownScore:
    """A score, the second of three logits: 0, the score, and a rival's.

    Attributes:
        name: of the score.
        weights: (R, 48, 48), of the pixels in each of the parts; their sum over the pixels that are
            seen is how much is seen of the part.
        score: the score (N,) for the shares (N, R).
        optimum: the largest reward of a mask with so many pixels.
        variant: whether it is kept or deleted.
        rival: the part whose share, times 10, is another class's logit; None for none.
    """

    name: str
    weights: Tensor
    score: Callable[[Tensor], Tensor]
    optimum: Callable[[KnownScore, int], float]
    variant: Variant = "preserve"
    rival: int | None = None

    def model(self) -> nn.Module:
        """Return the score as a model."""
        return _Model(self)

    def logits(self, pictures: Tensor) -> Tensor:
        """Return the logits (N, 3) of pictures (N, 1, 48, 48)."""
        weights = self.weights.to(pictures.dtype)
        shares = torch.einsum("nyx,ryx->nr", pictures[:, 0], weights)
        score = self.score(shares)
        other = torch.zeros_like(score) if self.rival is None else 10 * shares[:, self.rival]
        return torch.stack([torch.zeros_like(score), score, other], 1)

    def reward(self, masks: Tensor) -> Tensor:
        """Return the rewards (N,) of masks (N, 48, 48)."""
        seen = 1 - masks if self.variant == "delete" else masks
        logits = self.logits(seen[:, None])
        lead = logits[:, 1]
        if self.rival is not None:
            lead = lead - logits[:, ::2].amax(1)
        return -lead if self.variant == "delete" else lead

    def share(self, mask: Tensor, area: float) -> float:
        """Return how much of the way from no mask to the best one a mask (48, 48) goes."""
        empty = float(self.reward(torch.zeros_like(mask)[None]))
        best = self.optimum(self, round(area * mask.numel()))
        return (float(self.reward(mask[None])) - empty) / (best - empty)


def picture() -> Tensor:
    """Return the picture (1, 1, 48, 48)."""
    return torch.ones(1, 1, SIDE, SIDE)


def cut(masks: Tensor, area: float) -> Tensor:
    """Return masks (..., 48, 48) that are 1 at their largest pixels, as many as the area has."""
    flat = masks.flatten(-2)
    chosen = flat.topk(round(area * flat.shape[-1])).indices
    return torch.zeros_like(flat).scatter(-1, chosen, 1.0).view_as(masks)


class _Model(nn.Module):
    def __init__(self, score: KnownScore) -> None:
        super().__init__()
        self._score = score

    def forward(self, pictures: Tensor) -> Tensor:
        return self._score.logits(pictures)


# --- what is best -----------------------------------------------------------------------------


def _largest_weights(score: KnownScore, pixels: int) -> float:
    """Return the optimum of a sum over pixels."""
    return float(score.weights.sum(0).flatten().topk(pixels).values.sum())


def _best_counts(score: KnownScore, pixels: int) -> float:
    """Return the optimum over all numbers of pixels of two even, disjoint parts."""
    parts = score.weights > 0
    sizes = parts.sum((1, 2))
    first = torch.arange(min(int(sizes[0]), pixels) + 1)
    second = (pixels - first).clamp(max=int(sizes[1]))
    # Pixels of one part stand for each other.
    orders = [part.flatten().nonzero()[:, 0] for part in parts]
    masks = torch.zeros(len(first), SIDE * SIDE)
    for mask, some, others in zip(masks, first.tolist(), second.tolist(), strict=True):
        mask[orders[0][:some]] = 1
        mask[orders[1][:others]] = 1
    return float(score.reward(masks.view(-1, SIDE, SIDE)).max())


# --- the scores -------------------------------------------------------------------------------


def _rectangle(top: int, left: int, height: int, width: int) -> Tensor:
    mask = torch.zeros(SIDE, SIDE)
    mask[top : top + height, left : left + width] = 1
    return mask


def _rows(*masks: Tensor) -> Tensor:
    stacked = torch.stack(masks)
    return stacked / stacked.sum((1, 2), keepdim=True)


def _sum(name: str, weights: Tensor) -> KnownScore:
    return KnownScore(name, weights, lambda shares: shares.sum(1), _largest_weights)


def _smooth_noise(width: float, seed: int) -> Tensor:
    noise = torch.randn(SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
    frequency = torch.fft.fftfreq(SIDE)
    smooth = torch.exp(-2 * (torch.pi * width) ** 2 * frequency.square())
    return torch.fft.ifft2(torch.fft.fft2(noise) * smooth[:, None] * smooth).real


def _sharp(shares: Tensor) -> Tensor:
    return torch.sigmoid((shares - 0.5) / 0.1) / torch.sigmoid(torch.tensor(5.0))


_LINE = torch.arange(SIDE) + 0.5
_DISTANCE = (_LINE[:, None] - 20).square() + (_LINE - 28).square()
_RADIUS = ((_LINE[:, None] - 24).square() + (_LINE - 24).square()).sqrt()
_RING = ((_RADIUS > 11) & (_RADIUS < 15)).float()
_BORDER = 1 - torch.nn.functional.pad(torch.ones(SIDE - 4, SIDE - 4), (2, 2, 2, 2))
_FIELD = _smooth_noise(3.0, 0)
_SQUARES = _rows(_rectangle(6, 6, 10, 10), _rectangle(28, 32, 10, 10))
_PARTS = _rows(_rectangle(8, 20, 9, 9), _rectangle(32, 20, 9, 9))
_AND = KnownScore("AND, product", _SQUARES, lambda shares: 10 * shares.prod(1), _best_counts)
_OR = replace(_AND, name="OR", score=lambda shares: 10 * shares.amax(1))

SCORES: tuple[KnownScore, ...] = (
    _sum("linear", 10 * _rows(torch.exp(-_DISTANCE / (2 * 6.0**2)))),
    _sum("random field", 10 * _FIELD[None] / _FIELD.clamp(min=0).sum()),
    _AND,
    replace(_AND, name="AND, sharp", score=lambda shares: 10 * _sharp(shares).prod(1)),
    replace(_AND, name="AND, min", score=lambda shares: 10 * shares.amin(1)),
    replace(
        _AND, name="two parts", weights=_PARTS, score=lambda shares: 10 * _sharp(shares).prod(1)
    ),
    _OR,
    _sum("2 px bar", 10 * _rows(_rectangle(23, 12, 2, 24))),
    _sum("ring", 10 * _rows(_RING)),
    _sum("corner", 10 * _rows(_rectangle(0, 36, 12, 12))),
    _sum("border", 10 * _rows(_BORDER)),
    _sum(
        "helps and hurts",
        10 * _rows(_rectangle(16, 12, 12, 12), _rectangle(16, 24, 12, 12))
        * torch.tensor([1.0, -1.0])[:, None, None],
    ),
    _sum("two scales", 5 * _rows(_rectangle(8, 8, 4, 4), _rectangle(24, 22, 20, 20))),
    replace(_OR, name="delete, OR", variant="delete"),
    replace(_AND, name="delete, AND", variant="delete"),
    KnownScore(
        "contrastive",
        _rows(_rectangle(10, 10, 12, 12), _rectangle(26, 26, 12, 12)),
        lambda shares: 10 * shares[:, 0],
        lambda _, pixels: 10 * min(1, pixels / 144),
        rival=1,
    ),
)  # fmt: skip


def pairs() -> list[tuple[KnownScore, float]]:
    """Return the scores and areas; not those for which hardly anything can be reached."""
    return [
        (score, area)
        for score in SCORES
        for area in AREAS
        if score.optimum(score, round(area * SIDE * SIDE))
        - float(score.reward(torch.zeros(1, SIDE, SIDE)))
        > 0.5
    ]
