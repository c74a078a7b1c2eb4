"""The spatial grid of a layer's output: from any layout to a picture (N, K, h, w)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from torch import Tensor

from lightning_saliency.errors import InputError, LayerError

_Name: TypeAlias = Literal[
    "auto",
    "channels_first",
    "channels_last",
    "channels_first_transposed",
    "channels_last_transposed",
    "tokens",
]
Layout: TypeAlias = _Name | Callable[[Tensor], Tensor]
"""How a layer's output is laid out: ``"channels_first"`` (N, K, h, w), ``"channels_last"``
(N, h, w, K), each also ``"..._transposed"`` with w before h; ``"tokens"`` (N, T, K);
:class:`TokenGrid` for tokens of a known grid; ``"auto"`` to find out from the model's answers to
changes of single rows and columns of the image; or a callable that turns the output into
(N, K, h, w)."""

# A class token (ViT), a distillation token beside it (DeiT), four registers beside it (DINOv2).
_MOST_EXTRA_TOKENS = 5

_ORDERS = {
    "channels_first": (0, 1, 2, 3),
    "channels_last": (0, 3, 1, 2),
    "channels_first_transposed": (0, 1, 3, 2),
    "channels_last_transposed": (0, 3, 2, 1),
}


@dataclass(frozen=True)
class TokenGrid:
    """Tokens that are the places of a grid, row by row, with others before or after them.

    Called with a layer's output it returns the picture (N, K, height, width), so it can be given as
    a method's ``layout``.

    Attributes:
        height: number of rows.
        width: number of columns.
        before: how many tokens stand before the grid, such as a class token and registers.
        after: how many stand after it, such as the queries of a detector.
        order: of the output's dimensions: ``"NTK"``, ``"NKT"`` (channels first), or ``"TNK"``
            (tokens first, as in sequence models).
    """

    height: int
    width: int
    before: int = 0
    after: int = 0
    order: Literal["NTK", "NKT", "TNK"] = "NTK"

    def __call__(self, output: Tensor) -> Tensor:
        """Return the picture (N, K, height, width).

        Args:
            output: of three dimensions, in :attr:`order`.

        Raises:
            LayerError: it has another number of tokens.
        """
        places = self.height * self.width
        expected = self.before + places + self.after
        if output.dim() != 3 or output.shape[self.order.index("T")] != expected:
            raise LayerError(
                f"Expected {expected} tokens, {self}, got an output of shape "
                f"{tuple(output.shape)}. A grid belongs to one size of the image; explain images "
                "of that size, or leave the layout to be found."
            )
        channels_first = output.permute([self.order.index(axis) for axis in "NKT"])
        patches = channels_first[:, :, self.before : self.before + places]
        return patches.reshape(*patches.shape[:2], self.height, self.width)

    def __str__(self) -> str:
        """Return the grid in words, for instance ``"14 x 14 tokens after 1 other"``."""
        others = [
            f"{word} {count} other{'s' if count > 1 else ''}"
            for word, count in (("after", self.before), ("before", self.after))
            if count
        ]
        return " and ".join([f"{self.height} x {self.width} tokens", *others]).replace(
            "tokens and", "tokens", 1
        )


def layout_in_words(layout: Layout, output: Tensor) -> str:
    """Return how an output is read, for a message.

    Args:
        layout: not ``"auto"``.
        output: of a layer, (N, K, h, w) or another shape that the layout is for.
    """
    if isinstance(layout, TokenGrid):
        return str(layout)
    height, width = fold(output, (1, 1), layout).shape[2:]
    how = layout.replace("_", " ") if isinstance(layout, str) else "by the given layout"
    return f"{height} x {width} places, {how}"


def fold(output: Tensor, image_size: tuple[int, int], layout: Layout) -> Tensor:
    """Return a layer's output as a picture (N, K, h, w).

    Args:
        output: the layer's output, or a gradient of the same shape.
        image_size: (height, width) of the model's input.
        layout: see :data:`Layout`; ``"auto"`` has been found out before. ``"tokens"`` folds tokens
            to the one grid of the image's proportions, after up to five others.

    Raises:
        LayerError: the output is no grid of places in that layout.
        InputError: ``layout`` is unknown.
    """
    if callable(layout):
        return _folded_by(layout, output)
    if layout not in get_args(_Name):
        raise InputError(
            f"Expected layout to be one of {', '.join(get_args(_Name))}, a TokenGrid or a "
            f"callable, got {layout!r}."
        )
    if layout in _ORDERS and output.dim() == 4:
        return output.permute(_ORDERS[layout])
    grid = grid_by_proportions(output, image_size) if layout == "tokens" else None
    if grid is not None:
        return grid(output)
    raise LayerError(
        f"Expected the layer to put out a picture (N, K, h, w), (N, h, w, K), or tokens (N, T, K) "
        f"that fill one grid of the image's proportions ({image_size[0]} x {image_size[1]}), but "
        f"its output has shape {tuple(output.shape)} and the layout is {layout!r}. Choose a layer "
        "before the pooling, or say how it is laid out: layout=TokenGrid(height, width, before=1) "
        "from lightning_saliency.attribution, or a callable from the output to (N, K, h, w)."
    )


def _folded_by(layout: Callable[[Tensor], Tensor], output: Tensor) -> Tensor:
    folded: object = layout(output)
    count = output.shape[1] if _is_tokens_first(layout) else len(output)
    if isinstance(folded, Tensor) and folded.dim() == 4 and len(folded) == count:
        return folded
    came = tuple(folded.shape) if isinstance(folded, Tensor) else type(folded).__name__
    raise LayerError(f"Expected the layout callable to return ({count}, K, h, w), got {came}.")


def _is_tokens_first(layout: object) -> bool:
    return isinstance(layout, TokenGrid) and layout.order == "TNK"


def grid_by_proportions(output: Tensor, image_size: tuple[int, int]) -> TokenGrid | None:
    """Return the one grid of the image's proportions that tokens fill; None for none or several.

    Args:
        output: tokens (N, T, K).
        image_size: (height, width) of the model's input.
    """
    if output.dim() != 3:
        return None
    found = []
    for extra in range(_MOST_EXTRA_TOKENS + 1):
        patches = output.shape[1] - extra
        height = max(1, round((max(patches, 0) * image_size[0] / image_size[1]) ** 0.5))
        if patches > 0 and patches % height == 0:
            width = patches // height
            ratio = height * image_size[1] / (width * image_size[0])
            if max(ratio, 1 / ratio) < 1.2:
                found.append(TokenGrid(height, width, before=extra))
    return found[0] if len(found) == 1 else None
