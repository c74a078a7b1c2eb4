import socket
import sys
from importlib.resources import files
from types import SimpleNamespace
from typing import Any
from urllib.error import URLError

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from traces import random_streams

from lightning_saliency.attribution import (
    AttributionMethod,
    ContrastiveExcitationBackprop,
    GradCAM,
)
from lightning_saliency.benchmark import ClutteredDigits, get_example_data, get_example_regions
from lightning_saliency.benchmark.example import normalize
from lightning_saliency.errors import DownloadError, InputError


def no_network(*args: object, **kwargs: object) -> None:
    raise OSError("There is no network.")


def test_needs_neither_network_nor_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sklearn", "sklearn.datasets"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(socket.socket, "connect", no_network)
    model, image, first, second = get_example_data()
    assert isinstance(model, nn.Module)
    assert image.shape == (1, 3, 128, 128)
    assert image.dtype == torch.float32
    assert {type(first), type(second)} == {int}
    assert get_example_regions().shape == (2, 1, 128, 128)


def test_features_are_called_and_made_as_in_vgg16() -> None:
    model, *_ = get_example_data()
    with torch.device("meta"):
        vgg16 = torchvision.models.vgg16(init_weights=False)
    kinds, wanted = (
        {name: type(each) for name, each in of.named_modules() if name.startswith("features")}
        for of in (model, vgg16)
    )
    assert kinds == wanted
    # What enters the last layer, and that layer, as in VGG16.
    assert isinstance(model.get_submodule("classifier.4"), nn.Identity)
    assert isinstance(model.get_submodule("classifier.6"), nn.Linear)
    assert isinstance(model.get_submodule("features.29"), nn.ReLU)
    assert isinstance(model.get_submodule("features.30"), nn.MaxPool2d)
    for name, module in vgg16.named_modules():
        if isinstance(module, nn.Conv2d | nn.MaxPool2d):  # all of them in the features
            mine: Any = model.get_submodule(name)
            assert (mine.kernel_size, mine.stride, mine.padding) == (
                module.kernel_size,
                module.stride,
                module.padding,
            )


def test_the_model_is_ready_to_be_explained() -> None:
    model, *_ = get_example_data()
    assert not any(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert {p.device.type for p in model.parameters()} == {"cpu"}
    assert all(p.isfinite().all() for p in model.parameters())


def test_each_call_returns_a_model_of_its_own() -> None:
    first, image, *_ = get_example_data()
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.zero_()
        image.zero_()
    second, again, *_ = get_example_data()
    assert any(p.any() for p in second.parameters())
    assert again.any()


def test_both_categories_have_the_highest_scores() -> None:
    model, image, first, second = get_example_data()
    with torch.no_grad():
        probability = model(image).softmax(1)[0]
    assert set(probability.topk(2).indices.tolist()) == {first, second}
    # Alone each would have 1; together each has about a half.
    assert probability[first] > 0.25
    assert probability[second] > 0.25


def test_the_picture_is_a_held_out_one_and_the_regions_are_its_masks() -> None:
    _, image, first, second = get_example_data()
    regions = get_example_regions()
    data = ClutteredDigits("val", 100, num_digits=2, size=128)
    candidates = [index for index in range(100) if data[index][1].tolist() == [first, second]]
    distances = [float((normalize(data[index][0]) - image[0]).abs().max()) for index in candidates]
    # Within half a step of the 256 of a PNG.
    assert min(distances) <= 0.5 / 255 / 0.2 + 1e-5
    mask = data[candidates[distances.index(min(distances))]][2]
    assert torch.equal(regions[:, 0], mask)


def test_regions_are_two_places_on_the_picture() -> None:
    regions = get_example_regions()
    assert regions.dtype == torch.bool
    assert regions.shape == (2, 1, 128, 128)
    share = regions.float().mean((1, 2, 3))
    assert ((share > 0.01) & (share < 0.16)).all()
    assert not regions.all(0).any()


@torch.no_grad()
def test_accuracy_on_held_out_pictures() -> None:
    model, *_ = get_example_data()
    data = ClutteredDigits("val", 200, num_digits=2, size=128, with_mask=False)
    images, labels = (torch.stack(entry) for entry in zip(*data, strict=True))
    top = model(normalize(images)).topk(2).indices
    right = (top.sort().values == labels.sort().values).all(1).float().mean()
    assert right > 0.9


def near(mask: Tensor) -> Tensor:
    """Return the pixels (N, H, W) that are less than 4 pixels from a mask."""
    line = torch.arange(-4, 5)
    disc = (line[:, None].square() + line.square() < 16).float()
    return F.conv2d(mask.float()[:, None], disc[None, None], padding=4)[:, 0] > 0


def test_methods_that_tell_classes_apart_find_the_digit_that_is_asked_for() -> None:
    model, *_ = get_example_data()
    data = ClutteredDigits("val", 60, num_digits=2, size=128)
    images, labels, masks = (torch.stack(entry) for entry in zip(*data, strict=True))

    def hits(method: AttributionMethod) -> float:
        found = []
        for digit in range(2):
            maps = method(model, normalize(images), labels[:, digit])
            place = maps.flatten(1).argmax(1, keepdim=True)
            found.append(near(masks[:, digit]).flatten(1).gather(1, place).float().mean())
        return float(torch.stack(found).mean())

    assert hits(GradCAM("features.29")) >= 0.85
    assert hits(ContrastiveExcitationBackprop("features.9", "classifier.4")) >= 0.95


def test_the_package_brings_less_than_a_megabyte() -> None:
    folder = files("lightning_saliency.benchmark")
    sizes = {
        entry.name: len(entry.read_bytes())
        for entry in folder.iterdir()
        if entry.is_file() and not entry.name.endswith(".py")
    }
    assert {"example_network.pt", "example_picture.png", "example_regions.png"} == set(sizes)
    assert sum(sizes.values()) < 1_000_000


def test_no_random_stream_is_moved_and_layers_start_from_the_file() -> None:
    torch.manual_seed(0)
    before = random_streams()
    first, *_ = get_example_data()
    assert random_streams() == before
    torch.manual_seed(1)
    second, *_ = get_example_data()
    weights = zip(first.parameters(), second.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in weights)


def test_an_unknown_network() -> None:
    with pytest.raises(InputError, match="Expected arch to be 'digits' or 'vgg16', got 'vgg'"):
        get_example_data("vgg")  # type: ignore[arg-type]


# --- VGG16 ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("picture", "came"),
    [
        (None, "got None"),
        (torch.rand(1, 3, 8, 8), r"shape \(1, 3, 8, 8\)"),
        (torch.rand(8, 8, 3), r"shape \(8, 8, 3\)"),
        ("cat_dog.jpg", "got 'cat_dog.jpg'"),
    ],
)
def test_vgg16_needs_a_photograph(picture: Any, came: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision.models, "vgg16", no_network)
    with pytest.raises(InputError, match=f"photograph .*{came}.* picture=torchvision"):
        get_example_data("vgg16", picture=picture)


def test_vgg16_without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(**kwargs: object) -> nn.Module:
        raise URLError("Name or service not known")

    monkeypatch.setattr(torchvision.models, "vgg16", unreachable)
    with pytest.raises(DownloadError) as caught:
        get_example_data("vgg16", picture=torch.rand(3, 8, 8))
    message = str(caught.value)
    for part in ("Name or service not known", "vgg16-397923af.pth", "checkpoints", "by hand"):
        assert part in message
    assert isinstance(caught.value, OSError)
    assert isinstance(caught.value.__cause__, URLError)


class MeanColour(nn.Module):
    """Scores are the mean colour, so that the order of the classes is known."""

    def forward(self, image: Tensor) -> Tensor:
        return image.mean((2, 3))


def test_vgg16_takes_the_photograph_at_the_size_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    given = SimpleNamespace()

    def vgg16(**kwargs: object) -> nn.Module:
        given.__dict__.update(kwargs)
        return MeanColour()

    monkeypatch.setattr(torchvision.models, "vgg16", vgg16)
    colour = torch.tensor([0.9, 0.1, 0.5]).view(3, 1, 1)
    model, image, first, second = get_example_data("vgg16", 64, colour.expand(3, 100, 200))
    assert given.weights is torchvision.models.VGG16_Weights.IMAGENET1K_V1
    assert not model.training
    assert image.shape == (1, 3, 32, 64)
    expected = (colour[:, 0, 0] - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor(
        [0.229, 0.224, 0.225]
    )
    torch.testing.assert_close(image.mean((0, 2, 3)), expected)
    assert (first, second) == (0, 2)
