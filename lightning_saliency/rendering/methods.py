"""All methods side by side in one picture: samples down, methods across."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from lightning_saliency.errors import InputError
from lightning_saliency.rendering.canvas import Canvas, shorten, text_width, wrap
from lightning_saliency.rendering.heatmap import Heatmap
from lightning_saliency.rendering.pixels import fit_cell, resized, to_bytes

# With more columns than that the pictures are smaller, so that a card of TensorBoard, which is 337
# pixels wide, still shows them.
_SIDES = {3: 80, 6: 56}
_SMALLEST = 48
_MOST_ROWS = 8
_GAP, _MARGIN = 6, 8
_FONT, _LINE, _TITLE = 14, 17, 20
_WIDEST_LABEL = 120
_LEGEND = 150
_MOST_LINES = 3
# Of each color; files that do not keep an image's finest noise are a third smaller.
_STEPS = 40


def methods_picture(
    images: Tensor,
    heats: Mapping[str, Heatmap],
    overlays: Mapping[str, Tensor],
    row_labels: Sequence[str],
    title: str = "methods",
) -> Tensor:
    """Draw samples with the maps of several methods: the input, and each map laid over it.

    Args:
        images: (N, 3, H, W), in [0, 1] or uint8; of more than eight the first are shown.
        heats: for each method's name N colored maps; shown in this order.
        overlays: for each of the names N overlays, of the same shape as ``images``.
        row_labels: N texts, such as the classes.
        title: written above all.

    Returns:
        (3, height, width), RGB, uint8, on the CPU.

    Raises:
        InputError: there is no method, or the names or numbers of samples differ.
    """
    _check(images, heats, overlays, row_labels)
    rows = min(len(images), _MOST_ROWS)
    wide = next((side for most, side in _SIDES.items() if len(heats) <= most), _SMALLEST)
    cell = fit_cell((images.shape[2], images.shape[3]), wide, wide)
    heads = {name: _head(name, wide) for name in heats}
    head = _LINE * max(map(len, heads.values()))
    label = min(_WIDEST_LABEL, max(text_width(text, _FONT, bold=True) for text in row_labels))
    left = _MARGIN + label + _MARGIN
    top = _MARGIN + _TITLE + head + 4
    pitch = cell[0] + _GAP
    foot = top + rows * pitch + _GAP
    legends = {heat.signed: heat.scale for heat in heats.values()}
    width = max(left + (len(heats) + 1) * (wide + _GAP) + _MARGIN, 420)
    sheet = Canvas(foot + len(legends) * (2 * _LINE + 4) + _MARGIN, width)
    sheet.text(title, _MARGIN, _MARGIN, width=width - 2 * _MARGIN, size=_FONT + 3, bold=True)
    for row in range(rows):
        middle = top + row * pitch + (cell[0] - _LINE) // 2
        sheet.text(
            row_labels[row], middle, _MARGIN, width=label, size=_FONT, align="right", bold=True
        )
    columns: list[tuple[list[str], Tensor, Sequence[str]]] = [
        (["input"], images, [""] * len(images))
    ]
    columns += [(heads[name], overlays[name], heat.fault) for name, heat in heats.items()]
    for lines, pictures, faults in columns:
        for number, line in enumerate(reversed(lines), 1):
            sheet.text(
                line,
                top - 4 - number * _LINE,
                left,
                width=wide,
                size=_FONT,
                align="center",
                bold=True,
            )
        coarse = to_bytes(resized(pictures[:rows], cell).float() / 255, _STEPS)
        inset = left + (wide - cell[1]) // 2
        sheet.paste_column(coarse, top, inset, cell, pitch)
        for row in range(rows):
            if faults[row]:
                sheet.stamp(faults[row], top + row * pitch, inset, *cell)
        left += wide + _GAP
    scales = [(legends[signed], signed) for signed in sorted(legends)]
    sheet.legends(scales, foot, _MARGIN, _FONT, _LEGEND, 2 * _LINE + 4)
    return sheet.picture()


def _check(
    images: Tensor,
    heats: Mapping[str, Heatmap],
    overlays: Mapping[str, Tensor],
    row_labels: Sequence[str],
) -> None:
    if not heats or heats.keys() != overlays.keys():
        raise InputError(
            "Expected a map and an overlay for each of the same methods, got maps of "
            f"{list(heats)} and overlays of {list(overlays)}."
        )
    counts = {len(images), len(row_labels), *map(len, heats.values()), *map(len, overlays.values())}
    if len(counts) != 1:
        raise InputError(f"Expected as many images, maps and labels, got {sorted(counts)}.")


def _head(name: str, width: int) -> list[str]:
    """Return a method's name as lines that fit above its column."""
    lines = [shorten(line, width, _FONT, bold=True) for line in wrap(name, width, _FONT, bold=True)]
    return lines[:_MOST_LINES]
