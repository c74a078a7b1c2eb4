"""What is right about the map of a network, calculated without the code that is tested.

The layer is right if its grid and its left out tokens are the truth, and if changing one cell of
the image changes that place of the grid most. Maps are right if they are the ones of the plain
formulas, of the layer folded by the truth. A method is refused rightly if the network really has
what it is refused for.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from model_cases import Case, Size
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_saliency.attribution import METHODS, GradCAM, TokenGrid
from lightning_saliency.attribution.gradient_bases import LayerMethod
from lightning_saliency.errors import SaliencyError

RIGHT, REFUSED, WRONG = "right", "refused", "wrong"

# They are slow, and need neither layer nor rules.
_NOT_TRIED = ("rise", "extremal_perturbation")
_RECTIFIERS = {"relu", "relu_", "relu6", "clamp_min", "clamp_min_", "threshold"}
_SIGNED = {
    *("celu", "elu", "gelu", "hardshrink", "hardswish", "leaky_relu", "mish", "prelu", "rrelu"),
    *("selu", "silu", "softshrink", "softsign", "tanh", "tanhshrink"),
}
_CURVED = _SIGNED | {"sigmoid", "hardsigmoid", "softmax", "layer_norm", "group_norm", "softplus"}
_CURVED |= {"scaled_dot_product_attention", "multi_head_attention_forward", "exp", "sqrt", "pow"}
_CURVED |= {"rsqrt", "div", "truediv", "normalize", "norm", "var", "std"}
_CELLS = 8
_DRAWS = 2
_MORE_CELLS, _MORE_DRAWS = 49, 8
_CLOSE = 1e-3
_FOLLOWS = 0.7
_SHIFT = 0.75
_LARGER = 4


@dataclass
class Verdict:
    """What came of one network.

    Attributes:
        layer: right, refused or wrong.
        found: layer, grid and left out tokens, or the error.
        source: where the truth comes from.
        cells: what changing cells of the image moves.
        methods: right, refused or wrong for each, with a reason after what is wrong.
    """

    layer: str
    found: str
    source: str
    cells: Locality | None = None
    methods: dict[str, str] = field(default_factory=dict)


def verdict(case: Case) -> Verdict:
    """Return what came of one network."""
    torch.manual_seed(0)
    model = case.make().eval()
    image = torch.randn(1, 3, *case.size)
    with torch.no_grad():
        # Models of transformers set themselves up in their first pass.
        model(image)
    target: Any = "predicted"
    if "Yolos" in case.name:
        target = lambda output: output.logits[..., 1].amax(1)  # noqa: E731
    source = source_of(case, model)
    try:
        method = GradCAM(resize=False).prepare(model, image, target)
        saliency = method(model, image, target)
    except SaliencyError as error:
        found = f"{type(error).__name__}: {error}"[:160]
        result = Verdict(REFUSED if case.may_refuse else WRONG, found, source)
        result.methods = dict(_methods(model, image, target, None, case))
        return result
    shown, layout = _size(saliency), method.layout
    extras = (layout.before, layout.after) if isinstance(layout, TokenGrid) else (0, 0)
    assert method.saliency_layer is not None
    cells = locality(model, image, method.saliency_layer, layout)
    if not cells.shows(layout) and not isinstance(layout, TokenGrid):
        # What each place depends on may be larger than the image. Pictures come at any size.
        larger = torch.randn(1, 3, *(_LARGER * side for side in case.size))
        with suppress(RuntimeError, AssertionError, ValueError):
            cells = locality(model, larger, method.saliency_layer, layout)
    if not cells.shows(layout):
        # Attention with random weights leaves little of a single cell in its place.
        cells = locality(model, image, method.saliency_layer, layout, closely=True)
    # Then the truth alone decides, where there is one.
    is_right = cells.shows(layout) or (cells.is_silent and bool(case.stride))
    if case.stride:
        is_right = is_right and shown == case.truth() and extras == (case.extras or (0, 0))
    is_right = is_right and not is_prediction(model, image, saliency)
    result = Verdict(RIGHT if is_right else WRONG, method.found, source, cells)
    result.methods = dict(_methods(model, image, target, method, case))
    return result


def source_of(case: Case, model: nn.Module) -> str:
    """Return where the truth comes from, after comparing it with what the network says of itself.

    Raises:
        AssertionError: the two differ.
    """
    if not case.stride:
        return "cells"
    patches = getattr(model, "patch_embed", None)
    grid, count = getattr(patches, "grid_size", None), getattr(model, "num_prefix_tokens", None)
    if case.extras is not None and grid is not None and count is not None and not case.may_refuse:
        assert tuple(grid) == case.truth(), (grid, case.truth())
        if case.extras == (0, 0) and count:
            # Those of CaiT come after the blocks that have the patches alone.
            return "grid_size"
        assert count == case.extras[0], (count, case.extras)
        return "grid_size, num_prefix_tokens"
    features = getattr(model, "feature_info", None)
    if case.extras is None and features and isinstance(features[-1], dict):
        stride = features[-1].get("reduction")
        assert case.grid is not None or stride == case.stride, (stride, case.stride)
        return "feature_info"
    return "by hand"


# --- where the places lie ---------------------------------------------------------------------


@dataclass(frozen=True)
class Locality:
    """What changing single cells of the image does to the places of a grid.

    Attributes:
        own: how many cells moved their own place most.
        near: how many moved their own place or one beside it most.
        tried: how many cells were changed.
        rows: correlation of the cell's row with the row in which the changes have their center;
            1 if there is but one row.
        columns: the same for columns.
        shift: how far the places that move most lie from the cells' own, on average over the
            cells: rows or columns, whichever is more.
    """

    own: int
    near: int
    tried: int
    rows: float
    columns: float
    shift: float

    @property
    def is_silent(self) -> bool:
        """Whether nothing reaches the layer, as random weights of some networks have it."""
        return self.rows != self.rows or self.columns != self.columns

    def shows(self, layout: Any) -> bool:
        """Whether the places of the grid follow the cells of the image.

        Tokens are not shifted, not by one row either. The centers of convolutions lie up to half a
        cell beside theirs and spread widely with random weights, and places at the border answer
        less; so of pictures the order counts. That most cells move their own place most suffices,
        too: by chance it is one in as many as there are places.
        """
        in_order = min(self.rows, self.columns) > _FOLLOWS or 2 * self.own > self.tried
        return in_order and (not isinstance(layout, TokenGrid) or self.shift <= _SHIFT)


def locality(
    model: nn.Module, image: Tensor, layer: str, layout: Any, *, closely: bool = False
) -> Locality:
    """Change single cells of the image, and look where a layer's output moves.

    Args:
        model: in eval mode.
        image: (1, 3, H, W).
        layer: its name.
        layout: of its output.
        closely: change more cells, in more ways.
    """
    height, width = _size(_picture_at(model, image, layer, layout))
    generator = torch.Generator().manual_seed(0)
    count, draws = (_MORE_CELLS, _MORE_DRAWS) if closely else (_CELLS, _DRAWS)
    numbers = torch.randperm(height * width, generator=generator)[:count]
    cells = torch.stack([numbers // width, numbers % width], 1)
    moved = []
    for i, j in cells.tolist():
        images = image.repeat(1 + draws, 1, 1, 1)
        rows = slice(i * image.shape[2] // height, (i + 1) * image.shape[2] // height)
        columns = slice(j * image.shape[3] // width, (j + 1) * image.shape[3] // width)
        part = images[1:, :, rows, columns]
        part += torch.randn(part.shape, generator=generator)
        seen = _picture_at(model, images, layer, layout)
        moved.append((seen[1:] - seen[:1]).square().sum((0, 1)))
    energy = torch.stack(moved).double()
    most = energy.flatten(1).argmax(1)
    steps = torch.stack([most // width, most % width], 1) - cells
    off = steps.abs().amax(1)
    energy = energy / energy.sum((1, 2), keepdim=True)
    centers = energy.sum(2) @ torch.arange(height).double()
    middles = energy.sum(1) @ torch.arange(width).double()
    return Locality(
        int((off == 0).sum()),
        int((off <= 1).sum()),
        len(cells),
        _correlation(centers, cells[:, 0]) if height > 1 else 1.0,
        _correlation(middles, cells[:, 1]) if width > 1 else 1.0,
        float(steps.double().mean(0).abs().amax()),
    )


def _correlation(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.flatten().double(), b.flatten().double()]))[0, 1])


def _picture_at(model: nn.Module, image: Tensor, layer: str, layout: Any) -> Tensor:
    try:
        with torch.no_grad(), _output_of(model, layer) as kept:
            model(image)
        return _fold(kept[0], layout)
    except (RuntimeError, AssertionError, ValueError):
        if len(image) == 1:
            raise
    # Some networks are made for a size of batch.
    return torch.cat([_picture_at(model, one, layer, layout) for one in image.split(1)])


@contextmanager
def _output_of(model: nn.Module, layer: str) -> Iterator[list[Tensor]]:
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        kept.append(output)
        # The next layer may write into it. Before hooks of the model's own, which may keep it.
        return output.clone()

    handle = model.get_submodule(layer).register_forward_hook(keep, prepend=True)
    try:
        yield kept
    finally:
        handle.remove()


def _fold(output: Tensor, layout: Any) -> Tensor:
    """Return (N, K, h, w), by a way of its own."""
    if isinstance(layout, TokenGrid):
        axes = [layout.order.index(axis) for axis in "NTK"]
        tokens = output.permute(axes)[:, layout.before :][:, : layout.height * layout.width]
        return tokens.unflatten(1, (layout.height, layout.width)).movedim(3, 1)
    order = {"channels_first": "nkhw", "channels_last": "nhwk"}.get(layout)
    if order is None:
        order = "nkwh" if layout == "channels_first_transposed" else "nwhk"
    return torch.einsum(f"{order}->nkhw", output)


def _size(picture: Tensor) -> Size:
    return picture.shape[2], picture.shape[3]


# --- segmentation -----------------------------------------------------------------------------


def is_prediction(model: nn.Module, image: Tensor, saliency: Tensor) -> bool:
    """Whether the map is the picture that the model puts out, for the class with the most of it."""
    with torch.no_grad():
        picture = _first(model(image))
    if picture.dim() != 4:
        return False
    wanted = int(picture.mean((2, 3)).argmax())
    shown = F.interpolate(picture[:, wanted : wanted + 1], _size(saliency), mode="bilinear")
    return _correlation(shown.clamp(min=0), saliency) > 0.95


def _first(output: Any) -> Tensor:
    output = output["out"] if isinstance(output, dict) and "out" in output else output
    output = getattr(output, "logits", output)
    picked: Tensor = output[0] if isinstance(output, (tuple, list)) else output
    return picked


def _score(output: Any, target: Any) -> Tensor:
    if callable(target):
        score: Tensor = target(output).sum()
        return score
    logits = _first(output)
    return (logits.mean((2, 3)) if logits.dim() == 4 else logits).amax()


# --- methods ----------------------------------------------------------------------------------


def _methods(
    model: nn.Module, image: Tensor, target: Any, found: GradCAM | None, case: Case
) -> Iterator[tuple[str, str]]:
    model.requires_grad_(False)
    census = Census()
    with census:
        model(census.image(image))
    for kind in METHODS:
        if kind.name not in _NOT_TRIED:
            yield kind.name, _of_method(kind, model, image, target, found, case, census)


def _of_method(
    kind: Any,
    model: nn.Module,
    image: Tensor,
    target: Any,
    found: GradCAM | None,
    case: Case,
    census: Census,
) -> str:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            method = kind(resize=False)
            if isinstance(method, LayerMethod) and found is not None:
                # Grad-CAM has looked for it already.
                method = kind(found.saliency_layer, resize=False, layout=found.layout)
            saliency: Tensor = method(model, image, target)
        except SaliencyError as error:
            reason = _reason(kind.name, census, found is None and case.may_refuse)
            words = f"{type(error).__name__}: {error}"[:120]
            return f"{REFUSED}" if reason else f"{WRONG} (refused without a reason: {words})"
        except Exception as error:
            return f"{WRONG} ({type(error).__name__}: {error})"[:160]
    if not saliency.isfinite().all() or (not kind.signed and bool((saliency < 0).any())):
        return f"{WRONG} (not finite, or below 0)"
    if kind.name in _EXCITATION:
        total = float(saliency.sum())
        is_said = any("sum to 1" in str(warning.message) for warning in said)
        is_right = is_said or kind.signed or kind.name != "excitation_backprop"
        is_right = is_right or abs(total - 1) < 0.02
        return RIGHT if is_right else f"{WRONG} (sums to {total:.3g})"
    wanted = _by_formula(kind.name, model, image, target, found, case, census)
    if wanted is None:
        return RIGHT
    if wanted.shape != saliency.shape:
        return f"{WRONG} (has shape {tuple(saliency.shape)}, not {tuple(wanted.shape)})"
    off = float((saliency - wanted).abs().max() / wanted.abs().max().clamp(min=1e-12))
    return RIGHT if off < _CLOSE else f"{WRONG} (off by {off:.2g})"


_EXCITATION = ("excitation_backprop", "contrastive_excitation_backprop")
_RULES = ("deconvnet", "guided_backprop")


def _reason(name: str, census: Census, has_no_layer: bool) -> bool:
    """Whether a method may refuse a network of this kind."""
    if name in _RULES:
        return not census.called & _RECTIFIERS or bool(census.called & _SIGNED)
    if name in _EXCITATION:
        return bool(census.called & _SIGNED) or census.meets_negative or census.multiplies
    if name == "attn_lrp":
        return bool(
            census.called & {"exp", "softplus", "pow", "prod", "log", "sqrt", "lstm", "gru"}
        )
    return has_no_layer and name != "gradient"


def _by_formula(
    name: str,
    model: nn.Module,
    image: Tensor,
    target: Any,
    found: GradCAM | None,
    case: Case,
    census: Census,
) -> Tensor | None:
    """Return the map by the plain formula; None where there is none."""
    x = image.clone().requires_grad_()
    if name in ("gradient", *_RULES, "attn_lrp"):
        score = _score(model(x.clone()), target)
        if name == "attn_lrp" and (census.called & _CURVED or census.multiplies):
            # By hand only in the tests of its own.
            return None
        with _Rectified(name) if name in _RULES else nullcontext():
            (gradient,) = torch.autograd.grad(score, x)
        if name == "attn_lrp":
            return (gradient * image).sum(1, keepdim=True)
        return gradient.abs().amax(1, keepdim=True)
    assert found is not None
    assert found.saliency_layer is not None
    with _output_of(model, found.saliency_layer) as kept:
        score = _score(model(x.clone()), target)
    (gradient,) = torch.autograd.grad(score, kept[0])
    layout = found.layout
    if case.stride and case.extras is not None:
        # The truth, not what was found.
        layout = TokenGrid(*case.truth(), *case.extras)
    a, g = _fold(kept[0].detach(), layout), _fold(gradient, layout)
    saliency = _CAMS[name](a, g).sum(1, keepdim=True)
    return saliency if name == "linear_approx" else saliency.clamp(min=0)


_CAMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "linear_approx": lambda a, g: a * g,
    "grad_cam": lambda a, g: a * g.mean((2, 3), keepdim=True),
    "grad_cam_pp": lambda a, g: a * _plus_plus(a, g).sum((2, 3), keepdim=True),
    "hires_cam": lambda a, g: a * g,
    "layer_cam": lambda a, g: a * g.clamp(min=0),
}


def _plus_plus(a: Tensor, g: Tensor) -> Tensor:
    below = 2 * g**2 + g**3 * a.sum((2, 3), keepdim=True)
    return torch.where(below != 0, g**2 / below, 0) * g.clamp(min=0)


class _Rectified(TorchDispatchMode):
    """Guided backpropagation and DeconvNet, in the backward pass of torch's own ReLU."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        aten = torch.ops.aten
        if self.name in _RULES and func.overloadpacket in (
            aten.threshold_backward,
            aten.hardtanh_backward,
        ):
            return (args[0] if self.name == "deconvnet" else result).clamp(min=0)
        return result


class Census(TorchFunctionMode):
    """What a network calls, and with what.

    Attributes:
        called: names of functions.
        meets_negative: whether a layer after the first gets something below 0.
        multiplies: whether two activations are multiplied.
    """

    def __init__(self) -> None:
        super().__init__()
        self.called: set[str] = set()
        self.meets_negative = self.multiplies = False
        self._image: Tensor | None = None

    def image(self, image: Tensor) -> Tensor:
        """Return what to run the network on."""
        self._image = image.clone().requires_grad_()
        return self._image

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "").strip("_")
        if name != "get":
            self.called.add(name)
        both = [*args, *kwargs.values()]
        active = [a for a in both if isinstance(a, Tensor) and a.requires_grad]
        if name in ("mul", "matmul", "bmm", "einsum", "scaled_dot_product_attention", "imul"):
            flat = active + [
                a for b in both if isinstance(b, (list, tuple)) for a in b if _is_active(a)
            ]
            self.multiplies |= len(flat) > 1
        if name == "multi_head_attention_forward":
            self.multiplies = True
        if name in ("conv2d", "linear", "matmul", "conv_transpose2d") and active:
            x = active[0].detach()
            self.meets_negative |= x.dim() != 4 or (x.shape[1] != 3 and bool((x < -1e-6).any()))
            self.meets_negative |= bool((x < -1e-6).any()) and x.shape[1] != 3
        return func(*args, **kwargs)


def _is_active(value: object) -> bool:
    return isinstance(value, Tensor) and value.requires_grad
