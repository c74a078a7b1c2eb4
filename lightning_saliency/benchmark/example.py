"""A model, a picture with two objects in it, and their classes: something to try a method on."""

from collections import OrderedDict
from dataclasses import replace
from importlib.resources import as_file, files
from io import BytesIO
from typing import Literal, TypeAlias, get_args

import torch
import torchvision
from matplotlib.image import imread
from torch import Tensor, nn

from lightning_saliency.benchmark.preprocessing import IMAGENET
from lightning_saliency.errors import DownloadError, InputError

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


ExampleArch: TypeAlias = Literal["digits", "vgg16"]
"""``"digits"`` for the network that comes with the package, ``"vgg16"`` for torchvision's."""

# The digits in example_picture.png, in the order of example_regions.png.
_CATEGORIES = (0, 7)


def get_example_data(
    arch: ExampleArch = "digits", shape: int = 224, picture: Tensor | None = None
) -> tuple[nn.Module, Tensor, int, int]:
    """Return a trained model, a picture, and the classes of two objects in it.

    ``"digits"`` works offline: a narrow network whose features have the names and types of VGG16's
    (``features.29`` is the last ReLU), with the mean over all places and one linear layer behind
    them, and a held-out picture of two handwritten digits over clutter. It is trained by
    ``examples/train_example_network.py``, on pictures with one and with two digits; on 2,000
    held-out pictures both digits have the highest scores in 97.8 %. On 150 of them Grad-CAM points
    at the digit that it is asked for in 91 %, and never at the other one.

    ``"vgg16"`` is torchvision's VGG16 with ImageNet weights, fetched by torchvision. The package
    brings no photograph for it, so pass one.

    Args:
        arch: ``"digits"`` or ``"vgg16"``.
        shape: for ``"vgg16"``, the longer side of the picture is resized to this, in pixels.
        picture: for ``"vgg16"``, a photograph (3, H, W) in [0, 1], for instance
            ``torchvision.transforms.functional.to_tensor(PIL.Image.open("cat_dog.jpg"))``. The two
            classes that are returned are then the ones with the highest scores.

    Returns:
        (model, image, category 1, category 2): the model in eval mode on the CPU; the image
        (1, 3, H, W), normalized as the model takes it; two class indices.

    Raises:
        InputError: ``arch`` is unknown, or ``picture`` is missing or has another shape.
        DownloadError: the weights of ``"vgg16"`` could not be fetched.
    """
    if arch not in get_args(ExampleArch):
        raise InputError(f"Expected arch to be 'digits' or 'vgg16', got {arch!r}.")
    if arch == "vgg16":
        return _vgg16(shape, picture)
    # Without memory, so that no random weights are drawn for what the file replaces.
    with torch.device("meta"):
        model = ExampleNetwork()
    with as_file(files(__package__) / "example_network.pt") as path:
        model.load_state_dict(torch.load(path, weights_only=True), assign=True)
    image = normalize(_read_png("example_picture.png").permute(2, 0, 1))
    return model.float().eval(), image[None], *_CATEGORIES


def get_example_regions() -> Tensor:
    """Return the pixels of the two objects of ``get_example_data()``.

    Returns:
        (2, 1, H, W), bool, in the order of the categories.
    """
    gray = _read_png("example_regions.png")[None]
    return torch.stack([(gray > 0.25) & (gray < 0.75), gray >= 0.75])


def _read_png(name: str) -> Tensor:
    """Return a picture of the package, float32 (H, W) or (H, W, 3) in [0, 1]."""
    # Not with torchvision, which from 0.29 on warns that it will stop decoding pictures.
    return torch.from_numpy(imread(BytesIO((files(__package__) / name).read_bytes()), "png"))


def _vgg16(shape: int, picture: Tensor | None) -> tuple[nn.Module, Tensor, int, int]:
    if not isinstance(picture, Tensor) or picture.dim() != 3 or picture.shape[0] != 3:
        came = f"shape {tuple(picture.shape)}" if isinstance(picture, Tensor) else repr(picture)
        raise InputError(
            "Expected a photograph for arch='vgg16', a tensor (3, H, W) in [0, 1], got "
            f"{came}. For instance picture=torchvision.transforms.functional.to_tensor("
            "PIL.Image.open('cat_dog.jpg')); get_example_data() without arguments needs none."
        )
    try:
        model = torchvision.models.vgg16(weights=torchvision.models.VGG16_Weights.IMAGENET1K_V1)
    except OSError as error:
        raise DownloadError(
            "Expected to fetch the weights of VGG16 (528 MB), but that failed: "
            f"{error}. Put vgg16-397923af.pth into {torch.hub.get_dir()}/checkpoints by hand, or "
            "call get_example_data() without arguments, which needs no network."
        ) from error
    longer = max(picture.shape[1:])
    size = [max(1, round(side * shape / longer)) for side in picture.shape[1:]]
    image = torchvision.transforms.functional.resize(picture.float(), size, antialias=True)
    image = replace(IMAGENET, side=None)(image)[None]
    with torch.no_grad():
        first, second = model.eval()(image)[0].topk(2).indices.tolist()
    return model, image, first, second
