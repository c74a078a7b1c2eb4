"""Contrastive excitation backpropagation: what speaks for this class more than for others.

Zhang, Bargal, Lin, Brandt, Shen, Sclaroff. Top-down neural attention by excitation backprop. IJCV
2018 (ECCV 2016), arXiv:1608.00507, section 3.4.

Besides the signal from the class, one is propagated from the class's dual unit, whose weights are
the negative ones. The map is the positive part of the difference. See
:mod:`~lightning_saliency.attribution.excitation_backprop`.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.autograd.graph import Node
from typing_extensions import Self

from lightning_saliency.attribution.gradient_bases import ExcitationMethod, refuse_negative
from lightning_saliency.attribution.pointing import PointingSetup
from lightning_saliency.attribution.verdict import Verdict
from lightning_saliency.errors import LayerError, NoGradientError
from lightning_saliency.image.saliency_map import ResizeMode
from lightning_saliency.network.excitation_graph import (
    check_signs,
    classifier_nodes,
    node_of,
    nodes_below,
    passed_signal,
    record_excitation,
)
from lightning_saliency.network.score import Target

__all__ = [
    "ContrastiveExcitationBackprop",
    "contrastive_excitation_backprop",
    "contrastive_excitation_map",
]


def contrastive_excitation_map(signal: Tensor) -> Tensor:
    """Return the positive part of the sum of the signal over the channels.

    Args:
        signal: (N, K, h, w), the signal from the class minus that from its dual unit.

    Returns:
        (N, 1, h, w), >= 0.
    """
    return signal.sum(1, keepdim=True).clamp(min=0)


@dataclass(frozen=True)
class ContrastiveExcitationBackprop(ExcitationMethod):
    """Where more of the signal comes from for the class than for its dual unit.

    Both signals are propagated back from the classifier, the dual unit's with the classifier's
    weights negated; the difference is read at ``saliency_layer``. See
    :class:`~lightning_saliency.attribution.excitation_backprop.ExcitationBackprop` for the rules.
    Maps are >= 0: the positive part of what arrives. One forward pass, and one backward pass in
    which each layer runs once more with its positive weights.

    Args:
        saliency_layer: name of the layer at which the difference is read; ``""`` for the
            image. It comes before ``contrast_layer`` in the model, or is the same.
        contrast_layer: name of the layer at which the two signals are subtracted, between
            ``saliency_layer`` and the classifier; None takes what enters the classifier. Signals
            are linear, so the map is the same wherever it is. What passes around the layer is
            subtracted too.
        classifier_layer: name of the layer whose weights are negated for the dual unit; None takes
            the last layer with weights.
        rules: see :class:`ExcitationBackprop`.
        resize: see :class:`AttributionMethod`, as for ``resize_mode`` and ``smooth``.
    """

    name = "contrastive_excitation_backprop"
    shows = "the same, minus the signal of the class's dual unit"
    cost = "as excitation backprop, a little more"
    not_for = "activations that can be negative; attention, gates"
    layer_settings = ("saliency_layer", "contrast_layer", "classifier_layer")
    verdict = Verdict(
        "not tested",
        "The form without contrast fails; the contrast takes away what two classes share.",
    )
    contrast_layer: str | None = None
    classifier_layer: str | None = None

    @classmethod
    def for_pointing_game(cls, setup: PointingSetup) -> Self:
        """Return the method for the model's layers."""
        return cls(setup.excitation_layer, setup.contrast_layer, resize=False)

    signal_map = staticmethod(contrastive_excitation_map)

    def _prepare(self, model: nn.Module, image: Tensor, target: Target) -> Self:
        prepared = super()._prepare(model, image, target)
        if not callable(target):
            # The difference of two signals does not show what the signal itself does: whether the
            # rules hold for the model.
            plain = prepared.excitation(model, image[:1].detach().clone(), target)
            refuse_negative(prepared.picture(plain, (image.shape[2], image.shape[3])).sum(1))
        return prepared

    def excitation(self, model: nn.Module, image: Tensor, target: Target) -> Tensor:
        """Return the signal at the layer without a contrast, of its shape.

        Args:
            model: in eval mode, with frozen parameters.
            image: (N, C, H, W); a copy that the model may write to.
            target: see :class:`AttributionMethod`.
        """
        layer = self.saliency_layer
        scores, layers, _ = record_excitation(model, image, target, {layer}, layer, self.rules)
        classifier_nodes(scores, "classifier")
        return passed_signal(scores, layers[layer], layer)

    def signal(self, model: nn.Module, image: Tensor, target: Target) -> Tensor:
        """Return the difference of the signals at the layer, of its shape.

        Args:
            model: in eval mode, with frozen parameters.
            image: (N, C, H, W); a copy that the model may write to.
            target: see :class:`AttributionMethod`.

        Raises:
            LayerError: the layers do not follow one another in the model as they must.
            ModelError: there is no layer with weights between the image and the score.
        """
        names = {self.saliency_layer, self.contrast_layer or "", self.classifier_layer or ""}
        scores, layers, domain = record_excitation(
            model, image, target, names, self.saliency_layer, self.rules
        )
        start = layers[self.classifier_layer] if self.classifier_layer else scores
        classifier = classifier_nodes(start, "contrast")
        self._check_order(scores, layers, classifier)
        signal = passed_signal(scores, layers[self.saliency_layer], self.saliency_layer)
        check_signs(model, domain)
        return signal

    def _check_order(
        self, scores: Tensor, layers: Mapping[str, Tensor], classifier: Collection[Node]
    ) -> None:
        above = set(nodes_below(scores, classifier))
        if not above.issuperset(classifier):
            raise LayerError(
                f"Expected classifier_layer '{self.classifier_layer}' to be the layer that the "
                "score comes from, but the score does not depend on it. Leave it out, so that the "
                "last layer with weights is found."
            )
        if not self.contrast_layer:
            return
        contrast = layers[self.contrast_layer]
        if node_of(contrast) in above:
            raise LayerError(
                f"Expected contrast_layer '{self.contrast_layer}' to come before the classifier, "
                "but the score depends on it in a way around the classifier's weights. Name an "
                "earlier layer, or leave it out."
            )
        if node_of(contrast) not in set(nodes_below(scores)):
            raise NoGradientError(
                f"Expected the score to depend on the output of contrast_layer "
                f"'{self.contrast_layer}' in a differentiable way, but it does not. Name a layer "
                "between the image and the classifier."
            )
        if node_of(layers[self.saliency_layer]) not in set(nodes_below(contrast)):
            where = f"layer '{self.saliency_layer}'" if self.saliency_layer else "the image"
            raise LayerError(
                f"Expected contrast_layer '{self.contrast_layer}' to come after {where} in the "
                "model, but it does not depend on it. Swap saliency_layer and contrast_layer."
            )


def contrastive_excitation_backprop(
    model: nn.Module,
    input: Tensor,
    target: Target,
    saliency_layer: str = "",
    contrast_layer: str | None = None,
    classifier_layer: str | None = None,
    resize: bool | tuple[int, int] = False,
    resize_mode: ResizeMode = "bilinear",
    smooth: float = 0.0,
) -> Tensor:
    """Return :class:`ContrastiveExcitationBackprop` maps.

    Args:
        model: takes ``input`` and returns class scores; it is not changed.
        input: (N, C, H, W).
        target: class index, one for each image, ``"predicted"``, or a callable.
        saliency_layer: name of a layer; ``""`` for the image.
        contrast_layer: name of the layer at which the signals are subtracted; None for what
            enters the classifier.
        classifier_layer: name of the layer whose weights are negated; None for the last one.
        resize: True resizes the map to the image, a pair is (height, width).
        resize_mode: ``"bilinear"``, ``"bicubic"``, ``"nearest"`` or ``"area"``.
        smooth: sigma of a Gaussian blur, as a fraction of the map's longer side.

    Returns:
        (N, 1, h, w), >= 0, of the layer's height and width unless ``resize`` is given.

    Raises:
        InputError: the image, the target or a setting cannot be used.
        LayerError: a layer does not exist or did not run once, or they are in the wrong order.
        ModelError: the model has activations that can be negative, is scripted, or no classifier
            was found.
    """
    method = ContrastiveExcitationBackprop(
        saliency_layer,
        contrast_layer,
        classifier_layer,
        resize=resize,
        resize_mode=resize_mode,
        smooth=smooth,
    )
    return method(model, input, target)
