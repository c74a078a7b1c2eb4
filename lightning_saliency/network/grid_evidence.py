"""Which layout a layer's output has: the one in which its places lie as in the image.

A layout is right if the centers of the places (:mod:`~lightning_saliency.network.place_probe`) move
down the image with the row and to the right with the column. Layers whose places see nearly all of
the image say nothing of that; they have the layout of the layers before them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lightning_saliency.network.grid import Layout, TokenGrid
from lightning_saliency.network.place_probe import Centers, Probed

SURE = 0.5
"""The least R2 of a fit that counts."""

# Hypotheses that are about as good as the best one; of these, the one with the fewest extra tokens:
# to leave out a whole row of tokens fits as well as to keep it.
_ABOUT_AS_GOOD = 0.05
# Few places follow any line by chance, or where they hardly differ.
_FEWEST_PLACES = 4
_LEAST_SPAN = 0.03
# A fit as good as this against the image's direction is no noise, if there are enough places.
_CONTRADICTION = 0.8
_PLACES_TO_CONTRADICT = 9
# The least correlation of places' centers with those of the layer before, if they are the same.
_SAME_PLACES = 0.5
# The least spread of centers that are those of the layer before, relative to them; mixed ones are
# nearer to the middle.
_SAME_SPREAD = 0.5
# The least fit that tells another layout than the layers before have.
_ANOTHER_LAYOUT = 0.8
# Without proof that extra tokens do not depend on the image: how many there may be at either end,
# and how much better they must make the fit.
_MOST_EXTRAS = 16
_WORTH_EXTRAS = 0.3
# How many of the layers with the same number of tokens are looked at.
_SHARPEST = 2


@dataclass(frozen=True)
class Evidence:
    """How a layer's output is laid out.

    Attributes:
        layout: None if it is none of the known ones.
        grid: (height, width); (0, 0) without a layout.
        fit: R2 of the places' centers, 0 to 1; of an earlier layer, where the layout is taken from
            one.
    """

    layout: Layout | None
    grid: tuple[int, int] = (0, 0)
    fit: float = 0.0


_Pictures = tuple[tuple[str, int, bool], ...]
_PICTURES: _Pictures = (
    ("channels_first", 0, False),
    ("channels_last", 2, False),
    ("channels_first_transposed", 0, True),
    ("channels_last_transposed", 2, True),
)


def find_layouts(probed: Sequence[Probed]) -> dict[str, Evidence]:
    """Return the evidence of all layers.

    Args:
        probed: in the order in which the layers finished.

    Returns:
        By the layers' names, in the same order.
    """
    tokens = {key: _of_tokens(group) for key, group in _by_tokens(probed).items()}
    found: dict[str, Evidence] = {}
    before: Evidence | None = None
    last: Centers | None = None
    for each in probed:
        if each.is_input:
            continue
        if len(each.shape) == 2:
            evidence = tokens[_token_key(each)]
            found[each.name] = evidence if _fits(evidence, each) else Evidence(None)
            continue
        evidence = _of_picture(each)
        if before is not None and (
            evidence.layout is None
            or (evidence.layout != before.layout and evidence.fit < _ANOTHER_LAYOUT)
        ):
            evidence = _inherited(each, before, last)
        elif evidence.layout is None and each.shape[1:] == (1, 1):
            evidence = Evidence("channels_first", (1, 1))
        elif evidence.layout is not None:
            before = evidence
        if evidence.layout is not None:
            last = _centers_in(each, evidence.layout)
        found[each.name] = evidence
    return found


def _of_picture(probed: Probed) -> Evidence:
    best = Evidence(None)
    for layout, channels, transposed in _PICTURES:
        centers = probed.centers[channels]
        if transposed:
            centers = centers.swapaxes(1, 2)
        height, width = centers.shape[1:]
        fit = _fit_of(centers)
        if height * width > 1 and fit > max(SURE, best.fit):
            best = Evidence(layout, (height, width), fit)  # type: ignore[arg-type]
    return best


def _inherited(probed: Probed, before: Evidence, last: Centers | None) -> Evidence:
    """Return the layout of the last layer that had a sure one, if it can be this one's, too.

    ``last`` are the centers of the last layer that had that layout for sure or from another.
    """
    centers = _centers_in(probed, before.layout)
    if centers is None:
        return Evidence(None)
    height, width = centers.shape[1:]
    is_coarser = height <= before.grid[0] and width <= before.grid[1]
    # Rounding makes up for at most one place.
    scale = max(height / before.grid[0], width / before.grid[1])
    in_step = all(
        abs(n - scale * full) <= 1.01 for n, full in zip((height, width), before.grid, strict=True)
    )
    if not is_coarser or not in_step or _contradicts(centers) or _rearranges(centers, last):
        return Evidence(None)
    return Evidence(before.layout, (height, width), before.fit)


def _centers_in(probed: Probed, layout: Layout | None) -> Centers | None:
    for name, channels, transposed in _PICTURES:
        if name == layout:
            centers = probed.centers[channels]
            return centers.swapaxes(1, 2) if transposed else centers
    return None


def _rearranges(centers: Centers, last: Centers | None) -> bool:
    """Whether places lie where other places of the layer before do, as after an unfolding.

    Only of as many places as that layer has, whose centers do not move much from layer to layer;
    and only if both layers' places lie somewhere, not by the chance of the noise.
    """
    if last is None or last.shape != centers.shape or centers[0].size < _PLACES_TO_CONTRADICT:
        return False
    if _fit_of(last) <= SURE or _spread_of(centers) < _SAME_SPREAD * _spread_of(last):
        return False
    return any(
        place.shape[axis] > 1 and _correlation(place, other) < _SAME_PLACES
        for axis, (place, other) in enumerate(zip(centers[1:], last[1:], strict=True))
    )


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    there = np.isfinite(a) & np.isfinite(b)
    if not there.any():
        return 1.0
    x, y = a[there] - a[there].mean(), b[there] - b[there].mean()
    size = float(np.sqrt((x @ x) * (y @ y)))
    # Places that all see the same lie nowhere, so they contradict nothing.
    return float(x @ y) / size if size > 0 else 1.0


def _fits(evidence: Evidence, probed: Probed) -> bool:
    layout = evidence.layout
    if not isinstance(layout, TokenGrid):
        return False
    tokens = probed.shape[1 if layout.order == "NKT" else 0]
    return tokens == layout.before + layout.height * layout.width + layout.after


def _token_key(probed: Probed) -> tuple[int, ...]:
    return (probed.batch_axis, probed.shape[0])


def _by_tokens(probed: Iterable[Probed]) -> dict[tuple[int, ...], list[Probed]]:
    groups: dict[tuple[int, ...], list[Probed]] = {}
    for each in probed:
        if len(each.shape) == 2:
            groups.setdefault(_token_key(each), []).append(each)
    return groups


def _of_tokens(group: Sequence[Probed]) -> Evidence:
    """Return the layout of all layers with the same number of tokens, where it shows best."""
    order: Literal["NTK", "TNK"] = "NTK" if group[0].batch_axis == 0 else "TNK"
    first = _best_grid(group[0].centers[1], order)
    # What does not depend on the image where tokens are put together is no place for sure.
    if first.layout is not None and _silent_ends(group[0].centers[1]) != (0, 0):
        return first
    sharp = sorted(group, key=lambda each: -_spread_of(each.centers[1]))[:_SHARPEST]
    found = [first, *(_best_grid(each.centers[1], order) for each in sharp)]
    if order == "NTK":
        # Channels before places: (N, K, T), as convolutions over a sequence put them.
        columns = max(group, key=lambda each: _spread_of(each.centers[0]))
        found.append(_best_of(columns.centers[0], "NKT", [(0, 0)]))
    return max(found, key=lambda evidence: evidence.fit)


def _silent_ends(centers: Centers) -> tuple[int, int]:
    """Return how many tokens at the front and at the end do not depend on the image."""
    answers = np.flatnonzero(np.isfinite(centers[1]))
    if not len(answers):
        return 0, 0
    return int(answers[0]), int(centers.shape[1] - 1 - answers[-1])


def _best_grid(centers: Centers, order: Literal["NTK", "TNK"]) -> Evidence:
    silent = _silent_ends(centers)
    if silent != (0, 0):
        return _best_of(centers, order, [silent])
    count = centers.shape[1]
    ends = range(min(_MOST_EXTRAS, count) + 1)
    extras = [(f, b) for f in ends for b in ends if 0 < 3 * (f + b) <= 2 * count]
    without = _best_of(centers, order, [(0, 0)])
    if without.fit >= 1 - _WORTH_EXTRAS:
        return without
    best = _best_of(centers, order, sorted(extras, key=sum))
    return best if best.fit >= max(without.fit, SURE) + _WORTH_EXTRAS else without


def _best_of(
    centers: Centers, order: Literal["NTK", "NKT", "TNK"], extras: Iterable[tuple[int, int]]
) -> Evidence:
    """Return the best grid; ``extras`` are the tokens before and after it, the fewest first."""
    count = centers.shape[1]
    found: list[tuple[float, TokenGrid]] = []
    for before, after in extras:
        places = centers[:, before : count - after]
        for height, width in _divisors(places.shape[1]):
            fit = _fit_of(places.reshape(3, height, width))
            if fit > SURE:
                found.append((fit, TokenGrid(height, width, before, after, order)))
        # No other is better by so much that it would be taken.
        if found and max(fit for fit, _ in found) >= 1 - _ABOUT_AS_GOOD:
            break
    if not found:
        return Evidence(None)
    least = max(fit for fit, _ in found) - _ABOUT_AS_GOOD
    fit, grid = min(
        ((fit, grid) for fit, grid in found if fit >= least),
        key=lambda entry: (entry[1].before + entry[1].after, -entry[0]),
    )
    return Evidence(grid, (grid.height, grid.width), fit)


def _divisors(places: int) -> Iterator[tuple[int, int]]:
    if places >= _FEWEST_PLACES:
        for height in range(1, places + 1):
            if places % height == 0:
                yield height, places // height


def _fit_of(centers: Centers) -> float:
    """Return how well places lie as in the image, R2 from 0 to 1; the worst of rows, columns, both.

    Args:
        centers: (3, height, width).
    """
    _, rows, columns = centers
    height, width = rows.shape
    down = _line(rows, np.arange(height)[:, None])
    right = _line(columns, np.arange(width)[None, :])
    fits = [line.fit for line, places in ((down, height), (right, width)) if places > 1]
    if not fits or min(fits) <= 0:
        return 0.0
    total = down.total + right.total
    return float(min(*fits, (down.explained + right.explained) / total)) if total > 0 else 0.0


def _contradicts(centers: Centers) -> bool:
    _, rows, columns = centers
    down = _line(rows, np.arange(rows.shape[0])[:, None])
    right = _line(columns, np.arange(rows.shape[1])[None, :])
    return rows.size >= _PLACES_TO_CONTRADICT and any(
        line.total > 0 and not line.is_rising and line.explained > _CONTRADICTION * line.total
        for line in (down, right)
    )


def _spread_of(centers: Centers) -> float:
    """Return how far apart the places' centers lie, as a standard deviation in image sides.

    Args:
        centers: (3, ...).
    """
    there = np.isfinite(centers[1]) & np.isfinite(centers[2])
    if not there.any():
        return 0.0
    return float(np.sqrt(centers[1][there].var() + centers[2][there].var()))


@dataclass(frozen=True)
class _Line:
    """The fit of a line: explained and total sum of squares."""

    explained: float
    total: float
    is_rising: bool

    @property
    def fit(self) -> float:
        return self.explained / self.total if self.is_rising and self.total > 0 else 0.0


def _line(values: NDArray[np.float64], index: NDArray[np.int64]) -> _Line:
    there = np.isfinite(values)
    count = int(there.sum())
    if count < 2:
        return _Line(0.0, 0.0, False)
    index = np.broadcast_to(index, values.shape)[there].astype(float)
    values = values[there]
    x, y = index - index.mean(), values - values.mean()
    squares, total = float(x @ x), float(y @ y)
    if squares == 0:
        return _Line(0.0, total, False)
    slope = float(x @ y) / squares
    is_rising = slope * float(np.ptp(index)) > _LEAST_SPAN
    return _Line(slope * float(x @ y), total, is_rising)
