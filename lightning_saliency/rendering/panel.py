"""One sample in one picture: the input, its map, the overlay and their numbers."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from lightning_saliency.errors import InputError
from lightning_saliency.rendering.grid import Cell, grid
from lightning_saliency.rendering.heatmap import Heatmap

__all__ = ["compare_panel", "panel"]

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

    The last line always shows the color scale, the strength of the map (its mean absolute value,
    and its ratio to the strongest first map of the run), and what the colors do not show.

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
