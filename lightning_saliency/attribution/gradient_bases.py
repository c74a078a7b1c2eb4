"""The common bases of the methods that are made of gradients.

::

    AttributionMethod
    └── SpatialMethod                read at one layer, laid out as a picture
        ├── GradientMethod           a map made of one layer's output and gradient
        │   ├── LayerMethod          of a spatial layer: Grad-CAM, linear approximation
        │   └── RectifiedGradient    another rule for ReLU: guided backprop, DeconvNet
        └── ExcitationMethod         a signal with its own backward rules: excitation backprop
"""

import warnings
from abc import abstractmethod
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import ClassVar

from torch import Tensor, nn
from typing_extensions import Self

from lightning_saliency.attribution.guard import require_python_model
from lightning_saliency.attribution.method import ADDED_LATER, AttributionMethod
from lightning_saliency.attribution.pointing import PointingSetup, PointingStyle
from lightning_saliency.errors import ModelError, SaliencyWarning
from lightning_saliency.network.backward_rules import INSTEAD, BackwardRules, Rules
from lightning_saliency.network.grid import Layout, fold
from lightning_saliency.network.layer_gradient import GradientRequest, layer_gradient
from lightning_saliency.network.layer_selection import (
    FoundLayer,
    find_layout,
    last_spatial_layer,
)
from lightning_saliency.network.relu_rules import NO_RULE, ReluChoice
from lightning_saliency.network.score import Target

DERIVATIVE_STYLE = PointingStyle(smooth=0.02)
"""Derivatives with respect to pixels are noisy, and blurred in the pointing game."""

# The sums of excitation maps were measured to be off by up to 1e-5 on torchvision's models in
# float32, where every function has a rule; where one has none, they are off by tenths.
_SUM_TOLERANCE = 0.02
_NEGATIVE_SHARE = 0.01


@dataclass(frozen=True)
class SpatialMethod(AttributionMethod):
    """A method that reads something at one layer of the model, laid out as a picture.

    Subclasses have the settings ``saliency_layer`` and ``layout``.
    """

    saliency_layer: str | None
    layout: Layout

    def located(self, model: nn.Module, image: Tensor, target: Target | None = None) -> Self:
        """Return the method with its layer and layout filled in; itself if both are.

        Args:
            model: in eval mode, with frozen parameters.
            image: (N, C, H, W).
            target: a callable whose score the layer must lead to; else the largest logit's.

        Raises:
            LayerError: there is no such layer, or its layout is not clear.
        """
        if self.saliency_layer is None:
            found = last_spatial_layer(model, image, target)
            # What the user says of the layout wins.
            layout = found.layout if self.layout == "auto" else self.layout
            found = FoundLayer(found.name, layout, found.words)
        elif self.saliency_layer == "":
            return self if self.layout != "auto" else replace(self, layout="channels_first")
        elif self.layout == "auto":
            found = find_layout(model, image, self.saliency_layer)
        else:
            return self
        located = replace(self, saliency_layer=found.name, layout=found.layout)
        # Not a setting: it says nothing that the settings do not.
        object.__setattr__(located, "_found", found.words)
        return located

    @property
    def found(self) -> str:
        """What :meth:`prepare` found: layer, grid and tokens that are left out; else empty."""
        return str(vars(self).get("_found", ""))

    def picture(self, value: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the layer's output, or a gradient of its shape, as (N, K, h, w).

        Args:
            value: of a layer, once the method is :meth:`located`.
            size: (height, width) of the image.
        """
        return fold(value, size, self.layout)

    def _prepare(self, model: nn.Module, image: Tensor, target: Target) -> Self:
        # One image shows whether the layer runs once and has a grid, and what the method refuses.
        prepared = self.located(model, image[:1], target)
        prepared.attribute(model, image[:1], target)
        return prepared


@dataclass(frozen=True)
class GradientMethod(SpatialMethod):
    """A method whose map is a function of one layer's output and of a gradient there.

    A method states which gradient it needs and computes its map from it. So one pass can serve
    several methods (:func:`~lightning_saliency.attribution.shared_pass.shared_maps`), and each can
    make its pass alone. A method that overrides :meth:`attribute` always makes its own.
    """

    @abstractmethod
    def map_of(self, activation: Tensor, gradient: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the maps (N, 1, h, w), once the method is :meth:`located`.

        Args:
            activation: the layer's output, of any shape.
            gradient: of the same shape.
            size: (height, width) of the image.
        """

    def gradient_request(self, model: nn.Module) -> GradientRequest | None:
        """Return the gradient that the map is made of; None if no other method can share the pass.

        Args:
            model: in eval mode, with frozen parameters.
        """
        return GradientRequest(self.saliency_layer or "")

    def pass_rules(self, model: nn.Module) -> AbstractContextManager[object] | None:
        """Return the context in which this method's own forward pass runs; None for none.

        Args:
            model: in eval mode, with frozen parameters.
        """
        return None

    def attribute(self, model: nn.Module, image: Tensor, target: Target) -> Tensor:
        """Return the maps (N, 1, h, w); see :meth:`AttributionMethod.attribute`."""
        method, size = self.located(model, image, target), (image.shape[2], image.shape[3])
        layer = method.saliency_layer or ""
        activation, gradient = layer_gradient(model, image, target, layer, self.pass_rules(model))
        return method.map_of(activation, gradient, size)


@dataclass(frozen=True)
class LayerMethod(GradientMethod):
    """A method whose map is a function of one layer's activation and gradient.

    Args:
        saliency_layer: name of the layer whose output is explained. None takes the last layer with
            a spatial output that all of the score goes through; looking for it costs a forward and
            a backward pass of one image and a forward pass of seven each time, which
            :meth:`prepare` spares (callbacks call it once).
        layout: how the layer's output is laid out, see
            :data:`~lightning_saliency.network.grid.Layout`; ``"auto"`` finds out by noise in single
            rows and columns of the image.
        resize: see :class:`AttributionMethod`, as for ``resize_mode`` and ``smooth``.
    """

    cost = "1 forward + a part of a backward"
    not_for = "no layer with a spatial output"
    layer_settings: ClassVar[tuple[str, ...]] = ("saliency_layer",)
    saliency_layer: str | None = None
    layout: Layout = "auto"

    @classmethod
    def for_pointing_game(cls, setup: PointingSetup) -> Self:
        """Return the method for the model's layer."""
        return cls(setup.layer, resize=False)

    @staticmethod
    @abstractmethod
    def layer_map(activation: Tensor, gradient: Tensor) -> Tensor:
        """Return the map (N, 1, h, w) from activation and gradient, (N, K, h, w) both."""

    def map_of(self, activation: Tensor, gradient: Tensor, size: tuple[int, int]) -> Tensor:
        """Return :meth:`layer_map` of the layer, laid out as a picture."""
        return self.layer_map(self.picture(activation, size), self.picture(gradient, size))


def gradient_map(gradient: Tensor) -> Tensor:
    """Return the largest absolute derivative over the channels.

    Args:
        gradient: (N, C, H, W), derivative of the score with respect to the image or to a layer.

    Returns:
        (N, 1, H, W), >= 0.
    """
    return gradient.abs().amax(1, keepdim=True)


@dataclass(frozen=True)
class RectifiedGradient(GradientMethod):
    """The largest absolute derivative over the channels, with a rule of its own for ReLU.

    Args:
        saliency_layer: see :class:`~lightning_saliency.attribution.gradient.Gradient`.
        layout: of the layer's output, see :class:`LayerMethod`.
        rules: more rules, or other ones, see
            :data:`~lightning_saliency.network.backward_rules.Rules`.
        resize: see :class:`AttributionMethod`, as for ``resize_mode`` and ``smooth``.
    """

    cost = "1 forward + 1 backward"
    not_for = "no ReLU; GELU, SiLU, LeakyReLU, ...; insensitive to late layers"
    layer_settings: ClassVar[tuple[str, ...]] = ("saliency_layer",)
    insensitive_to_late_layers = True
    pointing = DERIVATIVE_STYLE
    saliency_layer: str = ""
    layout: Layout = field(default="auto", kw_only=True, metadata=ADDED_LATER)
    # Functions have neither a lasting repr nor a dict a hash; equal methods still hash equally.
    rules: Rules | None = field(default=None, kw_only=True, repr=False, hash=False)

    @staticmethod
    @abstractmethod
    def relu_rule(gradient: Tensor, output: Tensor, ceiling: float) -> Tensor:
        """Pass a gradient back through ReLU.

        See :data:`~lightning_saliency.network.relu_rules.ReluRule`; the tensors are of one shape,
        whatever shape that is.
        """

    def map_of(self, activation: Tensor, gradient: Tensor, size: tuple[int, int]) -> Tensor:
        """Return :func:`gradient_map` of the layer."""
        return gradient_map(self.picture(gradient, size))

    def pass_rules(self, model: nn.Module) -> BackwardRules:
        """Return the rules for ReLU, and those of the user."""
        method = type(self).__name__
        require_python_model(model, method)
        every_rule = {**ReluChoice(self.relu_rule).rules(), **(self.rules or {})}
        return BackwardRules(every_rule, refused=NO_RULE, method=method, only_torch=not self.rules)

    def gradient_request(self, model: nn.Module) -> GradientRequest | None:
        """Return the gradient by the method's rule; None where there are rules of the user."""
        require_python_model(model, type(self).__name__)
        return None if self.rules else GradientRequest(self.saliency_layer, self.relu_rule)


@dataclass(frozen=True)
class ExcitationMethod(SpatialMethod):
    """A signal that starts at the class and is passed back by rules of its own.

    Args:
        saliency_layer: name of the layer at which the signal is read; ``""`` for the image.
        layout: of the layer's output, see :class:`LayerMethod`.
        rules: more rules, or other ones, see
            :data:`~lightning_saliency.network.backward_rules.Rules`.
    """

    layer_settings: ClassVar[tuple[str, ...]] = ("saliency_layer",)
    saliency_layer: str = ""
    layout: Layout = field(default="auto", kw_only=True, metadata=ADDED_LATER)
    # Functions have neither a lasting repr nor a dict a hash; equal methods still hash equally.
    rules: Rules | None = field(default=None, kw_only=True, repr=False, hash=False)

    @classmethod
    def for_pointing_game(cls, setup: PointingSetup) -> Self:
        """Return the method that stops at the model's layer for it."""
        return cls(setup.excitation_layer, resize=False)

    def attribute(self, model: nn.Module, image: Tensor, target: Target) -> Tensor:
        """Return the maps (N, 1, h, w); see :meth:`AttributionMethod.attribute`."""
        require_python_model(model, type(self).__name__)
        method, size = self.located(model, image, target), (image.shape[2], image.shape[3])
        return self.signal_map(method.picture(method.signal(model, image, target), size))

    @abstractmethod
    def signal(self, model: nn.Module, image: Tensor, target: Target) -> Tensor:
        """Return the signal at the layer, of its shape.

        Args:
            model: in eval mode, with frozen parameters.
            image: (N, C, H, W); a copy that the model may write to.
            target: see :class:`AttributionMethod`.
        """

    @staticmethod
    @abstractmethod
    def signal_map(signal: Tensor) -> Tensor:
        """Return the map (N, 1, h, w) from a signal (N, K, h, w)."""


def refuse_negative(saliency: Tensor) -> None:
    """Raise if excitation maps have values below 0.

    Args:
        saliency: (N, 1, h, w).

    Raises:
        ModelError: they have.
    """
    share = saliency.clamp(max=0).sum().abs() / saliency.abs().sum().clamp(min=1e-12)
    if bool(share > _NEGATIVE_SHARE):
        raise ModelError(
            "Expected excitation maps >= 0, but a part of them is negative "
            f"({float(share):.0%} of their size): the model adds activations of both signs, as "
            f"branches without a ReLU of their own do. Take {INSTEAD}."
        )


def warn_of_loss(signal: Tensor) -> None:
    """Warn if a part of the signal was lost on the way, or made up.

    Args:
        signal: (N, ...), all of what arrived from a signal of 1 for each image.
    """
    sums = signal.flatten(1).sum(1)
    worst = sums[(sums - 1).abs().argmax()]
    if not bool((worst - 1).abs() <= _SUM_TOLERANCE):
        warnings.warn(
            f"Expected excitation maps that sum to 1, got a sum of {float(worst):.3g}. The model "
            "has functions without a rule for excitation backprop, such as products of "
            "activations, or units that nothing excites; the map is not the published one.",
            SaliencyWarning,
            stacklevel=2,
        )
