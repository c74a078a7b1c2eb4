"""A picture of sanity checks: what becomes of a map, and the numbers right beneath it."""

from collections.abc import Sequence
from textwrap import wrap
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from lightning_saliency.errors import InputError
from lightning_saliency.rendering.canvas import Canvas
from lightning_saliency.rendering.colors import ColorScale
from lightning_saliency.rendering.heatmap import heatmap, overlay
from lightning_saliency.trust.sanity import SANITY_MEASURES, SanityCheck
from lightning_saliency.trust.verdicts import VERDICTS

_CELL = 1.05  # inches
_CURVES = 1.7  # the height of the curves, in cells
_COLORS = {"spearman": "#0072b2", "ssim": "#d55e00", "top10_iou": "#009e73"}
_NAMES = {"spearman": "Spearman", "ssim": "SSIM", "top10_iou": "top-10 % IoU"}
_HEADS = {
    "cascading": "Random: all layers from the last to the one named",
    "independent": "Random: only the layer named, or from it up to the next",
}
# In points: of the title, and of everything else.
_LARGE, _FONT = 11, 9
# Of a layer's name, that fit above a map.
_MOST_LETTERS = 14
# Letters of the title that fit on an inch.
_TITLE_LETTERS = 11.5
# Inches: a line of the title, a line of the legend, and what is above the first row of maps and
# below the last curves besides them.
_TITLE_LINE, _LEGEND_LINE, _ABOVE, _BELOW = 0.2, 0.2, 0.4, 0.65
_DPI = 100
# The legend of the maps' colors, in pixels: its letters, its bar, and all of it.
_LEGEND_FONT, _LEGEND_BAR, _LEGEND_SIZE = 11, 110, (27, 330)
# Columns before the first stage: the picture and the trained model's map.
_BEFORE = 2
# So that the texts have room where there are few stages.
_FEWEST_COLUMNS = 5


def sanity_figure(
    checks: Sequence[SanityCheck], picture: Tensor | None = None, method: str = "", sample: int = 0
) -> Figure:
    """Draw sanity checks of one method beneath each other.

    Each has a row of maps, the trained model's and those of each stage, and beneath them the
    similarities to the first one, means over all images. A faithful method's fall towards the gray
    line, which is where unrelated maps are. The colors are those of all pictures: they say how many
    times its own mean a map is, so that it does not matter that random weights change the size of
    the maps as well, which is not the question.

    Args:
        checks: of the same images, for instance one of each order.
        picture: (3, H, W) or (1, H, W), in [0, 1], shown before the maps and in gray beneath them;
            None for none.
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
    columns = max(_FEWEST_COLUMNS, _BEFORE + max(len(check.stages) for check in checks))
    blocks = len(checks)
    width = columns * _CELL + 0.6
    title = wrap(_title(method), int(width * _TITLE_LETTERS))
    lines = max(len(check.similarity) for check in checks) // len(SANITY_MEASURES)
    above = _ABOVE + len(title) * _TITLE_LINE
    below = _BELOW + lines * _LEGEND_LINE
    height = blocks * (1 + _CURVES + 0.6) * _CELL + above + below - 0.6
    figure = Figure(figsize=(width, height), dpi=_DPI)
    places = figure.add_gridspec(
        2 * blocks,
        columns,
        height_ratios=[1, _CURVES] * blocks,
        left=0.01,
        right=0.99,
        top=1 - above / height,
        bottom=below / height,
        hspace=0.3,
        wspace=0.05,
    )
    figure.suptitle("\n".join(title), fontsize=_LARGE, y=1 - 0.1 / height, va="top")
    curves = []
    for block, check in enumerate(checks):
        _draw_maps(figure, places, 2 * block, check, picture, sample)
        place = places[2 * block + 1, _BEFORE - 1 : _BEFORE + len(check.stages)]
        curves.append(figure.add_subplot(place))
        _draw_curves(curves[-1], check)
    _draw_names(figure, max(curves, key=lambda axes: len(axes.lines)))
    _draw_color_scale(figure, any(_is_signed(check, sample) for check in checks))
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
    heat = heatmap(check.maps[sample][:, None], ColorScale(), _is_signed(check, sample))
    shown = heat.color
    if picture is not None:
        image = picture.detach().float().cpu().expand(3, -1, -1)
        shown = overlay(image.expand(len(heat), -1, -1, -1), heat)
        _draw_picture(figure.add_subplot(places[row, 0]), image, "input")
    titles = ["trained", *(_shortened(label) for label in check.labels)]
    for place, title in enumerate(titles):
        axes = figure.add_subplot(places[row, _BEFORE - 1 + place])
        _draw_picture(axes, shown[place], title)
        if heat.fault[place]:
            axes.text(
                *(0.5, 0.5),
                heat.fault[place],
                transform=axes.transAxes,
                ha="center",
                va="center",
                fontsize=_FONT,
                bbox={"facecolor": "white", "edgecolor": "black", "pad": 2},
            )


def _is_signed(check: SanityCheck, sample: int) -> bool:
    """Two colors only where there are two signs."""
    return bool((check.maps[sample] < 0).any())


def _draw_picture(axes: Any, picture: Tensor, title: str) -> None:
    axes.imshow(picture.permute(1, 2, 0).numpy())
    axes.set_title(title, fontsize=_FONT)
    axes.set_axis_off()


def _draw_color_scale(figure: Figure, signed: bool) -> None:
    """Say at the bottom what the colors of the maps mean."""
    canvas = Canvas(*_LEGEND_SIZE)
    canvas.legend(ColorScale(), signed, 0, 0, _LEGEND_FONT, _LEGEND_BAR)
    width, height = figure.get_size_inches()
    high, wide = (pixels / _DPI for pixels in _LEGEND_SIZE)
    axes = figure.add_axes((0.1 / width, 0.1 / height, wide / width, high / height))
    axes.imshow(canvas.picture().permute(1, 2, 0).numpy())
    axes.set_axis_off()


def _draw_curves(axes: Any, check: SanityCheck) -> None:
    stages = range(len(check.stages) + 1)
    lowest = -0.05
    for name, means in check.means().items():
        plain = name.removesuffix("_abs")
        style = {"linestyle": "-", "marker": "o"} if name == plain else {"linestyle": ":"}
        label = _NAMES[plain] if name == plain else f"{_NAMES[plain]} of |map|"
        # The trained model's map is its own equal.
        axes.plot(stages, [1.0, *means], color=_COLORS[plain], label=label, ms=3, **style)
        lowest = min([lowest, *(value - 0.05 for value in means if value == value)])
    axes.axhline(0, color="0.7", lw=0.8, zorder=0)
    axes.set_xlim(-0.5, len(stages) - 0.5)
    axes.set_ylim(lowest, 1.05)
    axes.set_xticks(list(stages), [])
    axes.tick_params(axis="y", labelsize=_FONT)
    axes.set_ylabel("similarity to\nthe trained map", fontsize=_FONT)
    axes.set_title(_HEADS[check.order], fontsize=_FONT, loc="left")
    axes.spines[["top", "right"]].set_visible(False)


def _draw_names(figure: Figure, axes: Any) -> None:
    """Name the curves below all of them."""
    handles, names = axes.get_legend_handles_labels()
    measures = len(SANITY_MEASURES)
    # Matplotlib fills one column after the other; a second line is of the magnitudes.
    order = [place for first in range(measures) for place in range(first, len(names), measures)]
    figure.legend(
        [handles[place] for place in order],
        [names[place] for place in order],
        fontsize=_FONT,
        ncols=measures,
        frameon=False,
        loc="lower center",
        bbox_to_anchor=(0.5, (_BELOW - 0.25) / figure.get_figheight()),
        borderaxespad=0,
    )


def _shortened(name: str) -> str:
    return name if len(name) <= _MOST_LETTERS else "…" + name[1 - _MOST_LETTERS :]
