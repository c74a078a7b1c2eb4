"""The comparison of two runs: numbers, table and figure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from lightning_saliency.metrics.map_similarity import MEASURES, RANKING, SIMILARITIES
from lightning_saliency.rendering import color_scale, heatmap, overlay
from lightning_saliency.rendering.colors import ColorScale

_COLUMNS = (*MEASURES, "disagree", "degenerate_frac")
_SHOWN = 4


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
        return "\n".join(lines)

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
