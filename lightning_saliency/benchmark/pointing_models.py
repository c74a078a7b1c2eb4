"""Models for the pointing game, with what has to be known of them."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from lightning_saliency.benchmark.caffe_weights import (
    adapt_to_caffe,
    convert_weights,
    is_from_caffe,
)
from lightning_saliency.benchmark.example import EXAMPLE_MEAN, EXAMPLE_STD, get_example_data
from lightning_saliency.benchmark.fully_convolutional import fully_convolutional
from lightning_saliency.benchmark.preprocessing import CAFFE, IMAGENET, Preprocessing
from lightning_saliency.errors import DownloadError, InputError

_PUBLISHED = "https://dl.fbaipublicfiles.com/torchray/"
_FILES = {
    ("vgg16", "voc"): "vgg16_voc-b050e8c3.pth.tar",
    ("vgg16", "coco"): "vgg16_coco-d82c8150.pth.tar",
    ("resnet50", "voc"): "resnet50_voc-9ca920d6.pth.tar",
    ("resnet50", "coco"): "resnet50_coco-e99468c5.pth.tar",
}


@dataclass(frozen=True)
class Layers:
    """Where in a model methods look.

    Attributes:
        grad_cam: layer of Grad-CAM and linear approximation; None for the last one with a spatial
            output.
        excitation: layer at which excitation backprop stops; ``""`` for the image.
        contrast: layer at which its contrastive form subtracts; None for what enters the
            classifier.
    """

    grad_cam: str | None = None
    excitation: str = ""
    contrast: str | None = None


@dataclass(frozen=True)
class PointingModel:
    """A model and what has to be known of it.

    Attributes:
        name: as shown in the table.
        module: from images (N, 3, H, W) to class scores (N, classes) or (N, classes, h, w), the
            classes in the order of the dataset.
        preprocessing: from pictures to images.
        layers: where methods look.
        whole: the module for methods that judge a picture as a whole (RISE, extremal
            perturbation), where it is another one.
    """

    name: str
    module: nn.Module
    preprocessing: Preprocessing = IMAGENET
    layers: Layers = field(default_factory=Layers)
    whole: nn.Module | None = None

    def fingerprint(self) -> str:
        """Return a checksum of weights and settings."""
        checksum = hashlib.sha1(usedforsecurity=False)
        for name, value in self.module.state_dict().items():
            checksum.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
            plain = value.detach().cpu().contiguous().flatten().view(torch.uint8)
            checksum.update(plain.numpy().data)
        return f"{self.name}, {self.preprocessing}, {checksum.hexdigest()[:12]}"


MODELS = {
    "vgg16": Layers("features.29", "features.23", "classifier.4"),
    "resnet50": Layers("layer4", "layer3", "avgpool"),
    "example": Layers("features.29", "features.9", "classifier.4"),
}
"""Models by name, and where methods look in them: as in the published game for the first two, and
in the example network, whose features are called as in VGG16, for the third."""


def load_pointing_model(
    name: str, data: str, num_classes: int, weights: str | Path | None = None
) -> PointingModel:
    """Return a model for the pointing game.

    ``"vgg16"`` and ``"resnet50"`` are torchvision's, made fully convolutional. Without
    ``weights``, those that figures were published with are fetched (Zhang et al. 2016, fine-tuned
    in Caffe, converted by the authors of TorchRay, under CC BY-NC 4.0).

    Args:
        name: ``"vgg16"``, ``"resnet50"`` or ``"example"``, the network that comes with the package
            and knows the cluttered digits.
        data: name of the dataset, which begins with ``"voc"`` or ``"coco"``.
        num_classes: of the dataset.
        weights: a file with a ``state_dict`` of the model, or a checkpoint that holds one, with
            ``num_classes`` classes; from torchvision's definition or from Caffe's.

    Raises:
        InputError: there is no such model, or the weights do not fit it.
        DownloadError: the weights cannot be fetched.
    """
    if name not in MODELS:
        raise InputError(f"Expected a model out of {', '.join(MODELS)}, got '{name}'.")
    if name == "example":
        module = get_example_data()[0]
        preprocessing = Preprocessing((EXAMPLE_MEAN,) * 3, (EXAMPLE_STD,) * 3, side=None)
        return PointingModel(name, module, preprocessing, MODELS[name])
    values = _fetch(name, data) if weights is None else _read(Path(weights))
    with torch.device("meta"):
        model = getattr(torchvision.models, name)(num_classes=num_classes)
        from_caffe = is_from_caffe(values)
        if from_caffe:
            adapt_to_caffe(model)
            values = convert_weights(values)
    _load(model, values, num_classes)
    model.eval()
    return PointingModel(
        name,
        fully_convolutional(model),
        CAFFE if from_caffe else IMAGENET,
        MODELS[name],
        whole=fully_convolutional(model, "picture") if name == "resnet50" else None,
    )


def _fetch(name: str, data: str) -> Mapping[str, Tensor]:
    kind = data.split("_")[0]
    file = _FILES.get((name, kind))
    if file is None:
        raise InputError(
            f"Expected weights for {name} on '{data}', because the published ones are for VOC and "
            "COCO only. Give a file of your own (--weights)."
        )
    try:
        found: Mapping[str, Tensor] = torch.hub.load_state_dict_from_url(
            _PUBLISHED + file, progress=False, map_location="cpu", weights_only=True
        )
    except (OSError, RuntimeError) as error:
        raise DownloadError(
            f"Expected to fetch the weights of {name} for {kind.upper()}, but that failed: "
            f"{error}. Fetch {_PUBLISHED + file} on another machine and give the file (--weights)."
        ) from error
    return found


def _read(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise InputError(f"Expected a file with weights, but {path} is not there.")
    try:
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch.load has a kind of error of its own for each way in which a file can be broken.
        raise InputError(
            f"Expected a file with weights, but {path} cannot be read ({error}). Save them with "
            "torch.save(model.state_dict(), file)."
        ) from error
    if isinstance(found, Mapping) and isinstance(found.get("state_dict"), Mapping):
        found = found["state_dict"]
    tensors = isinstance(found, Mapping) and all(isinstance(v, Tensor) for v in found.values())
    if not tensors:
        raise InputError(
            f"Expected a state_dict, tensors by name, in {path}, got {type(found).__name__}. Save "
            "it with torch.save(model.state_dict(), file)."
        )
    weights: Mapping[str, Tensor] = found
    return weights


def _load(model: nn.Module, values: Mapping[str, Tensor], num_classes: int) -> None:
    last = [value for name, value in values.items() if name.endswith(".bias")][-1:]
    if last and len(last[0]) != num_classes:
        raise InputError(
            f"Expected weights for the {num_classes} classes of the dataset, got some for "
            f"{len(last[0])}. Fine-tune the model on the dataset's classes first."
        )
    try:
        # A plain dict, so that normalizations from Caffe need not count their batches.
        model.load_state_dict(dict(values), assign=True)
    except RuntimeError as error:
        raise InputError(
            f"Expected the weights of torchvision's model, but they do not fit: {error}"
        ) from error
