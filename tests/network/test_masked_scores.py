import pytest
import torch
import torch.nn.functional as F
from tiny_models import make_images, make_model
from torch import Tensor, nn

from lightning_saliency.errors import InputError, ModelError
from lightning_saliency.network.batching import Batches
from lightning_saliency.network.masked_scores import masked_scores, target_score
from lightning_saliency.network.score import all_class_scores

KINDS = ["probability", "logit", "log_probability", "sigmoid"]


def setting() -> tuple[nn.Module, Tensor, Tensor]:
    masks = torch.rand(7, 1, 16, 20, generator=torch.Generator().manual_seed(2)).double()
    return make_model(dtype=torch.float64), make_images(3, dtype=torch.float64), masks


@pytest.mark.parametrize("size", [1, 2, 5, 7, 14, 100])
def test_each_image_under_each_mask(size: int) -> None:
    model, images, masks = setting()
    batches = Batches(size, images.device)
    came = masked_scores(model, images, masks, lambda output, _: output, batches)
    assert came.shape == (3, 5, 7)
    for i in range(3):
        for m in range(7):
            torch.testing.assert_close(came[i, :, m], model(images[i : i + 1] * masks[m])[0])


@pytest.mark.parametrize("size", [2, 5, 100])
def test_score_is_told_the_images(size: int) -> None:
    model, images, masks = setting()
    batches = Batches(size, images.device)
    came = masked_scores(model, images, masks, lambda _, owner: owner[:, None].double(), batches)
    assert torch.equal(came, torch.arange(3).double()[:, None, None].expand(3, 1, 7))


def test_low_precision_comes_back_as_float32() -> None:
    model, images = make_model(dtype=torch.bfloat16), make_images(dtype=torch.bfloat16)
    masks = torch.rand(4, 1, 16, 20)
    came = masked_scores(model, images, masks, lambda output, _: output, Batches(8, images.device))
    assert came.dtype == torch.float32


def test_autocast_runs_the_model_in_bfloat16() -> None:
    seen = []

    def score(output: object, _: Tensor) -> Tensor:
        assert isinstance(output, Tensor)
        seen.append(output.dtype)
        return output

    model, images, masks = make_model(), make_images(), torch.rand(4, 1, 16, 20)
    for autocast in (False, True):
        masked_scores(model, images, masks, score, Batches(8, images.device), autocast)
    assert seen == [torch.float32, torch.bfloat16]


def test_model_that_loses_the_batch() -> None:
    class Mean(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean((0, 2, 3))[None]

    _, images, masks = setting()
    with pytest.raises(ModelError, match="one row of scores for each of the 8 images"):
        masked_scores(Mean(), images, masks, lambda output, _: output, Batches(8, images.device))


# --- scores -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_score(kind: str) -> None:
    logits = torch.randn(4, 5)
    wanted = {
        "probability": torch.exp(logits) / torch.exp(logits).sum(1, keepdim=True),
        "logit": logits,
        "log_probability": torch.log(torch.exp(logits) / torch.exp(logits).sum(1, keepdim=True)),
        "sigmoid": 1 / (1 + torch.exp(-logits)),
    }[kind]
    torch.testing.assert_close(all_class_scores(logits, kind), wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_one_unit_is_two_classes(kind: str) -> None:
    unit = torch.randn(4)
    wanted = {
        "probability": lambda x: torch.sigmoid(x),
        "logit": lambda x: x,
        "log_probability": lambda x: F.logsigmoid(x),
        "sigmoid": lambda x: torch.sigmoid(x),
    }[kind]
    for output in (unit, unit[:, None]):
        came = all_class_scores(output, kind)
        torch.testing.assert_close(came, torch.stack([wanted(-unit), wanted(unit)], 1))


@pytest.mark.parametrize("kind", ["probability", "log_probability", "sigmoid"])
def test_scores_of_bfloat16_logits_are_float32(kind: str) -> None:
    assert all_class_scores(torch.randn(4, 5).bfloat16(), kind).dtype == torch.float32


def test_target_score_takes_each_image_s_class() -> None:
    model, images, _ = setting()
    batches = Batches(2, images.device)
    owner = torch.tensor([2, 0, 0, 1])
    logits = torch.randn(4, 5)
    score = target_score(model, images, [4, 1, 3], "logit", batches)
    wanted = torch.stack([logits[0, 3], logits[1, 4], logits[2, 4], logits[3, 1]])[:, None]
    assert torch.equal(score(logits, owner), wanted)
    predicted = model(images).argmax(1)
    score = target_score(model, images, "predicted", "logit", batches)
    assert torch.equal(score(logits, owner), logits.gather(1, predicted[owner][:, None]))


def test_target_score_of_a_callable() -> None:
    model, images, _ = setting()
    logits = torch.randn(4, 5)
    score = target_score(
        model, images, lambda output: output[:, 1] - output[:, 0], "logit", Batches(2, "cpu")
    )
    assert torch.equal(score(logits, torch.zeros(4)), (logits[:, 1] - logits[:, 0])[:, None])


def test_model_that_writes_into_its_input() -> None:
    class Writer(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mul_(2).mean((2, 3))

    _, images, masks = setting()
    wanted, batches = images.clone(), Batches(7, images.device)
    score = target_score(Writer(), images, "predicted", "logit", batches)
    came = masked_scores(Writer(), images, masks, score, batches)
    assert torch.equal(images, wanted)
    classes = images.mean((2, 3)).argmax(1)
    means = (2 * images[:, None] * masks).mean((3, 4))
    torch.testing.assert_close(came[:, 0], torch.stack([means[i, :, classes[i]] for i in range(3)]))


def test_target_is_checked_before_the_masks() -> None:
    model, images, _ = setting()
    for target in (5, [0, 1], "label"):
        with pytest.raises(InputError):
            target_score(model, images, target, "logit", Batches(2, images.device))
