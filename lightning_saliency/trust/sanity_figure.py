"""A picture of sanity checks: what becomes of a map, and the numbers right beneath it."""

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from lightning_saliency.errors import InputError
from lightning_saliency.trust.sanity import SANITY_MEASURES, SanityCheck
from lightning_saliency.trust.verdicts import VERDICTS

_CELL = 1.15  # inches
_CURVES = 1.7  # the height of the curves, in cells
_COLOURS = {"spearman": "#0072b2", "ssim": "#d55e00", "top10_iou": "#009e73"}
_NAMES = {"spearman": "Spearman", "ssim": "SSIM", "top10_iou": "top-10 % IoU"}
_HEADS = {
    "cascading": "Similarity to the trained map. Random: all layers from the last to the one named",
    "independent": "Similarity to the trained map. Random: only the layer named, or from it up to "
    "the next",
}
# Of a layer's name, that fit above a map.
_MOST_LETTERS = 17
# Columns before the first stage: the picture and the trained model's map.
_BEFORE = 2


def sanity_figure(
    checks: Sequence[SanityCheck], picture: Tensor | None = None, method: str = "", sample: int = 0
) -> Figure:
    """Draw sanity checks of one method beneath each other.

    Each has a row of maps, the trained model's and those of each stage, and beneath them the
    similarities to the first one, means over all images. A faithful method's fall towards the gray
    line, which is where unrelated maps are. Each map is drawn in a scale of its own: random weights
    change the size of the maps as well, which is not the question.

    Args:
        checks: of the same images, for instance one of each order.
        picture: (3, H, W) or (1, H, W), in [0, 1], shown before the maps; None for none.
        method: its name, as in the tags; what is published of it is added.
        sample: which image's maps are shown.

    Returns:
        A figure of matplotlib, without pyplot.

    Raises:
        InputError: there is no check, or no such sample.
    """
    if not checks:
        raise InputError("Expected at least one sanity check to draw, got none.")
    if not all(-len(check.maps) <= sample < len(check.maps) for check in checks):
        raise InputError(f"Expected a sample from 0 to {len(checks[0].maps) - 1}, got {sample}.")
    columns = _BEFORE + max(len(check.stages) for check in checks)
    blocks = len(checks)
    size = (columns * _CELL + 0.6, blocks * (1 + _CURVES + 0.6) * _CELL + 0.4)
    figure = Figure(figsize=size, dpi=100)
    places = figure.add_gridspec(
        2 * blocks,
        columns,
        height_ratios=[1, _CURVES] * blocks,
        left=0.01,
        right=0.99,
        top=1 - 0.6 / size[1],
        bottom=0.4 / size[1],
        hspace=0.3,
        wspace=0.05,
    )
    figure.suptitle(_title(method), fontsize=11, y=1 - 0.1 / size[1], va="top")
    for block, check in enumerate(checks):
        _draw_maps(figure, places, 2 * block, check, picture, sample)
        axes = figure.add_subplot(places[2 * block + 1, _BEFORE - 1 : _BEFORE + len(check.stages)])
        _draw_curves(axes, check, is_last=block == blocks - 1)
    return figure


def figure_pixels(figure: Figure) -> Tensor:
    """Return a figure as a picture for a logger.

    Args:
        figure: of matplotlib.

    Returns:
        (3, height, width), uint8.
    """
    # Typed so because matplotlib says nothing of its types here.
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = torch.frombuffer(bytearray(canvas.buffer_rgba()), dtype=torch.uint8)
    width, height = canvas.get_width_height()
    return pixels.view(height, width, 4)[..., :3].permute(2, 0, 1).contiguous()


def _title(method: str) -> str:
    title = f"Random weights: {method}" if method else "Random weights"
    # With two targets, a callback's tags end with the target.
    verdict = VERDICTS.get(method.partition("/")[0])
    return f"{title}. Published: {verdict}" if verdict else title


def _draw_maps(
    figure: Figure, places: Any, row: int, check: SanityCheck, picture: Tensor | None, sample: int
) -> None:
    if picture is not None:
        axes = figure.add_subplot(places[row, 0])
        axes.imshow(picture.detach().float().cpu().expand(3, -1, -1).permute(1, 2, 0).numpy())
        axes.set_title("input", fontsize=8)
        axes.set_axis_off()
    # Two colors only where there are two signs.
    signed = bool((check.maps[sample] < 0).any())
    titles = ["trained", *(_shortened(label) for label in check.labels)]
    for place, (values, title) in enumerate(zip(check.maps[sample], titles, strict=True)):
        axes = figure.add_subplot(places[row, _BEFORE - 1 + place])
        most = float(values.abs().nan_to_num(0, 0, 0).max()) or 1.0
        colors, least = ("RdBu_r", -most) if signed else ("inferno", 0.0)
        axes.imshow(values.numpy(), cmap=colors, vmin=least, vmax=most)
        axes.set_title(title, fontsize=8)
        axes.set_axis_off()


def _draw_curves(axes: Any, check: SanityCheck, is_last: bool) -> None:
    stages = range(len(check.stages) + 1)
    lowest = -0.05
    for name, means in check.means().items():
        plain = name.removesuffix("_abs")
        style = {"linestyle": "-", "marker": "o"} if name == plain else {"linestyle": ":"}
        label = _NAMES[plain] if name == plain else f"{_NAMES[plain]} of |map|"
        # The trained model's map is its own equal.
        axes.plot(stages, [1.0, *means], color=_COLOURS[plain], label=label, ms=3, **style)
        lowest = min([lowest, *(value - 0.05 for value in means if value == value)])
    axes.axhline(0, color="0.7", lw=0.8, zorder=0)
    axes.set_xlim(-0.5, len(stages) - 0.5)
    axes.set_ylim(lowest, 1.05)
    axes.set_xticks(list(stages), [])
    axes.tick_params(axis="y", labelsize=7)
    axes.set_title(_HEADS[check.order], fontsize=8, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    if is_last:
        count = len(axes.lines) - 1
        axes.legend(
            fontsize=8,
            ncols=max(count, len(SANITY_MEASURES)),
            frameon=False,
            loc="upper center",
            bbox_to_anchor=(0.5, -0.05),
        )


def _shortened(name: str) -> str:
    return name if len(name) <= _MOST_LETTERS else "…" + name[1 - _MOST_LETTERS :]
