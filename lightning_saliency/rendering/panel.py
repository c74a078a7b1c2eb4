"""Pictures in a grid with their titles and numbers: one sample with its map, or with several."""

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass

from torch import Tensor

from lightning_saliency.errors import InputError
from lightning_saliency.rendering.canvas import PALE_INK, Canvas, wrap
from lightning_saliency.rendering.colors import ColorScale
from lightning_saliency.rendering.heatmap import Heatmap
from lightning_saliency.rendering.pixels import fit_cell

_LEAST, _MOST = 128, 256
_GAP, _MARGIN = 6, 10
_MOST_LINES = 2


@dataclass(frozen=True)
class _Type:
    """The sizes of text, in pixels; the defaults are for slots of 128 pixels.

    Attributes:
        font: of captions, and of titles if they fit.
        line: from one line to the next.
        small: font of the last line.
        smallest: font of long titles.
        legend: width of a color bar.
    """

    font: int = 14
    line: int = 20
    small: int = 12
    smallest: int = 11
    legend: int = 110

    @classmethod
    def for_slot(cls, slot: int) -> "_Type":
        """Return sizes in proportion to the pictures: TensorBoard shows all panels in one width."""
        return cls(*(round(size * max(1.0, slot / _LEAST)) for size in astuple(cls())))


@dataclass(frozen=True)
class Cell:
    """One picture of a grid.

    Attributes:
        picture: (3, H, W), in [0, 1]; None leaves the slot empty.
        title: written above it.
        stamp: a word written across it, or ``""``.
    """

    picture: Tensor | None = None
    title: str = ""
    stamp: str = ""


def grid(
    rows: Sequence[Sequence[Cell]],
    caption: Sequence[str] = (),
    legends: Sequence[tuple[ColorScale, bool]] = (),
    remark: str = "",
) -> Tensor:
    """Draw rows of pictures.

    All have the size of the first one, which is enlarged by an integer factor until its longer side
    is at least 128 pixels, or reduced to 256. Text grows with the pictures.

    Args:
        rows: the cells, top to bottom and left to right; rows may be of unequal length. A row
            without titles takes no space for them.
        caption: lines of text below.
        legends: color scales for the last lines, each with whether its colors have a sign.
        remark: a line of smaller text below the caption.

    Returns:
        (3, height, width), RGB, uint8, on the CPU.

    Raises:
        InputError: there is no picture, or one has another shape.
    """
    pictures = [cell.picture for row in rows for cell in row if cell.picture is not None]
    if not pictures:
        raise InputError("Expected at least one picture in the grid, got none.")
    for picture in pictures:
        if picture.dim() != 3 or picture.shape[0] != 3 or picture.numel() == 0:
            raise InputError(f"Expected a picture of shape (3, H, W), got {tuple(picture.shape)}.")
    size = fit_cell((pictures[0].shape[1], pictures[0].shape[2]), _LEAST, _MOST)
    slot = max(size[1], _LEAST)
    written = _Type.for_slot(slot)
    heads = [written.line * max(len(_title(c, slot, written)[0]) for c in row) for row in rows]
    foot = _MARGIN + sum(heads) + len(rows) * (size[0] + _GAP)
    lines = len(caption) + bool(remark)
    width = 2 * _MARGIN + max(map(len, rows)) * (slot + _GAP) - _GAP
    high = lines * written.line + len(legends) * (2 * written.small + written.small // 2)
    sheet = Canvas(foot + high + _MARGIN, width)
    top = _MARGIN
    for row, head in zip(rows, heads, strict=True):
        for place, cell in enumerate(row):
            left = _MARGIN + place * (slot + _GAP)
            _draw_cell(sheet, cell, top, head, left, slot, size, written)
        top += head + size[0] + _GAP
    for line in caption:
        sheet.text(line, top, _MARGIN, width=width - 2 * _MARGIN, size=written.font)
        top += written.line
    _draw_foot(sheet, top, width - 2 * _MARGIN, legends, remark, written)
    return sheet.picture()


def _draw_foot(
    sheet: Canvas,
    top: int,
    width: int,
    legends: Sequence[tuple[ColorScale, bool]],
    remark: str,
    written: _Type,
) -> None:
    if remark:
        sheet.text(remark, top, _MARGIN, width=width, size=written.small)
        top += written.line
    pitch = 2 * written.small + written.small // 2
    sheet.legends(legends, top, _MARGIN, written.small, written.legend, pitch)


def _title(cell: Cell, width: int, written: _Type) -> tuple[list[str], int]:
    """Return the lines of a title, one or two, and the largest font in which they fit."""
    for size in range(written.font, written.smallest, -1):
        lines = wrap(cell.title, width, size)
        if len(lines) <= _MOST_LINES:
            return lines, size
    lines = wrap(cell.title, width, written.smallest)
    return [*lines[: _MOST_LINES - 1], "".join(lines[_MOST_LINES - 1 :])], written.smallest


def _draw_cell(
    sheet: Canvas,
    cell: Cell,
    top: int,
    head: int,
    left: int,
    slot: int,
    size: tuple[int, int],
    written: _Type,
) -> None:
    lines, font = _title(cell, slot, written)
    for number, line in enumerate(lines):
        # The last line is right above the picture.
        place = top + head - (len(lines) - number) * written.line
        sheet.text(line, place, left, width=slot, size=font, align="center", ink=PALE_INK)
    if cell.picture is not None:
        corner = top + head, left + (slot - size[1]) // 2
        sheet.paste(cell.picture, *corner, size)
        if cell.stamp:
            sheet.stamp(cell.stamp, *corner, *size)


# More than these in a row are too small on a screen.
_METHODS_IN_A_ROW = 5
# Smaller fractions are not mentioned.
_NOTABLE = 0.005


def panel(
    image: Tensor,
    heat: Heatmap,
    overlaid: Tensor,
    caption: Sequence[str] = (),
    title: str = "map",
    more: Sequence[Sequence[Cell]] = (),
) -> Tensor:
    """Draw one sample: input, map and overlay in a row, with text below.

    The last lines always show the strength of the map (its mean absolute value, and its ratio to
    the strongest first map of the run), what the colors do not show, and the color scale.

    Args:
        image: (3, H, W), in [0, 1].
        heat: one colored map, ``heat[i]`` of a batch; of any size.
        overlaid: (3, H, W), in [0, 1], the map laid over the image.
        caption: lines of text, such as ``["epoch 12 · target 7 · predicted 7 (0.93)"]``.
        title: text above the map, for instance the method's name.
        more: further rows of pictures, such as those of :func:`~.masks.mask_rows`.

    Returns:
        (3, height, width), RGB, uint8, on the CPU. The longer side of the input, the map and the
        overlay is 128 to 256 pixels.

    Raises:
        InputError: a picture has another shape, or there is more than one map.
    """
    _check_single(heat)
    row = [
        Cell(image, "input"),
        Cell(heat.color[0], title, heat.fault[0]),
        Cell(overlaid, "overlay", heat.fault[0]),
    ]
    return grid([row, *more], caption, [(heat.scale, heat.signed)], _remark(heat))


def compare_panel(
    image: Tensor,
    heats: Mapping[str, Heatmap],
    overlays: Mapping[str, Tensor],
    caption: Sequence[str] = (),
) -> Tensor:
    """Draw one sample with several methods: the input, and each method's map laid over it.

    The maps alone are in the methods' own panels.

    Args:
        image: (3, H, W), in [0, 1].
        heats: for each method's name one colored map; shown in this order, five in a row.
        overlays: for each of the names the overlay (3, H, W), in [0, 1].
        caption: lines of text.

    Returns:
        (3, height, width), RGB, uint8, on the CPU.

    Raises:
        InputError: there is no method, the names of both differ, or a picture has another shape.
    """
    if not heats or heats.keys() != overlays.keys():
        raise InputError(
            "Expected a map and an overlay for each of the same methods, got maps of "
            f"{list(heats)} and overlays of {list(overlays)}."
        )
    for heat in heats.values():
        _check_single(heat)
    names = list(heats)
    rows: list[list[Cell]] = []
    for start in range(0, len(names), _METHODS_IN_A_ROW):
        chosen = names[start : start + _METHODS_IN_A_ROW]
        rows.append([Cell(image, "input") if start == 0 else Cell()])
        rows[-1] += [Cell(overlays[name], name, heats[name].fault[0]) for name in chosen]
    # References differ from method to method, but not what the colors stand for.
    legends = {
        (heat.scale.label(), heat.signed): (heat.scale, heat.signed) for heat in heats.values()
    }
    return grid(rows, caption, list(legends.values()))


def _check_single(heat: Heatmap) -> None:
    if len(heat) != 1:
        raise InputError(
            f"Expected the colored map of one sample, got {len(heat)}; select it with heat[i]."
        )


def _remark(heat: Heatmap) -> str:
    """Return how strong the map is, and what its colors do not show."""
    words = []
    if 0 < heat.non_finite[0] < 1:
        words.append(f"{heat.non_finite[0]:.1%} NaN")
    if heat.scale.unit == "value" and heat.clipped[0] > _NOTABLE:
        words.append(f"{heat.clipped[0]:.0%} beyond")
    if heat.faint[0] and not heat.fault[0]:
        words.append("faint")
    if heat.fault[0] != "NaN":
        words.append(f"mean {heat.strength[0]:.2g}")
        ratio = heat.relative_strength[0]
        if ratio > 0:
            words.append(f"{ratio:.2g}x first" if ratio < 100 else f"{ratio:.0f}x first")
    # Small panels have no room for redundant zeros.
    return ", ".join(words).replace("e-0", "e-")
