"""Methods as functions that are called as in TorchRay."""

from collections.abc import Callable
from typing import Protocol

from torch import Tensor, nn

from lightning_saliency.attribution.method import AttributionMethod
from lightning_saliency.image.saliency_map import ResizeMode
from lightning_saliency.network.grid import Layout
from lightning_saliency.network.score import Target

_DOCSTRING = """Return :class:`{method}` maps.

    Args:
        model: takes ``input`` and returns class scores; it is not changed.
        input: (N, C, H, W).
        target: class index, one for each image, ``"predicted"``, or a callable.
        saliency_layer: name of a layer; {default}.
        resize: True resizes the map to the image, a pair is (height, width).
        resize_mode: ``"bilinear"``, ``"bicubic"``, ``"nearest"`` or ``"area"``.
        smooth: sigma of a Gaussian blur, as a fraction of the map's longer side.{layout}

    Returns:
        (N, 1, h, w), of the layer's height and width unless ``resize`` is given.

    Raises:
        InputError: the image, the target or a setting cannot be used.
        LayerError: the layer does not exist, did not run once, or has no spatial output.
        ModelError: the method does not apply to the model, or the score cannot be differentiated.
    """
_LAYOUT = """
        layout: how the layer's output is laid out; ``"auto"`` finds out."""


class _MapFunction(Protocol):
    """A method that explains the image, or a layer, as a function."""

    def __call__(
        self,
        model: nn.Module,
        input: Tensor,
        target: Target,
        saliency_layer: str = "",
        resize: bool | tuple[int, int] = False,
        resize_mode: ResizeMode = "bilinear",
        smooth: float = 0.0,
    ) -> Tensor:
        """Return maps (N, 1, h, w)."""


class _LayerFunction(Protocol):
    """A method that explains a layer with a spatial output, as a function."""

    def __call__(
        self,
        model: nn.Module,
        input: Tensor,
        target: Target,
        saliency_layer: str | None = "",
        resize: bool | tuple[int, int] = False,
        resize_mode: ResizeMode = "bilinear",
        smooth: float = 0.0,
        layout: Layout = "auto",
    ) -> Tensor:
        """Return maps (N, 1, h, w)."""


def map_function(method: Callable[..., AttributionMethod]) -> _MapFunction:
    """Return a method as the function that stands beside it, with the name of the module.

    Args:
        method: its class; the first setting is ``saliency_layer``.
    """

    def function(
        model: nn.Module,
        input: Tensor,
        target: Target,
        saliency_layer: str = "",
        resize: bool | tuple[int, int] = False,
        resize_mode: ResizeMode = "bilinear",
        smooth: float = 0.0,
    ) -> Tensor:
        made = method(saliency_layer, resize=resize, resize_mode=resize_mode, smooth=smooth)
        return made(model, input, target)

    _document(function, method, default='``""`` for the image', layout="")
    return function


def layer_function(method: Callable[..., AttributionMethod]) -> _LayerFunction:
    """Return a method of a layer as the function that stands beside it.

    Args:
        method: its class; the first settings are ``saliency_layer`` and ``layout``.
    """

    def function(
        model: nn.Module,
        input: Tensor,
        target: Target,
        saliency_layer: str | None = "",
        resize: bool | tuple[int, int] = False,
        resize_mode: ResizeMode = "bilinear",
        smooth: float = 0.0,
        layout: Layout = "auto",
    ) -> Tensor:
        layer = saliency_layer or None
        made = method(layer, layout, resize=resize, resize_mode=resize_mode, smooth=smooth)
        return made(model, input, target)

    default = '``""`` or None for the last one with a spatial output'
    _document(function, method, default=default, layout=_LAYOUT)
    return function


def _document(
    function: Callable[..., Tensor], method: Callable[..., AttributionMethod], **texts: str
) -> None:
    function.__module__ = method.__module__
    function.__name__ = function.__qualname__ = method.__module__.rpartition(".")[2]
    function.__doc__ = _DOCSTRING.format(method=method.__name__, **texts)
