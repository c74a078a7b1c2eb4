"""Classifiers that look at pictures of any size, place by place."""

from typing import Literal

from torch import Tensor, nn
from torchvision.models import VGG, ResNet

from lightning_saliency.errors import ModelError

Pooling = Literal["window", "picture"]
"""Over what the features of a ResNet are averaged: windows of 7 x 7, or the whole picture."""

# Both networks were trained with pictures of 224 pixels, in which their features have 7 x 7 places.
_WINDOW = 7


def fully_convolutional(model: nn.Module, pooling: Pooling = "window") -> nn.Module:
    """Return a model that gives class scores (N, classes, h, w), one for each place.

    For pictures of 224 x 224 pixels there is one place, and the scores are those of ``model``. For
    larger ones, the classifier slides over the picture instead of seeing averages of all of it.
    Layers keep their names, and share their weights with ``model``.

    Args:
        model: torchvision's VGG or ResNet, of any depth.
        pooling: for a ResNet; see :data:`Pooling`. With ``"picture"`` there is always one place.

    Raises:
        ModelError: the model is another one.
    """
    if isinstance(model, VGG):
        return ConvolutionalVGG(model).train(model.training)
    if isinstance(model, ResNet):
        return ConvolutionalResNet(model, pooling).train(model.training)
    raise ModelError(
        "Expected torchvision's VGG or ResNet to make it fully convolutional, got "
        f"{type(model).__name__}. Give a model as it is, or one that returns score maps (N, "
        "classes, h, w)."
    )


class ConvolutionalVGG(nn.Module):
    """VGG with convolutions as classifier.

    Args:
        model: torchvision's; its features are shared.
    """

    def __init__(self, model: VGG) -> None:
        super().__init__()
        self.features = model.features
        layers = list(model.classifier)
        first = next(i for i, layer in enumerate(layers) if isinstance(layer, nn.Linear))
        self.classifier = nn.Sequential(
            *(
                _as_convolution(layer, _WINDOW if i == first else 1)
                if isinstance(layer, nn.Linear)
                else layer
                for i, layer in enumerate(layers)
            )
        )

    def forward(self, image: Tensor) -> Tensor:
        """Return scores (N, classes, h, w) of images (N, 3, H, W), H and W at least 224."""
        scores: Tensor = self.classifier(self.features(image))
        return scores


class ConvolutionalResNet(nn.Module):
    """ResNet with a convolution as classifier.

    Args:
        model: torchvision's; its layers are shared.
        pooling: see :data:`Pooling`.
    """

    def __init__(self, model: ResNet, pooling: Pooling = "window") -> None:
        super().__init__()
        for name, layer in model.named_children():
            self.add_module(name, layer)
        if pooling == "window":
            self.avgpool = nn.AvgPool2d(_WINDOW, stride=1)
        self.fc = _as_convolution(model.fc, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Return scores (N, classes, h, w) of images (N, 3, H, W), H and W at least 193."""
        for layer in self.children():
            image = layer(image)
        return image


def _as_convolution(layer: nn.Linear, side: int) -> nn.Conv2d:
    """Return the convolution that does at each place what the linear layer does with all of it."""
    channels = layer.in_features // side**2
    # On the meta device, so that no random weights are drawn for what is replaced.
    convolution = nn.Conv2d(
        channels, layer.out_features, side, bias=layer.bias is not None, device="meta"
    )
    weight = layer.weight.detach().view(layer.out_features, channels, side, side)
    convolution.weight = nn.Parameter(weight, layer.weight.requires_grad)
    convolution.bias = layer.bias
    return convolution
