"""The comparison of two runs: numbers, table and figure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from lightning_saliency.errors import InputError
from lightning_saliency.metrics.map_similarity import MEASURES, RANKING, SIMILARITIES
from lightning_saliency.rendering import color_scale, heatmap, overlay
from lightning_saliency.rendering.colors import ColorScale

_COLUMNS = (*MEASURES, "disagree", "degenerate_frac")
_SHOWN = 4
# Standard deviations of the pairs of seeds.
_FACTOR = 3.0


@dataclass(frozen=True)
class NoiseFloor:
    """How much runs of one recipe differ from each other.

    Attributes:
        pairs: how many pairs of runs were compared.
        mean: of all pairs, each (E,), float32, by the names of :attr:`Comparison.table`.
        std: the standard deviations of the pairs, likewise.
    """

    pairs: int
    mean: Mapping[str, Tensor]
    std: Mapping[str, Tensor]


@dataclass(frozen=True)
class Comparison:
    """The maps of one series in two runs, at the epochs that both have.

    ``str()`` gives a table, :meth:`figure` a picture.

    Attributes:
        series: the method, and the choice of class if there were several.
        names: what the two runs are called.
        epochs: (E,), int64.
        table: each (E,), float32, means over the samples: the measures of
            :data:`~lightning_saliency.metrics.MEASURES`, from the second run to the first;
            ``disagree``, the share of samples for which the runs predict different classes;
            ``degenerate_frac``, the share of samples of which one of the maps is constant or not
            finite, which the other means leave out.
        chance: for each measure its value for maps of different samples of the first run, at the
            last of these epochs: the level of unrelated maps.
        per_sample: for each measure (E, N).
        sample_ids: N, as in :class:`~lightning_saliency.history.SavedMaps`.
        maps: of both runs, each (E, N, 1, h, w), as they were compared: at most 64 x 64.
        pictures: (N, 3, H, W), uint8; None if they were not saved.
        floor: how much runs of one recipe differ at these epochs; None without seeds.
    """

    series: str
    names: tuple[str, str]
    epochs: Tensor
    table: Mapping[str, Tensor]
    chance: Mapping[str, float]
    per_sample: Mapping[str, Tensor]
    sample_ids: tuple[int, ...]
    maps: tuple[Tensor, Tensor]
    pictures: Tensor | None
    floor: NoiseFloor | None = None

    def at_epochs(self, epochs: Sequence[int]) -> "Comparison":
        """Return the comparison at some of its epochs.

        Args:
            epochs: in their order, each one of :attr:`epochs`.
        """
        have = self.epochs.tolist()
        rows = [have.index(epoch) for epoch in epochs]
        return replace(
            self,
            epochs=self.epochs[rows],
            table={name: values[rows] for name, values in self.table.items()},
            per_sample={name: values[rows] for name, values in self.per_sample.items()},
            maps=(self.maps[0][rows], self.maps[1][rows]),
        )

    def outside(self, measure: str = RANKING.name, factor: float = _FACTOR) -> Tensor:
        """Return at which epochs the runs differ by more than runs of one recipe do.

        Args:
            measure: a similarity, such as ``"top10_iou"``.
            factor: how many standard deviations of the pairs of seeds below their mean.

        Returns:
            (E,), bool; False also where there are no maps to judge by (the table has NaN).

        Raises:
            InputError: there are no seeds, or ``measure`` is no similarity.
        """
        if self.floor is None or measure not in SIMILARITIES:
            raise InputError(
                "Expected a comparison with seeds, compare(..., seeds=[...]), and a measure of "
                f"{', '.join(SIMILARITIES)}, got {measure!r}"
                + (" without seeds." if self.floor is None else ".")
            )
        least = self.floor.mean[measure] - factor * self.floor.std[measure]
        return self.table[measure] < least

    def __str__(self) -> str:
        """Return a table with a row for each epoch."""
        widths = [max(8, len(name)) for name in _COLUMNS]
        head = "  ".join(name.rjust(width) for name, width in zip(_COLUMNS, widths, strict=True))
        lines = [
            f"{self.series}: {self.names[1]} compared with {self.names[0]}, "
            f"{len(self.sample_ids)} samples",
            f"epoch  {head}",
        ]
        for row, epoch in enumerate(self.epochs.tolist()):
            cells = [f"{float(self.table[name][row]):.3f}" for name in _COLUMNS]
            lines.append(f"{epoch:5d}  " + _aligned(cells, widths))
        apart = [f"{self.chance[name]:.3f}" if name in self.chance else "-" for name in _COLUMNS]
        lines.append("other  " + _aligned(apart, widths))
        lines.append('"other": maps of different samples, the level of unrelated maps.')
        if self.floor is not None:
            for name, values in (("seeds", self.floor.mean), ("+-", self.floor.std)):
                last = [f"{float(values[column][-1]):.3f}" for column in _COLUMNS]
                lines.append(f"{name:>5}  " + _aligned(last, widths))
            lines.append(self.verdict)
        return "\n".join(lines)

    @property
    def verdict(self) -> str:
        """Whether the runs differ by more than runs of one recipe do, in words."""
        floor = self.floor
        if floor is None:
            return "How much runs of one recipe differ is not known: compare with seeds."
        about = (
            f'"seeds": mean and standard deviation of {floor.pairs} pairs of runs of one recipe, '
            "at the last epoch."
        )
        nothing = "There are no maps to judge by: all of a run or a pair are constant."
        return f"{about} {self.judgment or nothing}"

    @property
    def judgment(self) -> str:
        """The verdict alone; empty if there are no seeds, or no maps at the last epoch."""
        floor = self.floor
        if floor is None:
            return ""
        compared = (self.table[RANKING.name], floor.mean[RANKING.name], floor.std[RANKING.name])
        if any(bool(values[-1].isnan()) for values in compared):
            return ""
        outside = self.outside()
        said = "differ by more than" if bool(outside[-1]) else "differ no more than"
        return (
            f"There the runs {said} these, by {RANKING.name} and "
            f"{_FACTOR:g} standard deviations; at {int(outside.sum())} of {len(outside)} epochs "
            "they do."
        )

    def figure(self) -> Figure:
        """Draw the curves, and the samples that differ most at the last epoch.

        Returns:
            A figure of matplotlib; save it with ``savefig``.
        """
        worst = self.per_sample[RANKING.name][-1].nan_to_num(torch.inf).argsort()[:_SHOWN].tolist()
        # Without pyplot: no window, no global state.
        figure = Figure(figsize=(11, 4.2), layout="constrained")
        parts: Any = figure.subfigures(1, 2, width_ratios=(1.15, 1))
        left, right = parts
        _draw_curves(left.subplots(2, 1, sharex=True, height_ratios=(3, 1)), self)
        axes = right.subplots(3, len(worst), squeeze=False)
        right.suptitle(f"epoch {int(self.epochs[-1])}, most different samples", fontsize=10)
        for column, rows in zip(range(len(worst)), _cells(self, worst), strict=True):
            for row, picture in enumerate(rows):
                axes[row, column].imshow(picture.permute(1, 2, 0).numpy(), interpolation="nearest")
                axes[row, column].set(xticks=[], yticks=[])
            overlap = float(self.per_sample[RANKING.name][-1, worst[column]])
            name = self.sample_ids[worst[column]]
            axes[0, column].set_title(f"sample {name}\noverlap {overlap:.2f}", fontsize=8)
        for row, name in enumerate(("image", *self.names)):
            axes[row, 0].set_ylabel(_short(name), fontsize=8)
        return figure


def _draw_curves(axes: Any, comparison: Comparison) -> None:
    above, below = axes
    epochs = comparison.epochs.tolist()
    for number, name in enumerate(SIMILARITIES):
        color = f"C{number}"
        above.plot(epochs, comparison.table[name], marker=".", color=color, label=name)
        above.axhline(comparison.chance[name], color=color, linestyle=":", linewidth=1)
    if comparison.floor is not None:
        mean = comparison.floor.mean[RANKING.name]
        spread = _FACTOR * comparison.floor.std[RANKING.name]
        above.fill_between(epochs, mean - spread, mean + spread, color="0.85", label="seeds")
    above.set(ylim=(min(-0.1, *above.get_ylim()), 1.05), ylabel="1 = the same maps")
    above.legend(fontsize=8, title="dotted: maps of other samples", title_fontsize=7)
    above.set_title(
        f"{comparison.series}: {comparison.names[1]} compared with {comparison.names[0]}",
        fontsize=10,
    )
    above.grid(alpha=0.3)
    below.plot(epochs, comparison.table["disagree"], marker=".", color="0.3")
    below.set(ylim=(-0.05, 1.05), xlabel="epoch", ylabel="other\nprediction")
    below.grid(alpha=0.3)
    below.xaxis.get_major_locator().set_params(integer=True)


def _cells(comparison: Comparison, chosen: list[int]) -> list[list[Tensor]]:
    """Return for each sample its picture and its maps in both runs, as RGB in [0, 1]."""
    pair = [maps[-1, chosen] for maps in comparison.maps]
    scales = [color_scale(maps) or ColorScale() for maps in pair]
    signed = any(bool((maps < 0).any()) for maps in pair)
    heats = [heatmap(maps, scale, signed) for maps, scale in zip(pair, scales, strict=True)]
    if comparison.pictures is None:
        shown = torch.ones(len(chosen), 3, *pair[0].shape[2:])
        laid = [heat.color for heat in heats]
    else:
        shown = comparison.pictures[chosen].float() / 255
        laid = [overlay(shown, heat) for heat in heats]
    size = shown.shape[2:]
    laid = [F.interpolate(one, size=size) if one.shape[2:] != size else one for one in laid]
    return [[shown[index], *(one[index] for one in laid)] for index in range(len(chosen))]


def _short(name: str) -> str:
    return name if len(name) <= 18 else f"{name[:8]}…{name[-9:]}"


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
