"""The picture of a comparison of two runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from lightning_saliency.rendering import color_scale, heatmap, overlay
from lightning_saliency.rendering.scale import ColorScale

if TYPE_CHECKING:
    from lightning_saliency.history.compare import Comparison

__all__ = ["draw"]

_SHOWN = 4
_CURVES = {"top10_iou": "C0", "spearman": "C1", "ssim": "C2"}


def draw(comparison: Comparison) -> Figure:
    """Draw the similarity of the two runs over the epochs, and the samples that differ most.

    Args:
        comparison: what is drawn.

    Returns:
        A figure of matplotlib.
    """
    worst = comparison.per_sample["top10_iou"][-1].nan_to_num(torch.inf).argsort()[:_SHOWN].tolist()
    # Without pyplot: no window, no global state.
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    parts: Any = figure.subfigures(1, 2, width_ratios=(1.15, 1))
    left, right = parts
    _draw_curves(left.subplots(2, 1, sharex=True, height_ratios=(3, 1)), comparison)
    axes = right.subplots(3, len(worst), squeeze=False)
    right.suptitle(f"epoch {int(comparison.epochs[-1])}, most different samples", fontsize=10)
    for column, rows in zip(range(len(worst)), _cells(comparison, worst), strict=True):
        for row, picture in enumerate(rows):
            axes[row, column].imshow(picture.permute(1, 2, 0).numpy(), interpolation="nearest")
            axes[row, column].set(xticks=[], yticks=[])
        overlap = float(comparison.per_sample["top10_iou"][-1, worst[column]])
        name = comparison.sample_ids[worst[column]]
        axes[0, column].set_title(f"sample {name}\noverlap {overlap:.2f}", fontsize=8)
    for row, name in enumerate(("image", *comparison.names)):
        axes[row, 0].set_ylabel(_short(name), fontsize=8)
    return figure


def _draw_curves(axes: Any, comparison: Comparison) -> None:
    above, below = axes
    epochs = comparison.epochs.tolist()
    for name, color in _CURVES.items():
        above.plot(epochs, comparison.table[name], marker=".", color=color, label=name)
        above.axhline(comparison.chance[name], color=color, linestyle=":", linewidth=1)
    above.set(ylim=(min(-0.1, *above.get_ylim()), 1.05), ylabel="1 = the same maps")
    above.legend(fontsize=8, title="dotted: maps of other samples", title_fontsize=7)
    above.set_title(
        f"{comparison.series}: {comparison.names[1]} beside {comparison.names[0]}", fontsize=10
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
