"""Find a layer of a model by its name, or by what it puts out."""

import difflib
from collections import Counter

import torch
from torch import Tensor, nn

from lightning_saliency.errors import LayerError

__all__ = ["find_layer", "last_spatial_layer", "layer_names"]

# They resample or mask what the layer before them has found; the map is that layer's.
_PASSED_OVER = (
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
    nn.AvgPool2d,
    nn.Dropout,
    nn.Dropout2d,
    nn.Identity,
    nn.Upsample,
)


def layer_names(model: nn.Module) -> dict[str, nn.Module]:
    """Return the model's layers by name, without the ``_orig_mod.`` that compiling puts in.

    Args:
        model: any module; the model itself is not among its layers.
    """
    layers = {}
    for name, module in model.named_modules():
        plain = ".".join(part for part in name.split(".") if part != "_orig_mod")
        if plain:
            # A compiled module and the module inside it share a name; hooks belong on the outer.
            layers.setdefault(plain, module)
    return layers


def find_layer(model: nn.Module, name: str) -> nn.Module:
    """Return the layer called ``name``, as in ``model.named_modules()``.

    Args:
        model: the model that has the layer, compiled or not.
        name: for instance ``"layer4"`` or ``"features.29"``.

    Raises:
        LayerError: there is no such layer; the message lists the nearest names.
    """
    layers = layer_names(model)
    if name in layers:
        return layers[name]
    last = name.rpartition(".")[2]
    same_ending = [known for known in layers if last and known.rpartition(".")[2] == last]
    near = dict.fromkeys(difflib.get_close_matches(name, layers, n=3, cutoff=0.5) + same_ending)
    if near:
        hint = "Did you mean " + " or ".join(f"'{known}'" for known in list(near)[:4]) + "?"
    else:
        top = [known for known in layers if "." not in known]
        hint = "Its outermost layers are " + ", ".join(f"'{known}'" for known in top[:12]) + "."
    raise LayerError(
        f"Expected the name of a layer of {type(model).__name__}, but it has no '{name}'. {hint}"
    )


def last_spatial_layer(model: nn.Module, image: Tensor) -> str:
    """Return the name of the last layer whose output is still a picture.

    That is the last to finish of the layers that ran once and gave one tensor of shape
    (N, K, h, w) with h > 1 or w > 1; average pooling, dropout and upsampling are passed over.
    On torchvision's models it is ``layer4`` (ResNet), ``features`` (VGG, DenseNet, MobileNet).

    The model runs once, without gradients; call this inside
    :func:`~lightning_saliency.network.undisturbed.undisturbed`.

    Args:
        model: the model that is explained.
        image: (N, C, H, W), what the model takes.

    Raises:
        LayerError: no layer has such an output.
    """
    runs: Counter[str] = Counter()
    finished: list[str] = []

    def note(name: str, output: object) -> None:
        runs[name] += 1
        if isinstance(output, Tensor) and output.dim() == 4 and max(output.shape[2:]) > 1:
            finished.append(name)

    handles = [
        module.register_forward_hook(lambda _m, _i, output, name=name: note(name, output))
        for name, module in layer_names(model).items()
        if not isinstance(module, _PASSED_OVER)
    ]
    try:
        with torch.no_grad():
            model(image)
    finally:
        for handle in handles:
            handle.remove()
    for name in reversed(finished):
        if runs[name] == 1:
            return name
    raise LayerError(
        f"Expected a layer of {type(model).__name__} with an output of shape (N, K, h, w), but "
        f"none of the {len(runs)} that ran has one. Grad-CAM and linear approximation need a "
        "layer with a spatial output; for another kind of model take a gradient method or RISE."
    )
