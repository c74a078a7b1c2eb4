"""Saliency maps as pictures: heatmaps, overlays, panels and filmstrips, as RGB tensors."""

from lightning_saliency.renamed import keep_old_names
from lightning_saliency.rendering.colors import ColorScale, apply_colormap, color_scale
from lightning_saliency.rendering.filmstrip import (
    Column,
    Curves,
    filmstrip,
    select_columns,
    select_frames,
)
from lightning_saliency.rendering.heatmap import Heatmap, heatmap, overlay
from lightning_saliency.rendering.masks import mask_rows
from lightning_saliency.rendering.methods import methods_picture
from lightning_saliency.rendering.moved import MovedRow, moved_card
from lightning_saliency.rendering.panel import Cell, compare_panel, grid, panel
from lightning_saliency.rendering.pixels import displayable, to_bytes
from lightning_saliency.rendering.timelapse import Frame, film_frame, timelapse

__all__ = [
    "Cell",
    "ColorScale",
    "Column",
    "Curves",
    "Frame",
    "Heatmap",
    "MovedRow",
    "apply_colormap",
    "color_scale",
    "compare_panel",
    "displayable",
    "film_frame",
    "filmstrip",
    "grid",
    "heatmap",
    "mask_rows",
    "methods_picture",
    "moved_card",
    "overlay",
    "panel",
    "select_columns",
    "select_frames",
    "timelapse",
    "to_bytes",
]

keep_old_names(
    __name__, {"ColourScale": "ColorScale", "colour_scale": "color_scale", "thin": "select_frames"}
)
