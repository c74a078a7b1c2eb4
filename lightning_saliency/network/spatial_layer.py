"""Find the layer that Grad-CAM explains when the user names none."""

from collections import Counter
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from lightning_saliency.errors import LayerError, ModelError
from lightning_saliency.network.grid import find_grid, fold
from lightning_saliency.network.layers import layer_names
from lightning_saliency.network.score import class_logits

__all__ = ["last_spatial_layer"]

# They resample or mask what the layer before them has found; the map is that layer's.
_PASSED_OVER = (
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
    nn.AvgPool2d,
    nn.Dropout,
    nn.Dropout2d,
    nn.Identity,
    nn.Upsample,
    # Not for what it does: nobody can look into it.
    torch.jit.ScriptModule,
)


def last_spatial_layer(model: nn.Module, image: Tensor) -> str:
    """Return the name of the last layer whose output is still a picture.

    That is the last to finish of the layers that ran once and put out one tensor with a grid of
    more than one place (:func:`~lightning_saliency.network.grid.find_grid`) on which the largest
    logit depends. The last condition matters for transformers: after the last attention only the
    class token is used, so the layer is the normalisation before it. Average pooling, dropout and
    upsampling are passed over.

    On torchvision's models it is for instance ``layer4`` (ResNet), ``features`` (VGG, DenseNet,
    MobileNet, ConvNeXt), ``permute`` (Swin) and ``encoder.layers.encoder_layer_11.ln_1`` (ViT-B).

    The model runs once on the first image, forward and backward; call this inside
    :func:`~lightning_saliency.network.undisturbed.undisturbed`.

    Args:
        model: the model that is explained.
        image: (N, C, H, W), what the model takes.

    Raises:
        LayerError: no layer has such an output.
        ModelError: no layer that has one can be differentiated.
    """
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
    pictures = [(name, found) for name, found in finished if runs[name] == 1]
    if not pictures:
        raise LayerError(
            f"Expected a layer of {type(model).__name__} with an output of shape (N, K, h, w) for "
            f"Grad-CAM and linear approximation, but none of the {len(runs)} layers that ran has "
            "one (layers that are scripted or traced do not count). Name a layer and its layout, "
            "or take a gradient method or RISE."
        )
    candidates = [(name, found) for name, found in pictures if found.requires_grad]
    if not candidates:
        raise ModelError(
            f"Expected the layers of {type(model).__name__} to be differentiable, but none of the "
            f"{len(pictures)} with a spatial output is. Look for detach() and no_grad() in the "
            "model's forward, or take RISE, which needs no gradient."
        )
    for name in _with_influence(output, candidates, size):
        return name
    # The largest logit is locally constant for this image, as in a network of dead units.
    return candidates[-1][0]


def _is_picture(layer: nn.Module, output: Tensor, size: tuple[int, int]) -> bool:
    grid = find_grid(output, size)
    if grid is None or max(grid) < 2:
        return False
    # Inside an attention block many linear layers put out tokens (queries, keys, values); only
    # normalisations and whole blocks put out the features that the next block reads.
    is_stream = isinstance(layer, nn.LayerNorm) or any(True for _ in layer.children())
    return output.dim() == 4 or is_stream


def _with_influence(
    output: object, candidates: list[tuple[str, Tensor]], size: tuple[int, int]
) -> Iterator[str]:
    """Yield the names of the layers whose places the largest logit depends on, last first."""
    try:
        score = class_logits(output).amax()
    except ModelError:
        return
    if not score.requires_grad:
        return
    gradients: tuple[Tensor | None, ...] = torch.autograd.grad(
        score, [found for _, found in candidates], allow_unused=True
    )
    for (name, _), gradient in zip(reversed(candidates), reversed(gradients), strict=True):
        if gradient is not None and bool(fold(gradient, size).any()):
            yield name
