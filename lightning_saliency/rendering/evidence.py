"""Where the evidence lies, over a run: a small grid for each epoch, and the contents as areas."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_saliency.errors import InputError
from lightning_saliency.rendering.canvas import PALE_INK, Canvas, text_width
from lightning_saliency.rendering.colors import ColorScale, apply_colormap
from lightning_saliency.rendering.heatmap import heatmap, overlay
from lightning_saliency.rendering.pixels import fit_cell

_TILE = 56
_GAP, _MARGIN = 3, 8
_FONT, _LINE = 13, 18
_AREAS = 120
_RAMP = 100
_SHOWN = 128
# So many times the share of a cell that holds as much as every other is full color.
_FULL = 10
# Told apart without color vision, dark beside light (Wong. Points of view: color blindness. Nature
# Methods 2011).
_INKS = ((0, 114, 178), (86, 180, 233), (0, 158, 115), (240, 228, 66), (213, 94, 0))


def evidence_strip(
    places: Tensor, kinds: Tensor, names: Sequence[str], epochs: Sequence[str], title: str = ""
) -> Tensor:
    """Draw the profiles of a run, one column for each explanation.

    Above, for each the grid of places, with one color scale for all: full color where a cell holds
    ten times its even share. Below, the kinds of content as areas that sum to 1.

    Args:
        places: (T, G, G), mean shares, oldest first; NaN where nothing was lost in any sample.
        kinds: (T, K), mean shares of at most five contents.
        names: K names.
        epochs: T texts, written above the columns.
        title: written above all.

    Returns:
        (3, height, width), RGB, uint8, on the CPU.

    Raises:
        InputError: the numbers of profiles, contents, names and epochs do not fit.
    """
    count = len(places)
    fits = places.dim() == 3 and kinds.shape == (count, len(names)) and len(epochs) == count
    if not count or not fits or not 0 < len(names) <= len(_INKS):
        raise InputError(
            "Expected places (T, G, G), kinds (T, K), K names (at most 5) and T epochs, got "
            f"{tuple(places.shape)}, {tuple(kinds.shape)}, {len(names)} names and {len(epochs)} "
            "epochs."
        )
    pitch = _TILE + _GAP
    wide = count * pitch - _GAP
    notes = max(text_width(name, _FONT) for name in names) + _MARGIN
    full = min(1.0, _FULL / places[0].numel())
    high = f"≥ {full:.2g} of the evidence"
    legend = _RAMP + text_width("0", _FONT) + text_width(high, _FONT) + 2 * _MARGIN
    width = 2 * _MARGIN + max(wide + notes, legend, text_width(title, _FONT))
    top = _MARGIN + (_LINE if title else 0) + _LINE
    below = top + _TILE + _LINE + _MARGIN
    sheet = Canvas(below + _AREAS + _MARGIN, width)
    sheet.text(title, _MARGIN, _MARGIN, width=width - 2 * _MARGIN, size=_FONT)
    tiles = apply_colormap(places[:, None] / full)
    for column, (tile, epoch) in enumerate(zip(tiles, epochs, strict=True)):
        left = _MARGIN + column * pitch
        sheet.text(epoch, top - _LINE, left, width=_TILE, size=_FONT, align="center", ink=PALE_INK)
        sheet.paste(tile, top, left, (_TILE, _TILE))
        if not bool(places[column].isfinite().all()):
            sheet.stamp("none", top, left, _TILE, _TILE)
    _draw_scale(sheet, high, top + _TILE + 2)
    sheet.paste(stacked_areas(kinds, _AREAS, wide, pitch), below, _MARGIN)
    last = kinds[-1].nan_to_num(0.0).cumsum(0)
    middles = (last - kinds[-1].nan_to_num(0.0) / 2) * _AREAS
    for row, middle in _spread(middles.tolist()):
        lower = below + _AREAS - middle - _LINE / 2
        sheet.bar(round(lower) + 4, _MARGIN + wide + 3, 9, 9, _INKS[row])
        left = _MARGIN + wide + 15
        sheet.text(names[row], round(lower), left, width=notes + _MARGIN, size=_FONT)
    return sheet.picture()


def evidence_card(
    images: Tensor,
    shares: Sequence[Tensor],
    columns: Sequence[str],
    rows: Sequence[str],
    title: str = "",
) -> Tensor:
    """Draw samples with the shares of their places at a few times.

    Args:
        images: (N, 3, H, W), RGB in [0, 1].
        shares: for each time (N, 1, H, W), the share of the place that a pixel lies in.
        columns: written above each time.
        rows: N texts, written above each sample.
        title: written above all.

    Returns:
        (3, height, width), RGB, uint8, on the CPU.
    """
    scale = ColorScale()
    pictures = [images, *(overlay(images, heatmap(each, scale)) for each in shares)]
    size = fit_cell((images.shape[2], images.shape[3]), _SHOWN, _SHOWN)
    pitch = size[0] + _LINE + _GAP
    width = 2 * _MARGIN + max(len(pictures) * (size[1] + _GAP), text_width(title, _FONT), 3 * _RAMP)
    top = _MARGIN + 2 * _LINE
    foot = top + len(images) * pitch
    sheet = Canvas(foot + 2 * _LINE + _MARGIN, width)
    sheet.text(title, _MARGIN, _MARGIN, width=width - 2 * _MARGIN, size=_FONT)
    for row, text in enumerate(rows):
        corner = top + row * pitch
        sheet.text(text, corner, _MARGIN, width=width - 2 * _MARGIN, size=_FONT, ink=PALE_INK)
    for column, (name, drawn) in enumerate(zip(("input", *columns), pictures, strict=True)):
        left = _MARGIN + column * (size[1] + _GAP)
        sheet.text(name, top - _LINE, left, width=size[1], size=_FONT, align="center", ink=PALE_INK)
        for row, picture in enumerate(drawn):
            sheet.paste(picture, top + row * pitch + _LINE, left, size)
    sheet.legend(scale, False, foot, _MARGIN, _FONT, _RAMP)
    return sheet.picture()


def stacked_areas(shares: Tensor, height: int, width: int, pitch: int) -> Tensor:
    """Draw shares on top of each other, the first at the bottom, joined by straight lines.

    Args:
        shares: (T, K), each row with the sum 1, at most five columns; rows with NaN stay white.
        height: of the picture, in pixels; as much as 1 takes.
        width: in pixels.
        pitch: from one row's place to the next one's, in pixels; the first is half a pitch from the
            left, and to the left of it as to the right of the last all stays as there.

    Returns:
        (3, height, width), float32 in [0, 1].
    """
    at = ((torch.arange(width) + 0.5) / pitch - 0.5).clamp(0, len(shares) - 1)
    first = at.floor().long()
    after = (first + 1).clamp_max(len(shares) - 1)
    part = (at - first)[:, None]
    between = shares[first] * (1 - part) + shares[after] * part
    # Beside a row with NaN nothing is drawn, on the place of another row it is.
    edges = torch.where(part == 0, shares[first], between).cumsum(1)
    levels = 1 - (torch.arange(height) + 0.5) / height
    inks = torch.tensor(_INKS).float() / 255
    # How many edges lie below a pixel; the last edge is 1 up to rounding.
    index = (levels[:, None, None] > edges).sum(2).clamp_max(shares.shape[1] - 1)
    drawn = inks[index].permute(2, 0, 1)
    return torch.where(edges.isfinite().all(1), drawn, 1.0)


def _draw_scale(sheet: Canvas, high: str, top: int) -> None:
    left = _MARGIN + text_width("0", _FONT) + _MARGIN // 2
    sheet.text("0", top, _MARGIN, width=left, size=_FONT)
    ramp = torch.linspace(0, 1, _RAMP).expand(1, 1, _FONT - 2, _RAMP)
    sheet.paste(apply_colormap(ramp)[0], top + 3, left)
    end = left + _RAMP + _MARGIN // 2
    sheet.text(high, top, end, width=text_width(high, _FONT), size=_FONT)


def _spread(middles: Sequence[float]) -> list[tuple[int, float]]:
    """Return the places of labels beside areas, from the bottom up, so that none covers another."""
    low = _LINE / 2
    found = []
    for row, middle in enumerate(middles):
        # Room for the labels that are still to come.
        room = _AREAS - _LINE / 2 - (len(middles) - 1 - row) * _LINE
        place = min(max(middle, low), room)
        found.append((row, place))
        low = place + _LINE
    return found
