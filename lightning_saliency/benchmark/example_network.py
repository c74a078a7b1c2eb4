"""A narrow network with the features of VGG16, for examples and tests that need no download."""

from collections import OrderedDict

from torch import Tensor, nn

__all__ = ["EXAMPLE_MEAN", "EXAMPLE_STD", "ExampleNetwork", "normalize"]

# Of the cluttered digits, over all pixels and channels.
EXAMPLE_MEAN = 0.2
EXAMPLE_STD = 0.2

# Channels of the convolutions, "M" for a max pooling: VGG16, narrow.
_FEATURES: tuple[int | str, ...] = (
    *(8, 8, "M"),
    *(16, 16, "M"),
    *(32, 32, 32, "M"),
    *(64, 64, 64, "M"),
    *(64, 64, 64, "M"),
)


class ExampleNetwork(nn.Module):
    """VGG16's features under VGG16's names, with few channels, and a linear head for ten classes.

    ``features`` has the 31 entries of torchvision's ``vgg16`` (Simonyan, Zisserman. Very deep
    convolutional networks for large-scale image recognition. ICLR 2015, arXiv:1409.1556), of the
    same types, so that ``features.9`` is a pooling and ``features.29`` the last ReLU before the
    last pooling there and here. The head is another one: the mean over all places, and one linear
    layer, as in a ResNet. So each score is a sum over the places of the last features, and what
    speaks for a digit is found where the digit is. VGG16's names for what enters the last layer and
    for that layer, ``classifier.4`` and ``classifier.6``, stand for the same here.

    Example:
        >>> import torch
        >>> ExampleNetwork()(torch.zeros(2, 3, 128, 128)).shape
        torch.Size([2, 10])
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width in _FEATURES:
            if isinstance(width, int):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
                channels = width
            else:
                layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            OrderedDict([("4", nn.Identity()), ("6", nn.Linear(channels, 10))])
        )

    def forward(self, image: Tensor) -> Tensor:
        """Return the scores of the ten digits.

        Args:
            image: (N, 3, H, W), normalized; H and W at least 32, best 128.

        Returns:
            Logits (N, 10).
        """
        features: Tensor = self.avgpool(self.features(image))
        scores: Tensor = self.classifier(features.flatten(1))
        return scores


def normalize(picture: Tensor) -> Tensor:
    """Bring a picture into the form that :class:`ExampleNetwork` takes.

    Args:
        picture: (3, H, W) or (N, 3, H, W), floating point in [0, 1].

    Returns:
        Same shape, of about zero mean and unit variance.
    """
    return (picture - EXAMPLE_MEAN) / EXAMPLE_STD
