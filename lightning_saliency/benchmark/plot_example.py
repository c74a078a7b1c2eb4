"""Show a picture beside the maps that explain it."""

from os import PathLike

import torch
from matplotlib.figure import Figure
from torch import Tensor

from lightning_saliency.errors import InputError

_CELL = 3.0  # inches


def plot_example(
    input: Tensor,
    saliency: Tensor,
    method: str,
    category_id: int | list[int] | Tensor,
    save_path: str | PathLike[str] | None = None,
    show_plot: bool = False,
) -> Figure:
    """Draw each picture beside its map.

    Maps without negative values are drawn from 0 to their largest value; maps with a sign in blue
    and red around 0.

    Args:
        input: (N, C, H, W), the pictures; scaled to the range of the screen for all of them
            together, so that normalized ones can be shown.
        saliency: (N, 1, h, w), their maps; with one picture and several maps, such as the masks of
            extremal perturbation, the picture is shown once for each.
        method: the name of the method, for the title.
        category_id: what was explained, one for all maps or one for each.
        save_path: where to save the figure, as PNG, PDF, ...; None for nowhere.
        show_plot: True opens a window with pyplot; False needs no screen.

    Returns:
        The figure.

    Raises:
        InputError: the shapes do not fit each other.
    """
    count = len(saliency) if isinstance(saliency, Tensor) and saliency.dim() == 4 else 0
    if count == 0 or saliency.shape[1] != 1:
        raise InputError(f"Expected maps of shape (N, 1, h, w), got {_shape(saliency)}.")
    if not isinstance(input, Tensor) or input.dim() != 4 or len(input) not in (1, count):
        raise InputError(
            f"Expected one picture or one for each of the {count} maps, of shape (N, C, H, W), got "
            f"{_shape(input)}."
        )
    categories = torch.as_tensor(category_id).flatten().tolist()
    if len(categories) not in (1, count):
        raise InputError(
            f"Expected one category or one for each of the {count} maps, got {category_id!r}."
        )
    categories *= count // len(categories)
    pictures = _shown(input).expand(count, -1, -1, -1)
    figure = _new_figure(show_plot, count)
    places = figure.subplots(count, 2, squeeze=False)
    for (left, right), picture, values, category in zip(
        places, pictures, saliency.detach().float().cpu()[:, 0], categories, strict=True
    ):
        left.imshow(picture.permute(1, 2, 0).numpy())
        left.set_title("input")
        # Two colors only where there are two signs.
        most = float(values.abs().nan_to_num(0).max()) or 1.0
        signed = bool((values < 0).any())
        colors = {"cmap": "RdBu_r", "vmin": -most} if signed else {"cmap": "inferno", "vmin": 0}
        drawn = right.imshow(values.numpy(), vmax=most, **colors)
        right.set_title(f"{method}, category {category}")
        figure.colorbar(drawn, ax=right, fraction=0.046)
        left.set_axis_off()
        right.set_axis_off()
    if save_path is not None:
        figure.savefig(save_path, dpi=150)
    if show_plot:
        from matplotlib import pyplot

        pyplot.show()
    return figure


def _shape(value: object) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__


def _shown(input: Tensor) -> Tensor:
    pictures = input.detach().float().cpu()
    if pictures.shape[1] not in (1, 3):
        pictures = pictures.mean(1, keepdim=True)
    low, high = pictures.min(), pictures.max()
    if low < 0 or high > 1:
        # A picture of one color has no range to stretch.
        pictures = (pictures - low) / (high - low if high > low else 1)
    return pictures.expand(-1, 3, -1, -1)


def _new_figure(show_plot: bool, count: int) -> Figure:
    size = (2.3 * _CELL, count * _CELL)
    if show_plot:
        from matplotlib import pyplot

        return pyplot.figure(figsize=size, layout="constrained")
    # A figure without pyplot: no window, no global state, no backend that needs a screen.
    return Figure(figsize=size, layout="constrained")
