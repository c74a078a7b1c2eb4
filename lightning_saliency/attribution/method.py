"""What all attribution methods have in common: the checks, the isolation, the resizing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, get_args

import torch
from torch import Tensor, nn

from lightning_saliency.attribution.guard import run_guarded
from lightning_saliency.errors import InputError, MethodError
from lightning_saliency.image.blur import gaussian_blur
from lightning_saliency.image.resize import ResizeMode, resize
from lightning_saliency.network.batching import Batches
from lightning_saliency.network.score import part_of
from lightning_saliency.network.sharded import is_sharded

if TYPE_CHECKING:
    from typing_extensions import Self

    from lightning_saliency.network.score import Target

__all__ = ["AttributionMethod"]


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
    # Whether the maps of some of the images are the same as among all of them.
    _divisible: ClassVar[bool] = True

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

        If the device runs out of memory, half of the images are explained at a time, and so on.

        Args:
            model: any module that takes ``image`` and returns class scores, in whatever state; it
                is not changed.
            image: (N, C, H, W), floating point, finite, on the model's device, in the form that
                the model takes (normalized, for instance).
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
            torch.OutOfMemoryError: not even one image fits.
        """

        def explain(model: nn.Module, images: Tensor) -> Tensor:
            try:
                return self._finished(self.attribute(model, images, target), image)
            except torch.OutOfMemoryError:
                if not self._can_divide(model, image, target):
                    raise
            # Outside the handler: the traceback held on to the tensors of the failed pass.
            return self._finished(self._in_parts(model, image, target), image)

        return run_guarded(explain, model, image)

    def _can_divide(self, model: nn.Module, image: Tensor, target: Target) -> bool:
        # A callable may know how many images there are, and processes that share a model's weights
        # have to make the same number of passes.
        return self._divisible and len(image) > 1 and not (callable(target) or is_sharded(model))

    def _in_parts(self, model: nn.Module, image: Tensor, target: Target) -> Tensor:
        """Return what :meth:`attribute` gives for half of the images at a time, or less."""

        def maps_of(batch: slice) -> Tensor:
            # Fresh ones, because the model may have written into the others.
            some = image[batch].detach().clone()
            return self._checked(self.attribute(model, some, part_of(target, batch)), some)

        if image.is_cuda:
            torch.cuda.empty_cache()
        batches = Batches((len(image) + 1) // 2, image.device)
        return torch.cat(batches.run(maps_of, len(image)))

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
        return run_guarded(self._prepare, model, image)

    def _prepare(self, model: nn.Module, image: Tensor) -> Self:
        """Override to check the model; called inside ``undisturbed(model)``."""
        return self

    def _finished(self, saliency: Tensor, image: Tensor) -> Tensor:
        """Return what :meth:`attribute` gave as ``__call__`` returns it."""
        saliency = self._checked(saliency, image)
        saliency = saliency.detach().to(torch.promote_types(image.dtype, torch.float32))
        return self._finish(saliency, image)

    def _checked(self, saliency: object, image: Tensor) -> Tensor:
        """Return what :meth:`attribute` gave, if these are maps."""
        count = len(image)
        if not isinstance(saliency, Tensor):
            came = type(saliency).__name__
        elif not saliency.is_floating_point():
            came = f"{saliency.dtype} of shape {tuple(saliency.shape)}"
        elif saliency.dim() != 4 or saliency.shape[:2] != (count, 1) or saliency.numel() == 0:
            came = f"shape {tuple(saliency.shape)}"
        else:
            return saliency
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
