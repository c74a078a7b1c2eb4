"""What all attribution methods have in common: facts, checks, isolation, resizing."""

import inspect
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from types import MappingProxyType
from typing import Any, ClassVar, get_args

import torch
from torch import Tensor, nn
from typing_extensions import Self

from lightning_saliency.attribution.extras import Attribution
from lightning_saliency.attribution.guard import run_guarded
from lightning_saliency.attribution.pointing import PointingSetup, PointingStyle
from lightning_saliency.attribution.validation import check_choice
from lightning_saliency.attribution.verdict import Verdict
from lightning_saliency.errors import InputError, MethodError, SaliencyWarning
from lightning_saliency.image.blur import gaussian_blur
from lightning_saliency.image.saliency_map import ResizeMode, resize
from lightning_saliency.network.batching import Batches
from lightning_saliency.network.layers import is_sharded
from lightning_saliency.network.score import Target, part_of, probability_function

# These settings change how an explanation is computed, not what it is.
_IMMATERIAL = ("batch_size", "autocast")

ADDED_LATER: Mapping[str, bool] = MappingProxyType({"added_later": True})
"""Metadata of a setting that older checkpoints know nothing of: at its default it is not part of a
method's description."""


@dataclass(frozen=True, kw_only=True)
class AttributionMethod(ABC):
    """An attribution method and its settings; call it with a model and images to get maps.

    A method is a frozen dataclass on this class that implements :meth:`attribute`. Everything
    else is done here, once for all of them: the input is checked; the model is in eval mode and
    frozen meanwhile and left as it was found, also after an error; what comes back is checked,
    detached, smoothed and resized. What callbacks, benchmarks and tables need to know of a method,
    it says by the class attributes below.

    Attributes:
        name: the method in snake case, as in the logged tags (``"grad_cam"``).
        shows: what a map shows, in a few words for a table.
        cost: of one map, in passes through the model, for a table.
        not_for: where the method does not apply, for a table; empty if it always does.
        layer_settings: names of the settings that name a layer of the model.
        signed: whether maps can have negative values.
        when_zero: what it means that a map is zero everywhere, in a few words for pictures; empty
            if nothing more can be said.
        stochastic: whether maps depend on a setting ``seed``.
        needs_gradient: whether the score must be differentiable.
        verdict: what papers found of the dependence of maps on weights.
        insensitive_to_late_layers: whether drift of the maps is no sign of a change of the later
            layers, so that :class:`~lightning_saliency.DriftAlarm` leaves it out.
        flat_top_blur: sigma of the blur before the largest value of a map is located, as a share of
            the shorter side; for masks, which are flat on top.
        pointing: what is done around the method in the pointing game.
        resize: True resizes the map to the image, False leaves it as the method made it, a pair
            (height, width) resizes it to that.
        resize_mode: ``"bilinear"``, ``"bicubic"``, ``"nearest"`` or ``"area"``.
        smooth: standard deviation of a Gaussian that the map is blurred with after resizing, as a
            fraction of the longer side of the map; 0 for none.
    """

    name: ClassVar[str]
    shows: ClassVar[str] = ""
    cost: ClassVar[str] = ""
    not_for: ClassVar[str] = ""
    layer_settings: ClassVar[tuple[str, ...]] = ()
    signed: ClassVar[bool] = False
    when_zero: ClassVar[str] = ""
    stochastic: ClassVar[bool] = False
    needs_gradient: ClassVar[bool] = True
    verdict: ClassVar[Verdict] = Verdict("not tested", "No paper that is named here has tested it.")
    insensitive_to_late_layers: ClassVar[bool] = False
    flat_top_blur: ClassVar[float] = 0.0
    pointing: ClassVar[PointingStyle] = PointingStyle()
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
        check_choice("resize_mode", self.resize_mode, get_args(ResizeMode))
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
            model: any module that takes ``image`` and returns class scores, in any state; it
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

    def explain(self, model: nn.Module, image: Tensor, target: Target) -> Attribution:
        """Explain as :meth:`__call__` does, and return what the method finds besides the maps.

        Args:
            model: see :meth:`__call__`, as for ``image`` and ``target``.
            image: (N, C, H, W).
            target: a class index, one for each image, ``"predicted"``, or a callable.

        Raises:
            SaliencyError: as :meth:`__call__`.
        """
        return Attribution(self(model, image, target))

    def extra_names(self) -> list[str]:
        """Return the names of the numbers that come with the maps of :meth:`explain`."""
        return []

    @property
    def has_offset(self) -> bool:
        """Whether maps are large everywhere, so that their minimum is no evidence."""
        return False

    def layers(self) -> tuple[str, ...]:
        """Return the names of the layers that the settings name."""
        return tuple(filter(None, (getattr(self, name) for name in self.layer_settings)))

    def reseeded(self) -> Self:
        """Return the method with another seed; itself if it is not stochastic."""
        if not self.stochastic:
            return self
        settings: dict[str, Any] = {"seed": vars(self)["seed"] + 1}
        return replace(self, **settings)

    @classmethod
    def for_pointing_game(cls, setup: PointingSetup) -> Self:
        """Return the method with the settings of the published pointing game.

        Args:
            setup: what they may depend on.
        """
        return cls(resize=False)

    def describe(self) -> str:
        """Return the method and the settings that its maps depend on, equal in every process."""
        settings = ", ".join(
            f"{field.name}={_in_words(getattr(self, field.name))}"
            for field in fields(self)
            if field.name not in _IMMATERIAL
            and not (field.metadata == ADDED_LATER and getattr(self, field.name) == field.default)
        )
        return f"{type(self).__name__}({settings})"

    def settings(self) -> dict[str, object]:
        """Return the name of the class as ``"method"``, and all settings, as JSON can hold them."""
        # Not by asdict, which copies what it finds: a lock, or a whole module with its weights.
        plain = {field.name: _plain(getattr(self, field.name)) for field in fields(self)}
        return {"method": type(self).__name__, **plain}

    def _can_divide(self, model: nn.Module, image: Tensor, target: Target) -> bool:
        # A callable may know how many images there are, and processes that share a model's weights
        # have to make the same number of passes.
        return self._divisible and len(image) > 1 and not (callable(target) or is_sharded(model))

    def _in_parts(self, model: nn.Module, image: Tensor, target: Target) -> Tensor:
        """Return the maps of :meth:`attribute` for half of the images at a time, or fewer."""

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

    def prepare(self, model: nn.Module, image: Tensor, target: Target = "predicted") -> Self:
        """Check that the method applies to ``model``, and fill in what depends on the model.

        A callback does this once, before the first training step. The method that is returned
        explains the same, but need not look for its layer again.

        Args:
            model: the model that will be explained.
            image: (N, C, H, W), one batch that it takes; one image is enough.
            target: what will be explained; matters if it is a callable.

        Returns:
            This method, or a copy with the open settings filled in.

        Raises:
            LayerError: a layer that the method needs does not exist.
            ModelError: the method does not apply to this model.
        """
        prepared = run_guarded(lambda m, x: self._prepare(m, x, target), model, image)
        if not callable(target):
            run_guarded(_warn_of_probabilities, model, image[:1])
        return prepared

    @property
    def label(self) -> str:
        """What messages call the method."""
        return type(self).__name__

    @property
    def found(self) -> str:
        """What :meth:`prepare` found out about the model, in words for a log; empty if nothing."""
        return ""

    def _prepare(self, model: nn.Module, image: Tensor, target: Target) -> Self:
        """Override to check the model; called inside ``undisturbed(model)``."""
        return self

    def _finished(self, saliency: Tensor, image: Tensor) -> Tensor:
        """Return the output of :meth:`attribute` as ``__call__`` does."""
        saliency = self._checked(saliency, image)
        saliency = saliency.detach().to(torch.promote_types(image.dtype, torch.float32))
        return self._finish(saliency, image)

    def _checked(self, saliency: object, image: Tensor) -> Tensor:
        """Return the output of :meth:`attribute`, if it is maps."""
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
            f"Expected {self.label} to return float maps of shape ({count}, 1, h, w) for "
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


def _warn_of_probabilities(model: nn.Module, image: Tensor) -> None:
    """Say so if the model puts out probabilities, which are read as logits."""
    function = probability_function(model(image.requires_grad_().clone()))
    if function is None:
        return
    logits = {
        "softmax": "module(images).clamp(min=1e-12).log()",
        "sigmoid": "torch.logit(module(images), eps=1e-6)",
    }
    warnings.warn(
        f"Expected logits, but the model puts out probabilities, of a {function}. They are read as "
        "logits: the score that is explained is the probability itself, and probabilities and "
        "predictions that are derived from it are wrong. Let the model return its logits, in a "
        f"callback by forward=lambda module, images: {logits[function]}, or explain the "
        "probability on purpose, with a callable as target such as lambda output: output[:, 0].",
        SaliencyWarning,
        stacklevel=3,
    )


def concrete_methods(found: Iterable[object]) -> tuple[type[AttributionMethod], ...]:
    """Return the methods that can be used, in the order in which they come.

    Args:
        found: classes, and anything else.
    """
    return tuple(
        each
        for each in found
        if isinstance(each, type)
        and issubclass(each, AttributionMethod)
        and not inspect.isabstract(each)
    )


def _in_words(value: object) -> str:
    if isinstance(value, AttributionMethod):
        return value.describe()
    if is_dataclass(value):
        return repr(value)
    # The repr of a function or an object has its address in memory.
    return getattr(value, "__qualname__", type(value).__name__) if callable(value) else repr(value)


def _plain(value: object) -> object:
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return _in_words(value)


def _is_size(size: object) -> bool:
    return (
        isinstance(size, Sequence)
        and len(size) == 2
        and all(isinstance(length, int) and length > 0 for length in size)
    )
