"""Weights of VGG16 and ResNet50 that were trained in Caffe, for torchvision's definitions.

The models that the pointing game was published with (Zhang et al. ECCV 2016) come from Caffe, where
colors are in the order blue, green, red, poolings round up, and a ResNet halves the picture in the
first convolution of a block.
"""

import re
from collections.abc import Mapping

from torch import Tensor, nn
from torchvision.models import VGG, ResNet

from lightning_saliency.errors import InputError

# VGG16's classifier there has no dropout: layers 0, 2, 4 are torchvision's 0, 3, 6.
_CLASSIFIER = {"0": "0", "2": "3", "4": "6"}


def is_from_caffe(weights: Mapping[str, Tensor]) -> bool:
    """Tell whether these are weights of VGG16 or ResNet50 as converted from Caffe.

    Args:
        weights: tensors of any shape by name.
    """
    return "classifier.2.weight" in weights or "bn1.0.running_mean" in weights


def convert_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights under torchvision's names, for colors in the order red, green, blue.

    Args:
        weights: tensors of any shape by name, as converted from Caffe.

    Returns:
        Tensors of the shapes that the adapted model has.

    Raises:
        InputError: the first convolution is not there.
    """
    first = "features.0.weight" if "features.0.weight" in weights else "conv1.weight"
    if first not in weights:
        raise InputError(
            "Expected weights of VGG16 or ResNet50, with features.0.weight or conv1.weight, got "
            f"{', '.join(list(weights)[:3])}, ..."
        )
    converted = {}
    for name, value in weights.items():
        if name == first:
            value = value.flip(1)
        elif name.startswith("classifier."):
            _, layer, kind = name.split(".")
            name = f"classifier.{_CLASSIFIER.get(layer, layer)}.{kind}"
            value = value.flatten(1) if kind == "weight" else value
        # Caffe splits a normalization into its statistics (0) and its scale (1).
        name = re.sub(r"(bn\d|downsample\.1)\.[01]\.", r"\1.", name)
        converted[name] = value
    return converted


def adapt_to_caffe(model: nn.Module) -> None:
    """Change torchvision's model into the one of Caffe, in place, before its weights are loaded.

    Args:
        model: torchvision's VGG16 or ResNet50.

    Raises:
        InputError: it is another one.
    """
    if isinstance(model, ResNet):
        _adapt_resnet(model)
    elif not isinstance(model, VGG):
        raise InputError(f"Expected torchvision's VGG or ResNet, got {type(model).__name__}.")
    for layer in model.modules():
        if isinstance(layer, nn.MaxPool2d):
            layer.ceil_mode = True


def _adapt_resnet(model: ResNet) -> None:
    model.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=True)
    model.maxpool = nn.MaxPool2d(3, stride=2)
    for stage in (model.layer2, model.layer3, model.layer4):
        stage[0].conv1.stride = (2, 2)
        stage[0].conv2.stride = (1, 1)
