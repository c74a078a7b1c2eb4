"""Targets on the outputs of real modules, and on outputs by hand."""

import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_models import make_images, make_model
from torch import Tensor, nn
from torchvision.models import resnet18
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.rpn import AnchorGenerator
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

from lightning_saliency.attribution import AttnLRP, GradCAM, Gradient
from lightning_saliency.errors import InputError, LayerError, ModelError
from lightning_saliency.targets import (
    BoxScore,
    ClassInMask,
    LogitDifference,
    ScoreTarget,
    Similarity,
    name_of_target,
)

LOGITS = torch.tensor([[1.0, -2.0, 0.5], [0.0, 4.0, 3.0]])
EVERY: list[Any] = [
    LogitDifference(1, 2),
    ClassInMask(1, torch.ones(2, 2)),
    Similarity(torch.ones(3)),
    BoxScore(1),
]


@pytest.mark.parametrize("target", EVERY, ids=lambda target: target.name)
def test_each_has_a_name_for_tags_and_can_be_pickled(target: Any) -> None:
    assert isinstance(target, ScoreTarget)
    assert name_of_target(target) == target.name == target.name.lower()
    assert pickle.loads(pickle.dumps(target)).name == target.name


def test_functions_go_by_their_own_name() -> None:
    def margin(output: Tensor) -> Tensor:
        return output[:, 0]

    assert name_of_target(margin) == "margin"
    assert name_of_target(lambda output: output[:, 0]) == "lambda"


def test_difference_of_logits() -> None:
    assert LogitDifference(1, 2)(LOGITS).tolist() == [-2.5, 1.0]
    with pytest.raises(InputError, match=r"from 0 to 2.*got 3"):
        LogitDifference(1, 3)(LOGITS)
    model, images = make_model(), make_images()
    wanted = Gradient()(model, images, lambda output: output[:, 1] - output[:, 2])
    assert torch.equal(Gradient()(model, images, LogitDifference(1, 2)), wanted)


def test_class_in_mask_by_hand() -> None:
    logits = torch.randn(2, 3, 4, 6)
    mask = torch.zeros(2, 3, dtype=torch.bool)
    mask[0, 1] = True
    wanted = logits[:, 2, :2, 2:4].mean((1, 2))
    torch.testing.assert_close(ClassInMask(2, mask)({"out": logits}), wanted)
    predicted = logits.argmax(1) == 1
    wanted = (logits[:, 1] * predicted).sum((1, 2)) / predicted.sum((1, 2))
    torch.testing.assert_close(ClassInMask(1)(logits), wanted)
    nowhere = logits.clone()
    nowhere[:, 1] = -9
    torch.testing.assert_close(ClassInMask(1)(nowhere), torch.full((2,), -9.0))
    unit = logits[:, :1]
    wanted = (unit[:, 0] * (unit[:, 0] > 0)).sum((1, 2)) / (unit[:, 0] > 0).sum((1, 2))
    torch.testing.assert_close(ClassInMask(0)(unit), wanted)
    with pytest.raises(InputError, match="4 x 6 pixels, but it marks none"):
        ClassInMask(2, torch.zeros(4, 6))(logits)
    with pytest.raises(ModelError, match="each pixel"):
        ClassInMask(2)(LOGITS)


def test_class_in_mask_of_a_segmentation_network() -> None:
    torch.manual_seed(0)
    model = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4).eval()
    images, mask = torch.randn(1, 3, 64, 96), torch.zeros(64, 96)
    mask[:32, :32] = 1
    saliency = Gradient()(model, images, ClassInMask(2, mask))
    others = Gradient()(model, images, ClassInMask(2, 1 - mask))
    # What the pixels in the corner depend on lies more in the corner.
    share = lambda s: float(s[..., :32, :32].sum() / s.sum())  # noqa: E731
    assert share(saliency) > share(others)


def test_similarity_by_hand() -> None:
    embedding = torch.randn(2, 8)
    one, each = torch.randn(8), torch.randn(2, 8)
    wanted = (F.normalize(embedding, dim=1) @ F.normalize(one, dim=0)).tolist()
    assert Similarity(one)(embedding).tolist() == pytest.approx(wanted)
    assert Similarity(one)((embedding, "more")).tolist() == pytest.approx(wanted)
    assert Similarity(one, lambda o: o["z"])({"z": embedding}).tolist() == pytest.approx(wanted)
    torch.testing.assert_close(
        Similarity(each)(embedding), F.cosine_similarity(embedding, each), rtol=1e-5, atol=1e-6
    )
    with pytest.raises(InputError, match=r"shape \(2, 8\).*got \(7,\).*embed="):
        Similarity(torch.ones(7))(embedding)
    with pytest.raises(ModelError, match=r"got str.*embed="):
        Similarity(one)("text")


def test_similarity_of_an_encoder() -> None:
    torch.manual_seed(0)
    encoder = resnet18(weights=None)
    encoder.fc = nn.Identity()
    images = torch.randn(2, 3, 64, 64)
    reference = encoder.eval()(images).detach()[0]
    target = Similarity(reference)
    saliency = GradCAM(resize=False).prepare(encoder, images, target)(encoder, images, target)
    assert saliency.shape == (2, 1, 2, 2)


def small_detector() -> FasterRCNN:
    torch.manual_seed(0)

    class Backbone(nn.Module):
        out_channels = 8

        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1))

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x)

    anchors = AnchorGenerator(((16, 32),), ((1.0,),))
    return FasterRCNN(
        Backbone(),
        num_classes=3,
        min_size=64,
        max_size=96,
        rpn_anchor_generator=anchors,
        box_score_thresh=0.0,
    ).eval()


def test_boxes_of_a_detector_of_torchvision() -> None:
    model, images = small_detector(), torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        found = model(images)[0]
    label = int(found["labels"][0])
    scores = found["scores"][found["labels"] == label]
    torch.testing.assert_close(BoxScore(label)([found]), scores.sum()[None])
    first = tuple(found["boxes"][0].tolist())
    assert BoxScore(label, first)([found]).tolist() == [float(found["scores"][0])]
    saliency = Gradient()(model, images, BoxScore(label, first))
    assert saliency.shape == (1, 1, 64, 96)
    assert saliency.any()
    maps = GradCAM("backbone.body.2", resize=False)(model, images, BoxScore(label, first))
    assert maps.shape == (1, 1, 8, 12)
    # Nothing is found of the class, as in the first epochs of a training: the map is empty.
    assert not Gradient()(model, images, BoxScore(9)).any()
    assert not GradCAM()(model, images, BoxScore(9)).any()


def test_queries_of_a_detector_like_detr() -> None:
    logits = torch.randn(2, 5, 4)
    for output in ({"pred_logits": logits}, type("Output", (), {"logits": logits})()):
        torch.testing.assert_close(BoxScore(2)(output), logits[:, :, 2].amax(1))
        torch.testing.assert_close(BoxScore(2, query=3)(output), logits[:, 3, 2])
    with pytest.raises(ModelError, match=r"queries, classes.*got Tensor"):
        BoxScore(2)(LOGITS)
    with pytest.raises(InputError, match="from 0 to 3"):
        BoxScore(4)({"pred_logits": logits})


class Detr(nn.Module):
    """A convolution, an encoder and a decoder with five queries."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 16, 8, 8)
        self.encoder = nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True)
        self.decoder = nn.TransformerDecoderLayer(16, 2, 32, 0.0, batch_first=True)
        self.queries, self.head = nn.Parameter(torch.randn(5, 16)), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        memory = self.encoder(self.conv(x).flatten(2).transpose(1, 2))
        queries = self.queries.expand(len(x), -1, -1)
        return {"pred_logits": self.head(self.decoder(queries, memory))}


@pytest.mark.filterwarnings("ignore")
def test_a_module_like_detr_is_explained() -> None:
    model, images, target = Detr().eval(), torch.randn(2, 3, 32, 48), BoxScore(1)
    assert Gradient()(model, images, target).shape == (2, 1, 32, 48)
    assert AttnLRP()(model, images, target).any()
    maps = GradCAM("encoder", resize=False)(model, images, target)
    assert maps.shape == (2, 1, 4, 6)
    with pytest.raises(LayerError, match=r"'encoder' \(24, 16\), 4 x 6 tokens.*Name one"):
        GradCAM()(model, images, target)
