"""The spatial grid of a layer's output, in any layout."""

from collections.abc import Callable
from typing import Literal, TypeAlias, get_args

from torch import Tensor

from lightning_saliency.errors import InputError, LayerError

_Name: TypeAlias = Literal["auto", "channels_first", "channels_last", "tokens"]
Layout: TypeAlias = _Name | Callable[[Tensor], Tensor]
"""How a layer's output is laid out: ``"channels_first"`` (N, K, h, w), ``"channels_last"``
(N, h, w, K), ``"tokens"`` (N, T, K), ``"auto"`` to tell these apart by the image's proportions, or
a callable that turns the output into (N, K, h, w)."""

# A class token (ViT), a distillation token beside it (DeiT), four registers beside it (DINOv2).
_MOST_EXTRA_TOKENS = 5


def fold(output: Tensor, image_size: tuple[int, int], layout: Layout = "auto") -> Tensor:
    """Return a layer's output as a picture (N, K, h, w).

    Tokens are folded back to the grid of patches; up to five tokens at the front that belong to no
    patch, such as a class token, are dropped.

    Args:
        output: the layer's output, or a gradient of the same shape.
        image_size: (height, width) of the model's input.
        layout: see :data:`Layout`.

    Raises:
        LayerError: the output is no grid of places in that layout.
        InputError: ``layout`` is unknown.
    """
    if callable(layout):
        return _folded_by(layout, output)
    if layout not in get_args(_Name):
        raise InputError(
            f"Expected layout to be one of {', '.join(get_args(_Name))} or a callable, got "
            f"{layout!r}."
        )
    if layout == "auto":
        layout = _recognize(output, image_size)
    if layout == "channels_first" and output.dim() == 4:
        return output
    if layout == "channels_last" and output.dim() == 4:
        return output.permute(0, 3, 1, 2)
    grid = find_grid(output, image_size)
    if layout == "tokens" and output.dim() == 3 and grid is not None:
        count, tokens, channels = output.shape
        patches = output[:, tokens - grid[0] * grid[1] :]
        return patches.transpose(1, 2).reshape(count, channels, *grid)
    raise LayerError(
        f"Expected the layer to put out a picture (N, K, h, w), (N, h, w, K), or tokens (N, T, K) "
        f"that fill a grid of the image's proportions ({image_size[0]} x {image_size[1]}), but its "
        f"output has shape {tuple(output.shape)}. Choose a layer before the pooling, or give a "
        "method that takes one a layout=, for instance a callable from the output to (N, K, h, w)."
    )


def _folded_by(layout: Callable[[Tensor], Tensor], output: Tensor) -> Tensor:
    folded: object = layout(output)
    if isinstance(folded, Tensor) and folded.dim() == 4 and len(folded) == len(output):
        return folded
    came = tuple(folded.shape) if isinstance(folded, Tensor) else type(folded).__name__
    raise LayerError(
        f"Expected the layout callable to return ({len(output)}, K, h, w), got {came}."
    )


def find_grid(output: Tensor, image_size: tuple[int, int]) -> tuple[int, int] | None:
    """Return (height, width) of the grid that an output fills, None if it fills none.

    Args:
        output: any tensor; (N, K, h, w), (N, h, w, K) and (N, T, K) can have a grid.
        image_size: (height, width) of the model's input.
    """
    if output.dim() == 4:
        first = _recognize(output, image_size) == "channels_first"
        return (output.shape[2], output.shape[3]) if first else (output.shape[1], output.shape[2])
    if output.dim() != 3:
        return None
    for extra in range(_MOST_EXTRA_TOKENS + 1):
        patches = output.shape[1] - extra
        height = max(1, round((max(patches, 0) * image_size[0] / image_size[1]) ** 0.5))
        if patches > 0 and patches % height == 0:
            grid = (height, patches // height)
            if _misfit(grid, image_size) < 1.2:
                return grid
    return None


def _recognize(output: Tensor, image_size: tuple[int, int]) -> Layout:
    if output.dim() != 4:
        return "tokens"
    first = _misfit((output.shape[2], output.shape[3]), image_size)
    last = _misfit((output.shape[1], output.shape[2]), image_size)
    # A picture of few places can miss the image's proportions a little by rounding.
    return "channels_last" if 1.1 * last < first else "channels_first"


def _misfit(grid: tuple[int, int], image_size: tuple[int, int]) -> float:
    """How many times the proportions differ, >= 1."""
    ratio = grid[0] * image_size[1] / (grid[1] * image_size[0])
    return max(ratio, 1 / ratio)
