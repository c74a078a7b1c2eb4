"""How extremal perturbation searches: one configuration for each preset."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import ExponentialLR

from lightning_saliency.attribution.mask_search.area_constraint import (
    AreaConstraint,
    PenalizedArea,
    ShrinkingArea,
)
from lightning_saliency.attribution.mask_search.rewards import Variant

SearchPreset: TypeAlias = Literal["torchray"]
"""A published search."""

# The lengths are for images of this many pixels, and shrink with them.
_PAPER_SIDE = 224
# Half the paper's: on networks and on scores with a known optimum, such masks keep more of the
# score at the same area, also as judged by another perturbation, and lie on the object about as
# well as wider ones. Where the score is to be deleted they lie on it less; so there two thirds.
_SIGMA = 10.5
_WIDER = {"preserve": 1.0, "delete": 4 / 3, "dual": 4 / 3}
# Narrower kernels would make masks of single pixels.
_LEAST_SIGMA = 3.0
_MAX_BLUR = 20.0


@dataclass(frozen=True)
class MaskScale:
    """Lengths in pixels.

    Attributes:
        step: distance of the points that a mask is made of.
        sigma: radius of the kernel around each.
        max_blur: sigma of the blur where nothing is kept.
    """

    step: int
    sigma: float
    max_blur: float


@dataclass(frozen=True)
class SearchConfig:
    """How the masks are searched for, and what is used by default.

    Attributes:
        max_iter: how many iterations.
        optimizer: makes the optimizer for the grids.
        last_rate: the share of the learning rate that is left in the last iteration; it falls by
            the same factor in each.
        area_constraint: holds the masks to their areas.
        scale: returns the lengths for the shorter side of images, in pixels, and a variant.
        slope_at_one: see :func:`~lightning_saliency.image.perturbation.blend`.
        blur_padding: what the blur meets outside the image.
        blur_truncate: where the blur's kernel ends, in sigmas.
        jitter: moves or mirrors pictures, given the iteration's number, so that masks do not cling
            to single pixels.
        coarse_initialization: whether the search starts from the rewards of coarse masks.
        refined: whether the masks are the best of the last iterations, and larger ones that do
            hardly better than smaller ones are compared with these, grown; else they are those
            that the last step was computed from.
    """

    max_iter: int
    optimizer: Callable[[list[Tensor]], Optimizer]
    last_rate: float
    area_constraint: type[AreaConstraint]
    scale: Callable[[int, Variant], MaskScale]
    slope_at_one: bool
    blur_padding: str
    blur_truncate: float
    jitter: Callable[[int, Tensor], Tensor]
    coarse_initialization: bool
    refined: bool

    def updater(self, grid: Tensor, iterations: int) -> Callable[[Tensor], None]:
        """Return a function that updates a grid in place, given the energy's slope at it.

        Args:
            grid: (B, rows, columns), a leaf that needs a gradient; it stays in [0, 1].
            iterations: how often it will be updated.
        """
        optimizer = self.optimizer([grid])
        rate = ExponentialLR(optimizer, self.last_rate ** (1 / max(1, iterations - 1)))

        def update(slope: Tensor) -> None:
            # The optimizer minimizes.
            grid.grad = -slope
            optimizer.step()
            rate.step()
            with torch.no_grad():
                grid.clamp_(0, 1)

        return update


def _in_proportion(side: int, variant: Variant) -> MaskScale:
    share = side / _PAPER_SIDE
    sigma = max(_LEAST_SIGMA, _SIGMA * share) * _WIDER[variant]
    return MaskScale(step_for(sigma), sigma, _MAX_BLUR * share)


def step_for(sigma: float) -> int:
    """Return the distance of the points of a mask in pixels, at least 1.

    Args:
        sigma: radius of the kernel, in pixels.
    """
    # A float's last digit must not make a third of 12 one less.
    return max(1, int(sigma / 3 + 1e-9))


def _shifted(iteration: int, pictures: Tensor) -> Tensor:
    """Move pictures by up to 1/64 of their size; what leaves them enters on the other side.

    The shifts fill the square evenly (Roberts' sequence), and need no random numbers.
    """
    radius = max(1, round(3.5 * min(pictures.shape[2:]) / _PAPER_SIDE))
    rows, columns = (
        int(iteration * share % 1 * (2 * radius + 1)) - radius for share in (0.754878, 0.569840)
    )
    return pictures.roll((rows, columns), (2, 3))


def _mirrored(iteration: int, pictures: Tensor) -> Tensor:
    """Mirror pictures in even iterations."""
    return pictures.flip(3) if iteration % 2 == 0 else pictures.clone()


CONFIGS: dict[SearchPreset | None, SearchConfig] = {
    None: SearchConfig(
        max_iter=12,
        # The smallest derivatives count, too, whatever the scale of the logits.
        optimizer=lambda grids: Adam(grids, lr=0.1, betas=(0.8, 0.9), eps=1e-16),
        # As the contrast rises, a step of the same length moves more of a mask.
        last_rate=0.25,
        area_constraint=ShrinkingArea,
        scale=_in_proportion,
        slope_at_one=True,
        blur_padding="replicate",
        blur_truncate=3.0,
        jitter=_shifted,
        coarse_initialization=True,
        refined=True,
    ),
    "torchray": SearchConfig(
        max_iter=800,
        optimizer=lambda grids: SGD(grids, lr=0.01, momentum=0.9, dampening=0.9),
        last_rate=1.0,
        area_constraint=PenalizedArea,
        scale=lambda side, variant: MaskScale(7, 21.0, _MAX_BLUR),
        slope_at_one=False,
        blur_padding="constant",
        blur_truncate=4.0,
        jitter=_mirrored,
        coarse_initialization=False,
        refined=False,
    ),
}
