"""Find the layer that Grad-CAM explains when the user names none, and how its output is laid out.

Both are found by experiment, not by names and shapes: where the places of each layer's output lie
(:mod:`~lightning_saliency.network.grid_evidence`), and which layers all of the score's dependence
on the image goes through (:mod:`~lightning_saliency.network.cuts`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from lightning_saliency.errors import LayerError, ModelError, NoGradientError
from lightning_saliency.network.cuts import are_cuts
from lightning_saliency.network.forward_view import name_of
from lightning_saliency.network.grid import Layout, TokenGrid, fold, layout_in_words
from lightning_saliency.network.grid_evidence import Evidence, find_layouts
from lightning_saliency.network.layers import find_layer, layer_names
from lightning_saliency.network.place_probe import probe_places
from lightning_saliency.network.score import Target, class_logits, class_scores

# They resample or mask what the layer before them has found; the map is that layer's.
_PASSED_OVER = (
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
    nn.AvgPool2d,
    nn.Dropout,
    nn.Dropout2d,
    nn.Identity,
    nn.Upsample,
    # Not for what it does: its layers cannot be seen.
    torch.jit.ScriptModule,
)

# A map of a layer that is this much like the model's own output says nothing new.
_LIKE_THE_OUTPUT = 0.9
_CANDIDATES_SHOWN = 3
_MANY_LAYERS = 4
# Fewer are what pooling leaves.
_FEWEST_TOKENS = 4


@dataclass(frozen=True)
class FoundLayer:
    """A layer with a spatial output.

    Attributes:
        name: of the layer.
        layout: of its output.
        words: layer, grid and left out tokens, for a log.
    """

    name: str
    layout: Layout
    words: str


def last_spatial_layer(model: nn.Module, image: Tensor, target: Target | None = None) -> FoundLayer:
    """Return the last layer with a spatial grid that all of the score's evidence goes through.

    It is the last to finish of the layers that ran once, put out one tensor whose places lie as in
    the image, and that every path from the score to the image goes through; the score must depend
    on its places. Average pooling, dropout and upsampling are passed over, and linear layers on
    tokens. In vision transformers whose class token alone is used after the last attention, the
    normalization before that attention is taken, through which all goes that the places add. If the
    model's output is itself a picture of classes, layers whose Grad-CAM is that picture again are
    passed over.

    On torchvision's models it is for instance ``layer4`` (ResNet), ``features`` (VGG, DenseNet,
    MobileNet, ConvNeXt), ``permute`` (Swin) and ``encoder.layers.encoder_layer_11.ln_1`` (ViT-B).

    The model runs on the first image, forward and backward, and on
    :data:`~lightning_saliency.network.place_probe.PROBES` noisy copies of it. It runs once more if
    the score depends on nothing because a layer starts at zero, as the last one of torchvision's
    vision transformers does. Call this inside
    :func:`~lightning_saliency.network.isolation.undisturbed.undisturbed`.

    Args:
        model: the model that is explained.
        image: (N, C, H, W), what the model takes.
        target: whose score it is; None for the largest logit, or all that the model puts out where
            it puts out no logits.

    Raises:
        LayerError: no layer has such an output, or it is not clear which layer to take.
        NoGradientError: no layer that has one can be differentiated.
    """
    layouts = find_layouts(probe_places(model, image))
    recording = _Recording(model, image, layouts, target)
    if not recording.layers:
        raise LayerError(
            f"Expected a layer of {name_of(model)} with an output of shape (N, K, h, w) for "
            "Grad-CAM and linear approximation, but none of its layers has one whose places lie as "
            "in the image (layers that are scripted or traced, or that run several times, do not "
            "count). Name a layer and its layout, or take a gradient method or RISE."
        )
    if not any(layer.output.requires_grad for layer in recording.layers):
        raise NoGradientError(
            f"Expected the layers of {name_of(model)} to be differentiable, but none of the "
            f"{len(recording.layers)} with a spatial output is. Look for detach() in the model's "
            "forward, or take RISE, which needs no gradient."
        )
    if not recording.influential:
        with _noise_for_zeros(model):
            again = _Recording(model, image, layouts, target)
        if not again.influential and callable(target):
            # Nothing is found yet of what is to be explained, such as a box: what is found counts.
            again = _Recording(model, image, layouts, _everything)
        if not again.influential:
            # The score is constant, as in a network of dead units.
            return _found(again.cuts[-1] if again.cuts else recording.layers[-1])
        recording = again
    return _found(_choose(recording, name_of(model)))


@dataclass(frozen=True, eq=False)
class _Layer:
    """A layer that put out one tensor with a grid.

    ``edge`` is where its output lies in the graph; ``entered`` where its input does, for a layer
    that puts out tokens in the shape in which they enter it.
    """

    name: str
    module: nn.Module
    output: Tensor
    edge: GradientEdge | None
    evidence: Evidence
    entered: GradientEdge | None = None

    @property
    def words(self) -> str:
        layout = self.evidence.layout
        how = "no grid" if layout is None else layout_in_words(layout, self.output)
        return f"'{self.name}' {tuple(self.output.shape[1:])}, {how}, R2 {self.evidence.fit:.2f}"


def _found(layer: _Layer) -> FoundLayer:
    layout = layer.evidence.layout
    if layout is None:  # pragma: no cover - only layers with a layout are chosen
        raise LayerError(f"Expected layer '{layer.name}' to have a grid.")
    return FoundLayer(
        layer.name, layout, f"layer '{layer.name}', {layout_in_words(layout, layer.output)}"
    )


class _Recording:
    """One forward pass with a graph, and what the score's gradient says of it.

    Attributes:
        layers: those with a grid, in the order in which they finished.
        cuts: of these, the ones that everything goes through.
        influential: of the layers, those whose places the score depends on, with its gradient.
        unread: cuts of tokens without a grid on which the score depends, by how far on they come.
    """

    def __init__(
        self,
        model: nn.Module,
        image: Tensor,
        layouts: Mapping[str, Evidence],
        target: Target | None,
    ) -> None:
        self._size = (image.shape[2], image.shape[3])
        self._image = image[:1].clone().requires_grad_()
        every, output = _watch(model, self._image, layouts)
        self.layers = [layer for layer in every if max(layer.evidence.grid) > 1]
        self.score, self.picture = _score_of(output, target)
        self._gradients = self._gradients_of(every)
        with_edge = [layer for layer in every if layer.edge is not None]
        self._cuts: set[str] = set()
        self._entrances: set[str] = set()
        if self.score is not None and self._gradients:
            edges = [layer.edge for layer in with_edge if layer.edge is not None]
            entered = [layer for layer in with_edge if layer.entered is not None]
            edges += [layer.entered for layer in entered if layer.entered is not None]
            cut = are_cuts(self.score, self._image, edges)
            first = dict(zip(with_edge, cut, strict=False))
            self._cuts = {layer.name for layer, is_cut in first.items() if is_cut}
            second = dict(zip(entered, cut[len(with_edge) :], strict=True))
            self._entrances = {layer.name for layer, is_cut in second.items() if is_cut}
        self.cuts = [layer for layer in self.layers if layer.name in self._cuts]
        reached = [layer for layer in self.layers if layer.name in self._gradients]
        acts = _are_any([self.gradient_at(layer) for layer in reached])
        self.influential = [layer for layer, yes in zip(reached, acts, strict=True) if yes]
        self.unread = [
            layer
            for layer in every
            if layer.evidence.layout is None
            and layer.name in self._cuts
            and layer.name in self._gradients
            and min(layer.output.shape[1:]) >= _FEWEST_TOKENS
        ]
        self.order = {layer.name: number for number, layer in enumerate(every)}

    def is_cut(self, layer: _Layer) -> bool:
        return layer.name in self._cuts

    def gradient_at(self, layer: _Layer) -> Tensor:
        """Return the score's gradient, as a picture (1, K, h, w)."""
        return self._folded(self._gradients[layer.name], layer)

    def picture_at(self, layer: _Layer) -> Tensor:
        """Return the layer's output, as a picture (1, K, h, w)."""
        return self._folded(layer.output.detach(), layer)

    def is_step(self, layer: _Layer) -> bool:
        """Whether all that the places which enter a layer of tokens add goes through it.

        Other tokens may go around it, so its output is no cut, while its input is one.
        """
        if self.score is None or layer.entered is None or layer.name not in self._entrances:
            return False
        block: Any = layer.output.register_hook
        handle = block(torch.zeros_like)
        try:
            (rest,) = torch.autograd.grad(
                self.score, [layer.entered], retain_graph=True, allow_unused=True
            )
        finally:
            handle.remove()
        return rest is None or not bool(self._folded(rest, layer).any())

    def _folded(self, value: Tensor, layer: _Layer) -> Tensor:
        layout = layer.evidence.layout
        return value if layout is None else fold(value, self._size, layout)

    def _gradients_of(self, layers: Sequence[_Layer]) -> dict[str, Tensor]:
        layers = [layer for layer in layers if layer.edge is not None]
        if self.score is None or not self.score.requires_grad or not layers:
            return {}
        gradients = torch.autograd.grad(
            self.score,
            [layer.edge for layer in layers if layer.edge is not None],
            retain_graph=True,
            allow_unused=True,
        )
        reached = [
            (layer.name, gradient)
            for layer, gradient in zip(layers, gradients, strict=True)
            if gradient is not None
        ]
        some = _are_any([gradient for _, gradient in reached])
        return {name: gradient for (name, gradient), yes in zip(reached, some, strict=True) if yes}


def _are_any(values: Sequence[Tensor]) -> list[bool]:
    # One question for all of them, for which an accelerator is waited for once.
    answers = [value.any() for value in values]
    found: list[bool] = torch.stack(answers).tolist() if answers else []
    return found


def _choose(recording: _Recording, model: str) -> _Layer:
    """Return the layer to explain, of those that the score depends on.

    Raises:
        LayerError: it is not clear which.
    """
    influential = [layer for layer in recording.influential if not _is_linear_on_tokens(layer)]
    cuts = [layer for layer in influential if recording.is_cut(layer)]
    if recording.picture is not None:
        cuts = _without_the_output(cuts, recording, recording.picture)
    last = cuts[-1:] if recording.picture is not None else _last_step(influential, recording)
    doubt = ""
    if not last:
        doubt = "its score does not go through any one layer with a grid"
    else:
        (chosen,) = last
        later = [layer for layer in recording.unread if _comes_after(layer, chosen, recording)]
        if later and recording.picture is None:
            doubt = f"the last layer with one, {chosen.words}, comes before tokens without: " + (
                f"{later[-1].words}"
            )
        elif recording.picture is None and _is_early(influential.index(chosen), len(influential)):
            doubt = f"the last one that all goes through is {chosen.words}, early in the model"
    if doubt:
        names = list({id(layer.output): layer for layer in influential}.values())
        shown = "; ".join(layer.words for layer in names[-_CANDIDATES_SHOWN:])
        raise LayerError(
            f"Expected one layer of {model} late in the model with a spatial output, but {doubt}. "
            f"Name one: saliency_layer='...' (and layout= if its grid is not found). The last with "
            f"a grid that the score depends on: {shown or 'none'}."
        )
    return chosen


def _last_step(layers: Sequence[_Layer], recording: _Recording) -> list[_Layer]:
    """Return the last layer that all of the score, or of what places add to it, goes through."""
    for layer in reversed(layers):
        if recording.is_cut(layer) or recording.is_step(layer):
            return [layer]
    return []


def _is_early(index: int, count: int) -> bool:
    # Of a few layers, the last that all goes through may be among the first.
    return 2 * (1 + index) < count and count - 1 - index >= _MANY_LAYERS


def _comes_after(layer: _Layer, other: _Layer, recording: _Recording) -> bool:
    return recording.order[layer.name] > recording.order[other.name]


def _is_linear_on_tokens(layer: _Layer) -> bool:
    # Queries, keys, values, and what widens the features between two layers.
    return layer.output.dim() == 3 and isinstance(layer.module, nn.Linear)


def _without_the_output(
    cuts: Sequence[_Layer], recording: _Recording, picture: Tensor
) -> list[_Layer]:
    """Leave out layers whose Grad-CAM is the model's own picture of the class, (1, 1, h, w)."""
    new = []
    for layer in cuts:
        activation = recording.picture_at(layer).float()
        weights = recording.gradient_at(layer).float().mean((2, 3), keepdim=True)
        saliency = (weights * activation).sum(1, keepdim=True)
        shown = nn.functional.interpolate(picture.float(), saliency.shape[2:], mode="area")
        likeness = max(_likeness(saliency, shown), _likeness(saliency.relu(), shown.relu()))
        # One channel is a class, and what makes it up is all the picture.
        channels = int(recording.gradient_at(layer).flatten(2).any(2).sum())
        if channels > 1 and likeness < _LIKE_THE_OUTPUT:
            new.append(layer)
    return new


def _likeness(a: Tensor, b: Tensor) -> float:
    """Return the size of the correlation."""
    both = torch.stack([a.flatten(), b.flatten()])
    both = both - both.mean(1, keepdim=True)
    return float(nn.functional.cosine_similarity(both[0], both[1], dim=0).abs())


def _watch(
    model: nn.Module, image: Tensor, layouts: Mapping[str, Evidence]
) -> tuple[list[_Layer], object]:
    """Run the model and return its layers with a known layout or tokens, and its own output."""
    runs: Counter[str] = Counter()
    finished: list[_Layer] = []

    def note(name: str, layer: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        runs[name] += 1
        evidence = layouts.get(name)
        if isinstance(output, Tensor) and evidence is not None:
            edge = get_gradient_edge(output) if output.requires_grad else None
            if evidence.layout is not None or output.dim() == 3:
                finished.append(
                    _Layer(name, layer, output, edge, evidence, _entrance(inputs, output))
                )

    # A layer that the model holds under several names goes by the first.
    layers = {layer: name for name, layer in reversed(layer_names(model).items())}
    handles = [
        layer.register_forward_hook(
            lambda m, inputs, output, name=name: note(name, m, inputs, output)
        )
        for layer, name in layers.items()
        if not isinstance(layer, _PASSED_OVER)
    ]
    try:
        with torch.enable_grad():
            # A clone, because a model that writes into its input may not write into a leaf.
            output = model(image.clone())
    finally:
        for handle in handles:
            handle.remove()
    return [layer for layer in finished if runs[layer.name] == 1], output


def _entrance(inputs: tuple[object, ...], output: Tensor) -> GradientEdge | None:
    value = inputs[0] if inputs else None
    if not isinstance(value, Tensor) or not value.requires_grad or output.dim() != 3:
        return None
    return get_gradient_edge(value) if value.shape == output.shape else None


def _score_of(output: object, target: Target | None) -> tuple[Tensor | None, Tensor | None]:
    """Return the score of the first image; and Grad-CAM of an output that is itself a picture."""
    if callable(target) and not isinstance(target, Tensor):
        score: Tensor | None = class_scores(output, target, 1).sum()
    else:
        try:
            score = class_logits(output, 1).amax()
        except ModelError:
            return (
                _everything(output).sum() if any(True for _ in _differentiable(output)) else None
            ), None
    picture = next((part for part in _differentiable(output) if part.dim() == 4), None)
    if score is None or not score.requires_grad or picture is None:
        return score, None
    (gradient,) = torch.autograd.grad(score, picture, retain_graph=True, allow_unused=True)
    if gradient is None or not gradient.any():
        return score, None
    weights = gradient.mean((2, 3), keepdim=True)
    return score, (weights * picture.detach()).sum(1, keepdim=True)


def _everything(output: object) -> Tensor:
    """Return the sum of all that a model puts out for one image, (1,)."""
    parts = [part.sum().float() for part in _differentiable(output)]
    return torch.stack(parts or [torch.zeros(())]).sum()[None]


def _differentiable(output: object) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        if output.requires_grad and output.is_floating_point():
            yield output
    elif isinstance(output, Mapping):
        for part in output.values():
            yield from _differentiable(part)
    elif isinstance(output, (list, tuple)):
        for part in output:
            yield from _differentiable(part)


@contextmanager
def _noise_for_zeros(model: nn.Module) -> Iterator[None]:
    """Replace every weight that is all zero by noise inside this context."""
    # Not by torch.func.functional_call, which leaves its weights in a layer with two names.
    generator = torch.Generator().manual_seed(0)
    zeros = [
        (module._parameters, name, weight)
        for module in model.modules()
        if not isinstance(module, torch.jit.ScriptModule)
        for name, weight in module._parameters.items()
        if weight is not None and weight.is_floating_point() and not weight.any()
    ]
    try:
        for table, name, weight in zeros:
            noise = torch.randn(weight.shape, generator=generator).to(weight)
            table[name] = nn.Parameter(noise, requires_grad=False)
        yield
    finally:
        for table, name, weight in zeros:
            table[name] = weight


def find_layout(model: nn.Module, image: Tensor, layer: str) -> FoundLayer:
    """Return how a layer's output is laid out.

    The model runs on :data:`~lightning_saliency.network.place_probe.PROBES` noisy copies of the
    first image, once for each layer and size of image. Call this inside
    :func:`~lightning_saliency.network.isolation.undisturbed.undisturbed`.

    Args:
        model: the model that is explained.
        image: (N, C, H, W), what the model takes.
        layer: its name.

    Raises:
        LayerError: the layer does not exist, did not run once with one tensor as its output, or its
            places do not lie as in the image.
    """
    module = find_layer(model, layer)
    known = _KNOWN.setdefault(module, {})
    key = tuple(image.shape[1:])
    if key not in known:
        known[key] = _probe_layout(model, module, image, layer)
    # The layer may have another name in another model.
    return replace(known[key], name=layer)


# By the layer and the shape of an image. A layout is a matter of how the model is built, which
# weights do not change, so it is looked for once.
_KNOWN: WeakKeyDictionary[nn.Module, dict[tuple[int, ...], FoundLayer]] = WeakKeyDictionary()


def _probe_layout(model: nn.Module, module: nn.Module, image: Tensor, layer: str) -> FoundLayer:
    every = probe_places(model, image)
    evidence = find_layouts(every)
    probed = {each.name: each for each in every if not each.is_input}
    names = [name for name, other in layer_names(model).items() if other is module]
    name = next((name for name in names if name in evidence), None)
    if name is None:
        # The pass that explains says what is wrong with the layer.
        return FoundLayer(layer, "channels_first", "")
    shape, layout = probed[name].shape, evidence[name].layout
    if layout is None:
        raise LayerError(
            f"Expected the places of layer '{layer}' to lie as in the image, but its output of "
            f"shape {shape} for each image follows the image's rows and columns in no known "
            "layout. Name a layer that puts out features of places, or say how it is laid out: "
            "layout='channels_first', 'channels_last', TokenGrid(height, width, before=1), or a "
            "callable from the output to (N, K, h, w)."
        )
    height, width = evidence[name].grid
    words = f"{height} x {width} places, {str(layout).replace('_', ' ')}"
    if isinstance(layout, TokenGrid):
        words = str(layout)
    return FoundLayer(layer, layout, f"layer '{layer}', {words}")
