"""Find the layer that Grad-CAM explains when the user names none."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lightning_saliency.errors import LayerError, ModelError, NoGradientError
from lightning_saliency.network.forward_view import name_of
from lightning_saliency.network.grid import find_grid, fold
from lightning_saliency.network.layers import layer_names
from lightning_saliency.network.score import class_logits

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


def last_spatial_layer(model: nn.Module, image: Tensor) -> str:
    """Return the name of the last layer whose output still has a spatial grid.

    That is the last to finish of the layers that ran once and put out one tensor with a grid of
    more than one place (:func:`~lightning_saliency.network.grid.find_grid`) on which the largest
    logit depends. The last condition matters for transformers: after the last attention only the
    class token is used, so the layer is the normalization before it. Average pooling, dropout and
    upsampling are passed over.

    On torchvision's models it is for instance ``layer4`` (ResNet), ``features`` (VGG, DenseNet,
    MobileNet, ConvNeXt), ``permute`` (Swin) and ``encoder.layers.encoder_layer_11.ln_1`` (ViT-B).

    The model runs once on the first image, forward and backward, and once more if the largest
    logit depends on nothing because a layer starts at zero, as the last one of torchvision's vision
    transformers does. Call this inside
    :func:`~lightning_saliency.network.isolation.undisturbed.undisturbed`.

    Args:
        model: the model that is explained.
        image: (N, C, H, W), what the model takes.

    Raises:
        LayerError: no layer has such an output.
        NoGradientError: no layer that has one can be differentiated.
    """
    size = (image.shape[2], image.shape[3])
    pictures, output = _watch(model, image)
    if not pictures:
        raise LayerError(
            f"Expected a layer of {name_of(model)} with an output of shape (N, K, h, w) for "
            "Grad-CAM and linear approximation, but none of its layers has one (layers that are "
            "scripted or traced, or that run several times, do not count). Name a layer and its "
            "layout, or take a gradient method or RISE."
        )
    if not any(found.requires_grad for _, found in pictures):
        raise NoGradientError(
            f"Expected the layers of {name_of(model)} to be differentiable, but none of the "
            f"{len(pictures)} with a spatial output is. Look for detach() in the model's "
            "forward, or take RISE, which needs no gradient."
        )
    influential = _with_influence(pictures, output, size)
    if not influential:
        with _noise_for_zeros(model):
            influential = _with_influence(*_watch(model, image), size)
    # Without any influence the largest logit is constant, as in a network of dead units.
    return influential[-1] if influential else pictures[-1][0]


def _watch(model: nn.Module, image: Tensor) -> tuple[list[tuple[str, Tensor]], object]:
    """Run the model and return its layers' spatial outputs and its own output."""
    runs: Counter[str] = Counter()
    finished: list[tuple[str, Tensor]] = []
    size = (image.shape[2], image.shape[3])

    def note(name: str, layer: nn.Module, output: object) -> None:
        runs[name] += 1
        if isinstance(output, Tensor) and _is_picture(layer, output, size):
            finished.append((name, output))

    # A layer that the model holds under several names goes by the first.
    layers = {layer: name for name, layer in reversed(layer_names(model).items())}
    handles = [
        layer.register_forward_hook(lambda m, _inputs, output, name=name: note(name, m, output))
        for layer, name in layers.items()
        if not isinstance(layer, _PASSED_OVER)
    ]
    try:
        with torch.enable_grad():
            # The second clone: a model that writes into its input may not write into a leaf.
            output = model(image[:1].clone().requires_grad_().clone())
    finally:
        for handle in handles:
            handle.remove()
    return [(name, found) for name, found in finished if runs[name] == 1], output


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


def _is_picture(layer: nn.Module, output: Tensor, size: tuple[int, int]) -> bool:
    grid = find_grid(output, size)
    if grid is None or max(grid) < 2:
        return False
    # Inside an attention block many linear layers put out tokens (queries, keys, values); only
    # normalizations and whole blocks put out the features that the next block reads.
    is_stream = isinstance(layer, nn.LayerNorm) or any(True for _ in layer.children())
    return output.dim() == 4 or is_stream


def _with_influence(
    pictures: list[tuple[str, Tensor]], output: object, size: tuple[int, int]
) -> list[str]:
    """Return the names of the layers whose places the largest logit depends on, in order."""
    pictures = [(name, found) for name, found in pictures if found.requires_grad]
    try:
        score = class_logits(output).amax()
    except ModelError:
        return []
    if not score.requires_grad or not pictures:
        return []
    gradients: tuple[Tensor | None, ...] = torch.autograd.grad(
        score, [found for _, found in pictures], allow_unused=True
    )
    reached = {
        name: fold(gradient, size).any()
        for (name, _), gradient in zip(pictures, gradients, strict=True)
        if gradient is not None
    }
    # One question for all of them, for which an accelerator is waited for once.
    is_reached = torch.stack(list(reached.values())).tolist() if reached else []
    return [name for name, yes in zip(reached, is_reached, strict=True) if yes]
