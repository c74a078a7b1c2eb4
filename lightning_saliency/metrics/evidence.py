"""Evidence: how much of what supports a score each part of a picture holds, measured by removal.

A picture is scored as it is, and again without each of its parts: without each cell of a coarse
grid, or without each kind of content (fine detail, ..., the overall level). What the score loses is
the part's evidence, and its share of all losses is free of the scale of the logits and of the size
of the picture. No map and no gradient is needed.

A gain of one part's share between two times says that the network has come to depend more on it,
which maps can fail to show: where a shortcut joins evidence that remains valid, they hardly move.

What one cannot see: parts that the samples do not show, that have been in use from the start, or
that move from sample to sample; one of two redundant parts of which either suffices, because
removing one alone costs nothing; and that a picture without a part is itself an unusual picture.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_saliency.errors import InputError
from lightning_saliency.image.saliency_map import check_maps

# Exact up to so many samples (2^12 sign patterns), then drawn.
_EXACT = 12
_DRAWN = 4096


def log_odds(logits: Tensor, target: Tensor) -> Tensor:
    """Return the logarithm of the odds of a class: its logit minus logsumexp of the others.

    It is log(p / (1 - p)) for the softmax probability p, and does not saturate with it.

    Args:
        logits: (N, classes), at least two classes; computed in float32 at least.
        target: (N,), int64, the classes.

    Returns:
        (N,), float32 at least.

    Raises:
        InputError: there are not at least two classes, or not one target for each row.

    Example:
        >>> import torch
        >>> log_odds(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
        tensor([2.])
    """
    if logits.dim() != 2 or logits.shape[1] < 2 or target.shape != logits.shape[:1]:
        raise InputError(
            "Expected logits (N, classes) of at least two classes and one target for each row, got "
            f"{tuple(logits.shape)} and {tuple(target.shape)}."
        )
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    own = logits.gather(1, target[:, None])
    return own[:, 0] - logits.scatter(1, target[:, None], -math.inf).logsumexp(1)


def evidence_shares(clean: Tensor, without: Tensor) -> Tensor:
    """Return each part's share of what the score loses when one part is removed at a time.

    max(0, clean - without) for each part, divided by the sum over the parts.

    Args:
        clean: (N,), the scores of the pictures as they are.
        without: (N, J), the scores without each of J parts.

    Returns:
        (N, J), in [0, 1], each row with the sum 1; NaN in rows in which nothing is lost, or a score
        is not finite.

    Raises:
        InputError: the shapes do not fit.

    Example:
        >>> import torch
        >>> evidence_shares(torch.tensor([3.0]), torch.tensor([[0.0, 2.0, 5.0]]))
        tensor([[0.7500, 0.2500, 0.0000]])
    """
    if without.dim() != 2 or not without.shape[1] or clean.shape != without.shape[:1]:
        raise InputError(
            "Expected one clean score for each picture (N,) and its scores without each part "
            f"(N, parts), got {tuple(clean.shape)} and {tuple(without.shape)}."
        )
    lost = (clean[:, None] - without).clamp_min(0)
    total = lost.sum(1, keepdim=True)
    counts = without.isfinite().all(1, keepdim=True) & clean[:, None].isfinite() & (total > 0)
    return (lost / total).where(counts, torch.nan)


def prediction_information(probability: Tensor) -> Tensor:
    """Return how much the predictions tell pictures apart, as a share of all that can be told.

    It is the mutual information between the picture and its class as the model predicts it: the
    entropy of the mean prediction minus the mean entropy of the predictions (Bridle, Heading,
    MacKay. Unsupervised classifiers, mutual information and "phantom targets". NeurIPS 1991),
    divided by log(min(N, classes)). No labels are needed. It is 0 for a model that says the same of
    all pictures, as one does that knows nothing yet, and for one that is sure of nothing.

    Args:
        probability: (N, classes), each row with the sum 1; N and classes at least 2.

    Returns:
        A scalar in [0, 1]; NaN if a probability is.

    Raises:
        InputError: the shape is another one.

    Example:
        >>> import torch
        >>> prediction_information(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        tensor(1.)
        >>> prediction_information(torch.tensor([[0.9, 0.1], [0.9, 0.1]]))
        tensor(0.)
    """
    if probability.dim() != 2 or min(probability.shape) < 2:
        raise InputError(
            "Expected probabilities (N, classes) of at least two pictures and classes, got "
            f"{tuple(probability.shape)}."
        )
    together = torch.special.entr(probability.mean(0)).sum()
    alone = torch.special.entr(probability).sum(1).mean()
    found: Tensor = (together - alone) / math.log(min(probability.shape))
    return found.clamp(0, 1)


def mean_of_probes(shares: list[Tensor]) -> Tensor:
    """Return the mean over several ways of removing, where at least one has found something.

    Args:
        shares: tables (N, J) of :func:`evidence_shares`, at least one.

    Returns:
        (N, J), NaN in rows that are NaN in all tables.
    """
    return torch.stack(shares).nanmean(0)


def evidence_gain(before: Tensor, now: Tensor) -> Tensor:
    """Return the largest rise of one part's share between two profiles.

    Args:
        before: (J,), mean shares.
        now: (J,), of the same parts.

    Returns:
        A scalar in [0, 1]; NaN if one of the profiles is.

    Raises:
        InputError: the shapes differ.
    """
    _check_profiles(before, now)
    return (now - before).max()


def evidence_moved(before: Tensor, now: Tensor) -> Tensor:
    """Return how much of the evidence has changed its place: half the sum of the differences.

    Args:
        before: (J,), mean shares.
        now: (J,), of the same parts.

    Returns:
        A scalar in [0, 1]; NaN if one of the profiles is.

    Raises:
        InputError: the shapes differ.
    """
    _check_profiles(before, now)
    return (now - before).abs().sum() / 2


def gained_cells(gain: Tensor) -> Tensor:
    """Return the place that has gained: the cell with the largest gain and what hangs on to it.

    Cells belong to it if they have gained at least half as much, and touch it, at a corner too.

    Args:
        gain: (G, G), of each cell; the largest above 0.

    Returns:
        (G, G), bool.

    Raises:
        InputError: it is no square.
    """
    if gain.dim() != 2 or gain.shape[0] != gain.shape[1] or not gain.numel():
        raise InputError(f"Expected the gains of a grid (G, G), got {tuple(gain.shape)}.")
    candidates = gain >= gain.max() / 2
    place = gain == gain.max()
    for _ in range(gain.numel()):
        grown = torch.nn.functional.max_pool2d(place.float()[None, None], 3, 1, 1)[0, 0] > 0
        grown &= candidates
        if bool((grown == place).all()):
            break
        place = grown
    return place


def sign_flip_test(differences: Tensor) -> float:
    """Return how probable a mean as large as this one is if each difference may have either sign.

    The one-sided randomization test of Fisher. The design of experiments. 1935. Exact for at most
    12 differences; else from 4096 patterns of signs, the same ones in every call. Training changes
    what a network depends on significantly all the time, so a small value is no alarm by itself.

    Args:
        differences: (N,); those that are not finite are left out.

    Returns:
        In (0, 1]; NaN if there is none.
    """
    values = differences[differences.isfinite()].double().cpu()
    if not len(values):
        return math.nan
    if len(values) <= _EXACT:
        codes = torch.arange(2 ** len(values))[:, None] >> torch.arange(len(values))
        signs = 1.0 - 2.0 * (codes & 1).double()
    else:
        generator = torch.Generator().manual_seed(0)
        signs = 1.0 - 2.0 * torch.randint(2, (_DRAWN, len(values)), generator=generator).double()
        # The differences as they are, are one of the patterns.
        signs[0] = 1.0
    found = signs @ values >= values.sum() - 1e-12 * values.abs().sum()
    return float(found.double().mean())


def cell_mass(saliency: Tensor, grid: int) -> Tensor:
    """Return the share of each map's magnitude in each cell of a grid, row by row.

    Args:
        saliency: (N, 1, h, w), floating point, of any size: a pixel that lies in several cells is
            divided among them.
        grid: G cells a side.

    Returns:
        (N, G * G), float32, each row with the sum 1; NaN for maps that are zero or not finite.
    """
    maps = check_maps(saliency).detach().float().abs()
    # The overlap of each cell with each pixel, along one side.
    rows, columns = (_overlap(side, grid).to(maps.device) for side in maps.shape[2:])
    mass = torch.einsum("gh,nhw,kw->ngk", rows, maps[:, 0], columns).flatten(1)
    total = mass.sum(1, keepdim=True)
    return (mass / total).where((total > 0) & total.isfinite(), torch.nan)


def evidence_overlap(saliency: Tensor, shares: Tensor) -> Tensor:
    """Return how much of a map lies where removal matters.

    The sum over the cells of min(the map's share, the evidence's share): 1 if the map is spread
    over the grid as the evidence is, 0 if they have no cell in common. A map that knows nothing,
    the same everywhere, has the sum of min(1 / cells, the evidence's share).

    Args:
        saliency: (N, 1, h, w), floating point; its magnitude counts.
        shares: (N, G * G), the place shares of the same pictures.

    Returns:
        (N,), in [0, 1]; NaN for degenerate maps, and for pictures without evidence.

    Raises:
        InputError: the shapes do not fit.
    """
    grid = math.isqrt(shares.shape[-1])
    if shares.dim() != 2 or grid * grid != shares.shape[1] or len(saliency) != len(shares):
        raise InputError(
            "Expected one row of shares (cells of a square grid) for each map, got "
            f"{tuple(saliency.shape)} and {tuple(shares.shape)}."
        )
    mass = cell_mass(saliency, grid).to(shares)
    return torch.minimum(mass, shares).sum(1)


def _overlap(side: int, grid: int) -> Tensor:
    """Return which part of each pixel lies in each cell along one side, (G, side)."""
    edges = torch.arange(grid + 1, dtype=torch.float64) * side / grid
    pixels = torch.arange(side, dtype=torch.float64)
    low = torch.maximum(edges[:-1, None], pixels)
    high = torch.minimum(edges[1:, None], pixels + 1)
    return (high - low).clamp_min(0).float()


class EvidenceProfile(Metric):
    """Mean share of the evidence that each part holds, over pictures, batches and processes.

    ``update(clean, without)`` takes scores as :func:`evidence_shares` does; ``compute()`` returns
    the mean over the pictures in which something was lost, (J,).

    Args:
        parts: J, how many parts are removed, at least 2.
        kwargs: what every ``torchmetrics.Metric`` takes, for instance ``sync_on_compute``.

    Raises:
        InputError: ``parts`` is below 2.

    Example:
        >>> import torch
        >>> profile = EvidenceProfile(2)
        >>> profile.update(torch.tensor([3.0, 1.0]), torch.tensor([[0.0, 3.0], [0.0, 0.0]]))
        >>> profile.compute()
        tensor([0.7500, 0.2500])
    """

    is_differentiable = False
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, parts: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if isinstance(parts, bool) or not isinstance(parts, int) or parts < 2:
            raise InputError(f"Expected at least 2 parts that are removed, got {parts!r}.")
        self.parts = parts
        self.add_state("total", torch.zeros(parts), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, clean: Tensor, without: Tensor) -> None:
        """Add some pictures.

        Args:
            clean: (N,), the scores of the pictures as they are; N may be 0.
            without: (N, J), the scores without each part.

        Raises:
            InputError: the shapes do not fit.
        """
        shares = evidence_shares(clean, without)
        if shares.shape[1] != self.parts:
            raise InputError(f"Expected scores without {self.parts} parts, got {shares.shape[1]}.")
        self.add(shares)

    def add(self, shares: Tensor) -> None:
        """Add pictures whose shares are known, such as the mean of several ways of removing.

        Args:
            shares: (N, J), of :func:`evidence_shares`; rows with NaN are left out.
        """
        counts = shares.isfinite().all(1)
        self.total = self.total + shares[counts].to(self.total).sum(0)
        self.count = self.count + counts.sum()

    def compute(self) -> Tensor:
        """Return the mean shares (J,), float32; NaN if no picture counts."""
        return self.total / self.count


def _check_profiles(before: Tensor, now: Tensor) -> None:
    if before.dim() != 1 or before.shape != now.shape or not len(now):
        raise InputError(
            f"Expected two profiles (parts,) of the same parts, got {tuple(before.shape)} and "
            f"{tuple(now.shape)}."
        )
