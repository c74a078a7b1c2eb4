"""What is explained, how maps become points, and models that look everywhere; against TorchRay."""

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from lightning_saliency.attribution import Gradient
from lightning_saliency.benchmark.caffe_weights import (
    adapt_to_caffe,
    convert_weights,
    is_from_caffe,
)
from lightning_saliency.benchmark.fully_convolutional import fully_convolutional
from lightning_saliency.benchmark.pointing_digits import DigitsPointing
from lightning_saliency.benchmark.pointing_models import (
    Layers,
    PointingModel,
    load_pointing_model,
)
from lightning_saliency.benchmark.pointing_recipes import PointingScore, Recipe, pointing_recipe
from lightning_saliency.benchmark.preprocessing import CAFFE, IMAGENET, Preprocessing
from lightning_saliency.errors import DownloadError, InputError, ModelError

SIZE = (240, 310)
# The methods whose maps are compared with TorchRay's whole.
TORCHRAY = [
    *("gradient", "deconvnet", "guided_backprop", "linear_approx", "grad_cam"),
    *("excitation_backprop", "contrastive_excitation_backprop"),
]
CLASSES = 7


@contextmanager
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def torchray(name: str) -> ModuleType:
    with quiet():
        return pytest.importorskip(f"torchray.{name}")


def narrow_vgg(seed: int = 0, classes: int = CLASSES) -> torchvision.models.VGG:
    """VGG with few channels, but for the 512 that TorchRay expects of the last ones."""
    torch.manual_seed(seed)
    features: list[nn.Module] = []
    channels = 3
    for width in (4, 8, 8, 8, 512):
        features += [
            nn.Conv2d(channels, width, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
        ]
        channels = width
    with torch.device("meta"):
        model = torchvision.models.VGG(nn.Sequential())
    model.features = nn.Sequential(*features)
    model.classifier = nn.Sequential(
        nn.Linear(512 * 49, 8),
        nn.ReLU(inplace=True),
        nn.Dropout(),
        nn.Linear(8, 8),
        nn.ReLU(inplace=True),
        nn.Dropout(),
        nn.Linear(8, classes),
    )
    return model.eval()


def small_resnet(seed: int = 0) -> torchvision.models.ResNet:
    torch.manual_seed(seed)
    block = torchvision.models.resnet.BasicBlock
    return torchvision.models.ResNet(block, [1, 1, 1, 1], num_classes=CLASSES).eval()


# --- the score --------------------------------------------------------------------------------


def test_the_signal_is_torchrays_pointing_gradient() -> None:
    common = torchray("attribution.common")
    scores = torch.randn(1, CLASSES, 2, 5, requires_grad=True)
    (ours,) = torch.autograd.grad(PointingScore([3])(scores).sum(), scores)
    torch.testing.assert_close(ours, common.get_pointing_gradient(scores.detach(), 3))
    flat = torch.randn(1, CLASSES, requires_grad=True)
    (ours,) = torch.autograd.grad(PointingScore([3])(flat).sum(), flat)
    torch.testing.assert_close(ours, common.get_pointing_gradient(flat.detach(), 3))


def test_each_image_has_its_own_class() -> None:
    scores = torch.randn(3, CLASSES, 2, 4)
    expected = [scores[i, label].exp().sum().log() for i, label in enumerate((6, 0, 2))]
    torch.testing.assert_close(PointingScore((6, 0, 2))(scores), torch.stack(expected))


@pytest.mark.parametrize("scores", [torch.zeros(3, 5), torch.zeros(2, 5, 1), "scores"])
def test_scores_that_do_not_fit(scores: Any) -> None:
    with pytest.raises(InputError, match="scores"):
        PointingScore((4, 1))(scores)
    with pytest.raises(InputError, match=r"classes \[5, 1\]"):
        PointingScore((5, 1))(torch.zeros(2, 5))


# --- whole recipes against TorchRay's benchmark -----------------------------------------------


@pytest.fixture(scope="module")
def vgg() -> nn.Module:
    return fully_convolutional(narrow_vgg())


@pytest.fixture(scope="module")
def image() -> Tensor:
    return torch.randn(1, 3, 224, 300, generator=torch.Generator().manual_seed(1))


def torchray_map(name: str, model: nn.Module, image: Tensor, label: int) -> Tensor:
    """The map as in TorchRay's examples/attribution_benchmark.py."""
    gradient = torchray("attribution.common").get_pointing_gradient
    module = torchray(f"attribution.{name.removeprefix('contrastive_')}")
    settings: dict[str, Any] = {"resize": SIZE[::-1], "get_backward_gradient": gradient}
    if name in ("gradient", "deconvnet", "guided_backprop"):
        settings["smooth"] = 0.02
    elif name in ("grad_cam", "linear_approx"):
        settings["saliency_layer"] = "features.13"
    else:
        settings["saliency_layer"] = "features.8"
    if name.startswith("contrastive"):
        settings["contrast_layer"] = "classifier.4"
    with quiet():
        found: Tensor = getattr(module, name)(copy.deepcopy(model), image, label, **settings)
    return found.detach()


@pytest.mark.parametrize("name", TORCHRAY)
def test_maps_are_those_of_the_published_benchmark(
    name: str, vgg: nn.Module, image: Tensor
) -> None:
    layers = Layers("features.13", "features.8", "classifier.4")
    model = PointingModel("narrow", vgg, layers=layers)
    recipe = pointing_recipe(name, model, DigitsPointing(1))
    ours = recipe.maps(vgg, torch.cat([image, image.flip(3)]), [3, 5], SIZE)
    assert ours.shape == (2, 1, *SIZE)
    theirs = torchray_map(name, vgg, image, 3)
    assert float(theirs.abs().max()) > 0
    torch.testing.assert_close(ours[:1] / theirs.abs().max(), theirs / theirs.abs().max())
    other = torchray_map(name, vgg, image.flip(3), 5)
    torch.testing.assert_close(ours[1:] / other.abs().max(), other / other.abs().max())


def test_masks_are_smoothed_as_in_the_published_benchmark(vgg: nn.Module) -> None:
    class Fixed(Gradient):
        def __call__(self, model: Any, image: Any, target: Any) -> Tensor:
            return masks

    masks = (torch.rand(1, 1, 224, 300, generator=torch.Generator().manual_seed(2)) > 0.7).float()
    common, utils = torchray("attribution.common"), torchray("utils")
    theirs = common.resize_saliency(masks, masks, SIZE[::-1], mode="bilinear")
    theirs = utils.imsmooth(theirs, sigma=0.09 * min(SIZE), padding_mode="constant")
    published = pointing_recipe("extremal_perturbation", PointingModel("n", vgg), DigitsPointing(1))
    assert published.smooth == 0.09
    recipe = Recipe("fixed", Fixed(), published.smooth, published.smooth_side)
    torch.testing.assert_close(recipe.maps(vgg, masks, [0], SIZE), theirs, atol=1e-5, rtol=1e-4)


def test_the_preset_is_torchrays_rise_and_perturbation(vgg: nn.Module) -> None:
    model, data = PointingModel("narrow", vgg), DigitsPointing(1)
    rise: Any = pointing_recipe("rise", model, data, "torchray")
    assert (rise.method.preset, rise.method.num_masks, rise.square) == ("torchray", None, True)
    search: Any = pointing_recipe("extremal_perturbation", model, data, "torchray").method
    assert (search.preset, search.areas, search.max_iter) == ("torchray", data.areas, None)
    with pytest.raises(InputError, match="'torchray', got 'paper'"):
        pointing_recipe("rise", model, data, "paper")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"out of center, gradient, .* got 'cam'"):
        pointing_recipe("cam", model, data)


# --- fully convolutional models ---------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["window", "picture"])
@pytest.mark.parametrize("make", [narrow_vgg, small_resnet])
def test_at_the_size_of_training_nothing_changes(make: Any, pooling: Any) -> None:
    model = make()
    image = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        scores = fully_convolutional(model, pooling)(image)
        torch.testing.assert_close(scores, model(image)[:, :, None, None], atol=1e-5, rtol=1e-4)


def test_larger_pictures_are_looked_at_place_by_place() -> None:
    image = torch.randn(1, 3, 224, 320)
    with torch.no_grad():
        for model in (narrow_vgg(), small_resnet()):
            scores = fully_convolutional(model)(image)
            assert scores.shape == (1, CLASSES, 1, 4)
        # The second place sees the picture from 32 pixels on.
        model = narrow_vgg()
        features = model.features(image)[:, :, :, 1:8]
        expected = model.classifier(features.flatten(1))
        scores = fully_convolutional(model)(image)
        torch.testing.assert_close(scores[:, :, 0, 1], expected, atol=1e-5, rtol=1e-4)


def test_the_same_scores_as_torchrays_conversion() -> None:
    models = torchray("benchmark.models")
    image = torch.randn(2, 3, 224, 290)
    with torch.no_grad():
        ours = fully_convolutional(narrow_vgg())(image)
        theirs = models._caffe_vgg16_to_fc(narrow_vgg())
        torch.testing.assert_close(ours, theirs(image))


def test_layers_keep_their_names_and_other_models_are_refused() -> None:
    model = narrow_vgg()
    names = {name for name, _ in fully_convolutional(model).named_modules()}
    assert {"features.13", "classifier.4", "classifier.6"} <= names
    assert {"layer4", "avgpool", "fc"} <= dict(
        fully_convolutional(small_resnet()).named_modules()
    ).keys()
    with pytest.raises(ModelError, match=r"torchvision's VGG or ResNet .* got Linear"):
        fully_convolutional(nn.Linear(2, 2))


# --- weights from Caffe -----------------------------------------------------------------------


def caffe_vgg_weights(model: torchvision.models.VGG) -> dict[str, Tensor]:
    """As the converted files are: other numbers in the classifier, which has convolutions."""
    weights = {}
    for name, value in model.state_dict().items():
        if name.startswith("classifier."):
            _, layer, kind = name.split(".")
            side = 7 if layer == "0" else 1
            name = f"classifier.{ {'0': '0', '3': '2', '6': '4'}[layer] }.{kind}"
            value = value.view(len(value), -1, side, side) if kind == "weight" else value
        weights[name] = value + 0.01
    return weights


def test_vgg_from_caffe_is_loaded_as_by_torchray() -> None:
    models = torchray("benchmark.models")
    weights = caffe_vgg_weights(narrow_vgg(1))
    assert is_from_caffe(weights)
    assert not is_from_caffe(narrow_vgg().state_dict())
    theirs = narrow_vgg()
    models._load_caffe_vgg16(theirs, weights)
    ours = narrow_vgg()
    adapt_to_caffe(ours)
    ours.load_state_dict(convert_weights(weights))
    image = torch.randn(2, 3, 230, 230)
    with torch.no_grad():
        torch.testing.assert_close(ours(image), theirs(image))
        # Poolings that round up give more places.
        places = fully_convolutional(ours)(torch.randn(1, 3, 224, 298)).shape
        assert places == models._caffe_vgg16_to_fc(theirs)(torch.randn(1, 3, 224, 298)).shape


def bottlenecks() -> torchvision.models.ResNet:
    block = torchvision.models.resnet.Bottleneck
    return torchvision.models.ResNet(block, [1, 1, 1, 1], num_classes=CLASSES).eval()


def test_resnet_from_caffe_is_loaded_as_by_torchray() -> None:
    models = torchray("benchmark.models")
    torch.manual_seed(0)
    source = bottlenecks()
    source.conv1 = nn.Conv2d(3, 64, 7, bias=True)
    weights = {}
    for name, value in source.state_dict().items():
        if "num_batches" in name:
            continue
        part = "0" if "running" in name else "1"
        for layer in ("bn1", "bn2", "bn3", "downsample.1"):
            name = name.replace(f"{layer}.", f"{layer}.{part}.")
        weights[name] = value + 0.05 * torch.rand_like(value)
    assert is_from_caffe(weights)
    theirs, ours = bottlenecks(), bottlenecks()
    models._load_caffe_resnet50(theirs, weights)
    adapt_to_caffe(ours)
    ours.load_state_dict(convert_weights(weights))
    image = torch.randn(1, 3, 224, 250)
    with torch.no_grad():
        torch.testing.assert_close(ours(image), theirs(image))
        theirs = models._caffe_resnet50_to_fc(theirs)
        torch.testing.assert_close(fully_convolutional(ours, "picture")(image), theirs(image))
        theirs.avgpool = nn.AvgPool2d((7, 7), stride=1)
        torch.testing.assert_close(fully_convolutional(ours)(image), theirs(image))


def test_models_that_are_none() -> None:
    with pytest.raises(InputError, match="VGG or ResNet, got Linear"):
        adapt_to_caffe(nn.Linear(1, 1))
    with pytest.raises(InputError, match=r"features\.0\.weight or conv1\.weight, got a, b"):
        convert_weights({"a": torch.zeros(1), "b": torch.zeros(1)})


# --- loading ----------------------------------------------------------------------------------


def test_a_file_of_weights(tmp_path: Any) -> None:
    torch.manual_seed(0)
    source = torchvision.models.resnet50(num_classes=20)
    path = tmp_path / "weights.pt"
    torch.save({"state_dict": source.state_dict()}, path)
    model = load_pointing_model("resnet50", "voc_2007_test", 20, path)
    assert model.preprocessing == IMAGENET
    image = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        expected = source.eval()(image)[:, :, None, None]
        torch.testing.assert_close(model.module(image), expected)
        assert model.whole is not None
        torch.testing.assert_close(model.whole(image), expected)
    print_before = model.fingerprint()
    assert print_before == load_pointing_model("resnet50", "voc", 20, path).fingerprint()
    with pytest.raises(InputError, match="for the 80 classes of the dataset, got some for 20"):
        load_pointing_model("resnet50", "coco_val2014", 80, path)
    torch.save({"a": torch.zeros(20)}, path)
    with pytest.raises(InputError, match="do not fit"):
        load_pointing_model("resnet50", "voc", 20, path)
    torch.save([1, 2], path)
    with pytest.raises(InputError, match=r"tensors by name, in .* got list"):
        load_pointing_model("resnet50", "voc", 20, path)
    path.write_bytes(b"half a file")
    with pytest.raises(InputError, match="cannot be read"):
        load_pointing_model("resnet50", "voc", 20, path)
    with pytest.raises(InputError, match="is not there"):
        load_pointing_model("resnet50", "voc", 20, tmp_path / "nothing.pt")
    with pytest.raises(InputError, match="out of vgg16, resnet50, example, got 'vgg'"):
        load_pointing_model("vgg", "voc", 20)


def test_weights_that_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(url: str, **_: Any) -> None:
        raise OSError(f"no way to {url}")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fail)
    with pytest.raises(DownloadError, match=r"vgg16 for VOC, .*/vgg16_voc-b050e8c3.*--weights"):
        load_pointing_model("vgg16", "voc_2007_test", 20)
    with pytest.raises(InputError, match="for VOC and COCO only"):
        load_pointing_model("vgg16", "digits_2", 10)


# --- preprocessing ----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(375, 500), (500, 333), (300, 300)])
def test_pictures_are_prepared_as_by_torchray(size: tuple[int, int]) -> None:
    models = torchray("benchmark.models")
    picture = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    pil = torchvision.transforms.functional.to_pil_image(picture)
    for side, square in ((224, False), ((224, 224), True)):
        theirs = models.get_transform("voc", side)(pil)
        ours = CAFFE(picture.float() / 255, square)
        assert ours.shape == theirs.shape
        assert tuple(ours.shape[1:]) == CAFFE.size(size, square)
        torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=1e-4)


def test_preprocessing_that_cannot_be() -> None:
    with pytest.raises(InputError, match="three numbers each"):
        Preprocessing((0, 0, 0), (1, 1, 0))
    with pytest.raises(InputError, match="at least 1 pixel, got 0"):
        Preprocessing((0, 0, 0), (1, 1, 1), 0)
    picture = torch.rand(3, 5, 6)
    same = Preprocessing((0, 0, 0), (1, 1, 1), None)
    assert torch.equal(same(picture), picture)
    assert same.size((5, 6), square=True) == (5, 6)
