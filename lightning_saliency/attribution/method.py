"""What all attribution methods have in common: the checks, the isolation, the resizing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, get_args

import torch
from torch import Tensor, nn

from lightning_saliency.errors import InputError, MethodError, ModelError
from lightning_saliency.image.blur import gaussian_blur
from lightning_saliency.image.resize import ResizeMode, resize
from lightning_saliency.network.undisturbed import undisturbed

if TYPE_CHECKING:
    from typing_extensions import Self

    from lightning_saliency.network.score import Target

__all__ = [
    "AttributionMethod",
    "check_image",
    "check_model",
    "guarded",
    "require_python_model",
]


@dataclass(frozen=True, kw_only=True)
class AttributionMethod(ABC):
    """An attribution method and its settings; call it with a model and images to get maps.

    A method is a frozen dataclass on this class that implements :meth:`attribute`. Everything
    else is done here, once for all of them: the input is checked; the model is in eval mode and
    frozen for the while and left as it was found, also after an error; what comes back is checked,
    detached, smoothed and resized.

    Attributes:
        name: the method in snake case, as it stands in the logged tags (``"grad_cam"``).
        resize: True resizes the map to the image, False leaves it as the method made it, a pair
            (height, width) resizes it to that.
        resize_mode: ``"bilinear"``, ``"bicubic"``, ``"nearest"`` or ``"area"``.
        smooth: standard deviation of a Gaussian that the map is blurred with after resizing, as a
            fraction of the longer side of the map; 0 for none.
    """

    name: ClassVar[str]
    resize: bool | tuple[int, int] = True
    resize_mode: ResizeMode = "bilinear"
    smooth: float = 0.0

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            InputError: one of them is out of its range.
        """
        if self.resize_mode not in get_args(ResizeMode):
            raise InputError(
                f"Expected resize_mode to be one of {', '.join(get_args(ResizeMode))}, got "
                f"'{self.resize_mode}'."
            )
        if not isinstance(self.resize, bool) and not _is_size(self.resize):
            raise InputError(
                "Expected resize to be True (the image's size), False, or a pair (height, width) "
                f"of positive pixels, got {self.resize!r}."
            )
        if not isinstance(self.smooth, (int, float)) or not 0 <= self.smooth < 1:
            raise InputError(
                "Expected smooth to be a fraction of the map's longer side, from 0 to below 1, "
                f"got {self.smooth!r}."
            )

    def __call__(self, model: nn.Module, image: Tensor, target: Target) -> Tensor:
        """Explain ``target`` for each image.

        Args:
            model: any module that takes ``image`` and returns class scores, in whatever state; it
                is not changed.
            image: (N, C, H, W), floating point, finite, on the model's device, in the form that
                the model takes (normalised, for instance).
            target: a class index for all images; one for each, as a sequence or an integer tensor
                (N,); ``"predicted"``; or a callable from the model's output to scores (N,).

        Returns:
            Saliency maps (N, 1, H, W), larger = more important, detached, on the image's device;
            float64 for a float64 image, else float32. With ``resize=False`` they have the size of
            the layer that they come from. A method whose maps have a sign says so.

        Raises:
            InputError: the image, the target or a setting cannot be used.
            LayerError: a layer that the method needs does not exist or did not run once.
            ModelError: the method does not apply to this model.
            MethodError: the method itself returned no such map.
        """
        with guarded(model, image) as images:
            saliency = self.attribute(model, images, target)
            self._check_map(saliency, image)
            saliency = saliency.detach().to(torch.promote_types(image.dtype, torch.float32))
            return self._finish(saliency, image)

    @abstractmethod
    def attribute(self, model: nn.Module, image: Tensor, target: Target) -> Tensor:
        """Compute the maps; called by ``__call__`` inside ``undisturbed(model)``.

        Args:
            model: in eval mode, all parameters frozen, gradients recorded.
            image: (N, C, H, W), checked, a copy that may be written to; needs no gradient yet.
            target: as given by the caller, not checked yet; see
                :func:`~lightning_saliency.network.score.class_scores`.

        Returns:
            (N, 1, h, w), of any size and floating dtype.
        """

    def prepare(self, model: nn.Module, image: Tensor) -> Self:
        """Check that the method applies to ``model``, and settle what depends on the model.

        A callback does this once, before the first training step. The method that comes back
        explains the same, but need not look for its layer again.

        Args:
            model: the model that will be explained.
            image: (N, C, H, W), one batch that it takes; one image is enough.

        Returns:
            This method, or a copy with the settings that were left open filled in.

        Raises:
            LayerError: a layer that the method needs does not exist.
            ModelError: the method does not apply to this model.
        """
        with guarded(model, image) as images:
            return self._prepare(model, images)

    def _prepare(self, model: nn.Module, image: Tensor) -> Self:
        """Override to check the model; called inside ``undisturbed(model)``."""
        return self

    def _check_map(self, saliency: object, image: Tensor) -> None:
        count = len(image)
        if not isinstance(saliency, Tensor):
            came = type(saliency).__name__
        elif not saliency.is_floating_point():
            came = f"{saliency.dtype} of shape {tuple(saliency.shape)}"
        elif saliency.dim() != 4 or saliency.shape[:2] != (count, 1) or saliency.numel() == 0:
            came = f"shape {tuple(saliency.shape)}"
        else:
            return
        raise MethodError(
            f"Expected {type(self).__name__} to return float maps of shape ({count}, 1, h, w) for "
            f"{count} images, got {came}."
        )

    def _finish(self, saliency: Tensor, image: Tensor) -> Tensor:
        if self.resize is not False:
            size = tuple(image.shape[2:]) if self.resize is True else self.resize
            saliency = resize(saliency, (size[0], size[1]), self.resize_mode)
        if self.smooth > 0:
            sigma = self.smooth * max(saliency.shape[2:])
            saliency = gaussian_blur(saliency, sigma, truncate=4)
        return saliency


def _is_size(size: object) -> bool:
    return (
        isinstance(size, Sequence)
        and len(size) == 2
        and all(isinstance(length, int) and length > 0 for length in size)
    )


@contextmanager
def guarded(model: nn.Module, image: Tensor) -> Iterator[Tensor]:
    """Check the model and the images, and make both ready to be explained for the while.

    Every public method of an :class:`AttributionMethod` works inside this.

    Args:
        model: see :meth:`AttributionMethod.__call__`, as for ``image``.
        image: (N, C, H, W).

    Yields:
        A detached copy of the images: the model may write into its input, and the caller may be in
        inference mode. The model is in the state that
        :func:`~lightning_saliency.network.undisturbed.undisturbed` describes.

    Raises:
        InputError: the images or the model cannot be used.
        ModelError: the model has layers without weights.
    """
    check_image(image)
    check_model(model, image)
    with undisturbed(model):
        yield image.detach().clone()


def check_image(image: object) -> None:
    """Raise unless ``image`` is a batch of images that can be explained.

    Args:
        image: should be (N, C, H, W), floating point, finite, none of the sizes 0.

    Raises:
        InputError: it is not.
    """
    if not isinstance(image, Tensor):
        raise InputError(
            f"Expected the images as a tensor (N, C, H, W), got {type(image).__name__}."
        )
    if image.dim() != 4:
        hint = " Add the batch dimension: image[None]." if image.dim() == 3 else ""
        raise InputError(
            f"Expected images of shape (N, C, H, W), got shape {tuple(image.shape)}.{hint}"
        )
    if not image.is_floating_point():
        raise InputError(
            f"Expected floating point images, got {image.dtype}. Give them as the model takes "
            "them, for instance image.float() / 255."
        )
    if image.numel() == 0:
        raise InputError(f"Expected at least one image, got shape {tuple(image.shape)}.")
    finite = torch.isfinite(image).flatten(1).all(1)
    if not bool(finite.all()):
        bad = int((~finite).nonzero()[0])
        raise InputError(f"Expected finite images, but image {bad} of the batch has NaN or inf.")


def check_model(model: object, image: Tensor) -> None:
    """Raise unless ``model`` is a module on the images' device.

    Args:
        model: should be a ``torch.nn.Module``.
        image: (N, C, H, W).

    Raises:
        InputError: the model is no module, or has no weight where the images are.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"Expected the model as a torch.nn.Module, got {type(model).__name__}.")
    devices = {parameter.device for parameter in model.parameters()}
    if devices and image.device not in devices:
        held = ", ".join(sorted(map(str, devices)))
        raise InputError(
            f"Expected the images on the model's device ({held}), got {image.device}. "
            f"Move them: image.to('{held}')."
        )


def require_python_model(model: nn.Module, method: str) -> None:
    """Raise if ``model`` is scripted or traced, so that its functions cannot be intercepted.

    Args:
        model: the model that is explained.
        method: the name of the method that needs to intercept them, for the message.

    Raises:
        ModelError: some part of the model is a ``torch.jit.ScriptModule``.
    """
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            where = f"its layer '{name}'" if name else "it"
            raise ModelError(
                f"Expected a model in Python for {method}, but {where} is scripted or traced, and "
                "its functions cannot be given another backward rule. Explain the model before "
                "torch.jit.script or torch.jit.trace, or take another method."
            )
