"""A small model that knows where things are, and a dataset in memory, for the pointing game."""

import os
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_saliency.attribution import AttributionMethod, GradCAM
from lightning_saliency.benchmark.pointing_data import Annotation, PointingData
from lightning_saliency.benchmark.pointing_models import Layers, PointingModel
from lightning_saliency.benchmark.preprocessing import Preprocessing

PLAIN = Preprocessing((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), side=None)


class Blobs(PointingData):
    """Pictures with a bright spot of red for class 0, green for 1, blue for 2."""

    class_names = ("red", "green", "blue", "never")
    tolerance = 3

    def __init__(self, count: int = 12, broken: Sequence[int] = ()) -> None:
        self.name = "blobs"
        self.missing: dict[str, str] = {}
        self.broken = broken
        self.annotations = [self._annotation(i) for i in range(count)]

    def _annotation(self, i: int) -> Annotation:
        size = [(32, 40), (40, 32), (36, 36)][i % 3]
        classes = [(0,), (0, 1), (1, 2), (), (2,)][i % 5]
        return Annotation(f"blob {i}", size, classes, frozenset(classes[:1]))

    def scene(self, index: int) -> tuple[Tensor, Tensor]:
        if index in self.broken:
            raise OSError("image file is truncated")
        annotation = self.annotations[index]
        generator = torch.Generator().manual_seed(index)
        picture = 0.05 * torch.rand(3, *annotation.size, generator=generator)
        masks = torch.zeros(len(annotation.classes), *annotation.size, dtype=torch.bool)
        for mask, label in zip(masks, annotation.classes, strict=True):
            top = int(torch.randint(0, annotation.size[0] - 6, (), generator=generator))
            left = int(torch.randint(0, annotation.size[1] - 6, (), generator=generator))
            mask[top : top + 6, left : left + 6] = True
            picture[label, top : top + 6, left : left + 6] += 0.9
        return picture.clamp(0, 1), masks


class Colours(nn.Module):
    """The mean of each colour as class score."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.ReLU())
        self.head = nn.Linear(3, classes, bias=False)
        with torch.no_grad():
            self.features[0].weight.copy_(torch.eye(3)[:, :, None, None])
            self.head.weight.copy_(torch.eye(classes, 3))

    def forward(self, image: Tensor) -> Tensor:
        scores: Tensor = self.head(self.features(image).mean((2, 3)))
        return scores


def colours_model(classes: int = 4) -> PointingModel:
    return PointingModel("colours", Colours(classes), PLAIN, Layers("features.1", "features.1"))


class Watched(GradCAM):
    """Grad-CAM that writes down what it explains, a line for each image, from any process."""

    def __call__(self, model: nn.Module, image: Tensor, target: object) -> Tensor:
        lines = "".join(f"{float(each.double().sum()):.9f}\n" for each in image)
        with open(os.environ["WATCHED_LOG"], "a") as file:
            file.write(lines)
        return super().__call__(model, image, target)  # type: ignore[arg-type]


def watched() -> AttributionMethod:
    return Watched("features.1")
