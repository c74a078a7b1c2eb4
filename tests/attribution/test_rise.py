"""RISE against the paper's formula, TorchRay, and what it says of itself."""

import dataclasses
import math

import pytest
import torch
from tally import Tally
from tiny_models import CLASSES, in_training, make_images, make_model
from torch import Tensor, nn
from traces import bits, leaves_no_trace

from lightning_saliency.attribution.rise import RISE, rise, rise_class
from lightning_saliency.errors import InputError
from lightning_saliency.image.random_mask import Upsampling, balanced_masks, independent_masks

SCORES = {
    "probability": lambda logits: torch.exp(logits) / torch.exp(logits).sum(1, keepdim=True),
    "logit": lambda logits: logits,
    "log_probability": lambda logits: torch.log(
        torch.exp(logits) / torch.exp(logits).sum(1, keepdim=True)
    ),
    "sigmoid": lambda logits: 1 / (1 + torch.exp(-logits)),
}
PRESETS = (None, "balanced", "paper", "torchray")
every_score = pytest.mark.parametrize("score", SCORES)


def setting(size: tuple[int, int] = (16, 20), channels: int = 3) -> tuple[nn.Module, Tensor]:
    """Return a model and images in float64."""
    return (
        make_model("residual", channels, torch.float64),
        make_images(2, size, channels, torch.float64),
    )


def naive_rise(
    model: nn.Module, images: Tensor, masks: Tensor, score: str, p: float, centred: bool
) -> Tensor:
    """The paper's sum, S = 1 / (N p) sum_i score(image x mask_i) mask_i, mask by mask."""
    scores = torch.stack([SCORES[score](model(images * mask)) for mask in masks])
    if centred:
        scores = scores - scores.mean(0)
    total = torch.zeros(len(images), CLASSES, *images.shape[2:], dtype=torch.float64)
    for i in range(len(images)):
        for k in range(CLASSES):
            for m, mask in enumerate(masks):
                total[i, k] += scores[m, i, k] * mask[0]
    return (total / (len(masks) * p)).detach()


# --- the formula ------------------------------------------------------------------------------


@every_score
@pytest.mark.parametrize(("size", "channels"), [((16, 20), 3), ((21, 9), 1)])
def test_equals_the_naive_loop(score: str, size: tuple[int, int], channels: int) -> None:
    model, images = setting(size, channels)
    table = Upsampling(size, (7, 7), dtype=torch.float64)
    masks = torch.cat([block.masks for block in balanced_masks(table, 256, seed=9)])
    wanted = naive_rise(model, images, masks, score, 0.5, centred=True)
    came = rise(model, images, num_masks=256, seed=9, score=score, preset="balanced")
    assert came.shape == (2, CLASSES, *size)
    torch.testing.assert_close(came, wanted, rtol=1e-9, atol=1e-12)


@every_score
def test_paper_preset_equals_the_naive_loop(score: str) -> None:
    model, images = setting()
    table = Upsampling((16, 20), (5, 6), dtype=torch.float64)
    masks = torch.cat([block.masks for block in independent_masks(table, 200, 0.3, seed=2)])
    wanted = naive_rise(model, images, masks, score, 0.3, centred=False)
    came = rise(model, images, 200, (5, 6), 0.3, seed=2, score=score, preset="paper")
    torch.testing.assert_close(came, wanted, rtol=1e-9, atol=1e-12)


def test_other_p_takes_independent_masks() -> None:
    model, images = setting()
    table = Upsampling((16, 20), (7, 7), dtype=torch.float64)
    masks = torch.cat([block.masks for block in independent_masks(table, 150, 0.7)])
    wanted = naive_rise(model, images, masks, "probability", 0.7, centred=True)
    torch.testing.assert_close(rise(model, images, 150, p=0.7), wanted, rtol=1e-9, atol=1e-12)


class Window(nn.Module):
    """Class 1 is the mean of one rectangle; its map should be that rectangle."""

    def forward(self, x: Tensor) -> Tensor:
        inside = x[:, 0, 16:32, 40:60].mean((1, 2))
        return torch.stack([-inside, inside], 1) / 2


def test_map_lies_where_the_score_comes_from() -> None:
    images = torch.ones(1, 1, 64, 64)
    estimate = RISE(128 * 40, score="logit").estimate(Window(), images, 1)
    saliency = estimate.saliency[0, 0]
    assert saliency[20:28, 45:55].min() > 4 * saliency[48:, :24].abs().max()
    # At most cov(score, mask) / p where both are 0 or 1 together.
    assert 0 < saliency.max() < 0.25 / 0.5
    assert estimate.split_half[0] > 0.9


def test_maps_of_a_linear_score_have_no_noise_of_a_constant() -> None:
    # A large constant in the score changes neither the map nor its noise.
    model = Window()
    plain = RISE(score="logit")(model, torch.ones(1, 1, 64, 64), lambda logits: logits[:, 1])
    raised = RISE()(model, torch.ones(1, 1, 64, 64), lambda logits: logits[:, 1] + 100)
    torch.testing.assert_close(plain, raised, rtol=0, atol=1e-4 * float(plain.abs().max()))


# --- TorchRay ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "settings"),
    [
        ((16, 20), {"num_masks": 70}),
        ((64, 64), {"num_masks": 64, "seed": 3}),
        ((33, 50), {"num_masks": 50, "batch_size": 20, "num_cells": 4, "p": 0.3}),
        ((12, 12), {"num_masks": 40, "num_cells": 11}),
    ],
)
def test_torchray_preset_is_torchray(size: tuple[int, int], settings: dict) -> None:
    reference = pytest.importorskip("torchray.attribution.rise")
    model, images = make_model("residual"), make_images(2, size)
    wanted = reference.rise(model, images, **settings)
    came = rise(model, images, preset="torchray", **settings)
    assert (came - wanted).abs().max() < 1e-5 * wanted.abs().max()
    wanted = reference.rise_class(model, images, target=[3, 1], **settings)
    came = rise_class(model, images, target=[3, 1], preset="torchray", **settings)
    assert (came - wanted).abs().max() < 1e-5 * wanted.abs().max()


def test_default_is_not_torchray() -> None:
    model, images = make_model("residual"), make_images(1)
    maps = {bits(rise(model, images, 128, preset=preset)) for preset in PRESETS}
    assert len(maps) == len(PRESETS)


# --- the calls --------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", PRESETS)
def test_one_class_is_a_part_of_all(preset: str) -> None:
    model, images = setting()
    maps = rise(model, images, 160, preset=preset)
    for target in ([4, 1], (0, 2), torch.tensor([3, 3])):
        wanted = torch.stack([maps[i, int(k)] for i, k in enumerate(target)])[:, None]
        came = rise_class(model, images, target, 160, preset=preset)
        torch.testing.assert_close(came, wanted, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(RISE(160, preset=preset)(model, images, 2), maps[:, 2:3])


def test_callable_target() -> None:
    model, images = setting()
    came = RISE(128)(model, images, lambda output: output[:, 1] - output[:, 2])
    maps = rise(model, images, 128, score="logit")
    torch.testing.assert_close(came, maps[:, 1:2] - maps[:, 2:3], rtol=1e-9, atol=1e-12)


def test_one_unit_has_two_classes() -> None:
    class Unit(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 9 * x[:, 0, :8, :8].mean((1, 2))

    images = torch.rand(2, 1, 16, 16)
    maps = rise(Unit(), images, 128)
    assert maps.shape == (2, 2, 16, 16)
    torch.testing.assert_close(maps[:, 0], -maps[:, 1])
    assert maps[0, 1, 4, 4] > abs(maps[0, 1, 14, 14])


@pytest.mark.parametrize("batch_size", [1, 7, 128, 1000, "auto"])
def test_batch_size_changes_nothing(batch_size: int) -> None:
    model, images = setting()
    wanted = rise(model, images, 128, batch_size=32)
    came = rise(model, images, 128, batch_size=batch_size)
    torch.testing.assert_close(came, wanted, rtol=1e-9, atol=1e-12)


def test_no_more_than_one_batch_at_a_time() -> None:
    class Watched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = make_model("residual")
            self.seen = Tally()

        def forward(self, x: Tensor) -> Tensor:
            self.seen.append(len(x))
            assert not torch.is_grad_enabled()
            return self.inner(x)

    model = Watched()
    RISE(256, batch_size=24)(model, make_images(3), 1)
    assert max(model.seen) == 24
    assert sum(model.seen) == 3 + 3 * 256
    model.seen.clear()
    RISE(256, batch_size=24).all_classes(model, make_images(3))
    assert max(model.seen) == 24
    assert sum(model.seen) == 3 * 256


def test_out_of_memory_halves_the_batch() -> None:
    class Large(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = make_model("residual", dtype=torch.float64)

        def forward(self, x: Tensor) -> Tensor:
            if len(x) > 9:
                raise torch.OutOfMemoryError
            return self.inner(x)

    model, images = setting()
    torch.testing.assert_close(
        RISE(128, batch_size=64)(Large(), images, 1), RISE(128)(model, images, 1)
    )


@pytest.mark.parametrize("resize", [True, False])
def test_maps_have_the_size_of_the_image(resize: bool) -> None:
    model, images = setting((30, 17))
    assert rise(model, images, 128, resize=resize).shape == (2, CLASSES, 30, 17)
    assert rise_class(model, images, 1, 128, resize=resize).shape == (2, 1, 30, 17)


def test_resize_and_smooth() -> None:
    model, images = setting()
    assert rise(model, images, 128, resize=(5, 8)).shape == (2, CLASSES, 5, 8)
    method = RISE(128, smooth=0.1, resize=(8, 10))
    assert method.estimate(model, images, 1).saliency.shape == (2, 1, 8, 10)
    torch.testing.assert_close(method.all_classes(model, images)[:, 1:2], method(model, images, 1))


def test_autocast() -> None:
    model, images = make_model("residual"), make_images()
    wanted, came = (RISE(256, autocast=autocast)(model, images, 1) for autocast in (False, True))
    assert came.dtype == torch.float32
    assert bits(came) != bits(wanted)
    assert torch.corrcoef(torch.stack([came.flatten(), wanted.flatten()]))[0, 1] > 0.9


@pytest.mark.parametrize(
    ("dtype", "wanted"),
    [(torch.bfloat16, torch.float32), (torch.float64, torch.float64)],
)
def test_dtype_of_all_classes(dtype: torch.dtype, wanted: torch.dtype) -> None:
    model, images = make_model("residual", dtype=dtype), make_images(dtype=dtype)
    assert rise(model, images, 128).dtype == wanted
    assert RISE(128).estimate(model, images, 1).split_half.dtype == wanted


@pytest.mark.parametrize("inside", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("outside", [torch.float64, torch.float32, torch.bfloat16])
def test_model_that_computes_in_another_precision(
    inside: torch.dtype, outside: torch.dtype
) -> None:
    class Converted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = make_model("residual", dtype=inside)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x.to(inside))

    images = make_images(dtype=outside)
    for score in ("probability", "logit"):
        maps = rise(Converted(), images, 128, score=score)
        assert maps.dtype == torch.promote_types(outside, torch.float32)
        assert RISE(128, score=score)(Converted(), images, 1).dtype == maps.dtype


def test_low_precision_comes_close() -> None:
    images = make_images()
    wanted = RISE(256)(make_model("residual"), images, 1)
    came = RISE(256)(make_model("residual", dtype=torch.bfloat16), images.bfloat16(), 1)
    assert torch.corrcoef(torch.stack([came.flatten(), wanted.flatten()]))[0, 1] > 0.9


# --- the guards of the other public methods ---------------------------------------------------


@pytest.mark.parametrize("call", ["estimate", "all_classes"])
def test_other_methods_leave_no_trace(call: str) -> None:
    model, images = in_training(make_model()), make_images()
    arguments = (1,) if call == "estimate" else ()
    with torch.inference_mode(), leaves_no_trace(model, images):
        getattr(RISE(128), call)(model, images, *arguments)
    with pytest.raises(InputError, match="shape"), leaves_no_trace(model, images):
        getattr(RISE(128), call)(model, images[0], *arguments)


def test_estimate_agrees_with_the_call() -> None:
    model, images = setting()
    estimate = RISE(512).estimate(model, images, [1, 2])
    assert bits(estimate.saliency) == bits(RISE(512)(model, images, [1, 2]))
    assert estimate.num_masks.tolist() == [512, 512]
    assert (estimate.split_half > 0).all()
    assert (estimate.split_half <= 1).all()


@pytest.mark.parametrize(("p", "until"), [(0.5, 0.9), (0.4, 0.6)])
def test_until_stops_early(p: float, until: float) -> None:
    model, images = setting()
    method = RISE(4096, p=p, score="log_probability", until=until)
    images = torch.cat([images.flip(3), images])
    targets = [0, 3, 1, 4]
    estimate = method.estimate(model, images, targets)
    assert (estimate.num_masks < 4096).all()
    assert (estimate.split_half >= until).all()
    assert len(estimate.num_masks.unique()) > 1
    for i, target in enumerate(targets):
        alone = method.estimate(model, images[i : i + 1], target)
        assert alone.num_masks[0] == estimate.num_masks[i]
        torch.testing.assert_close(alone.saliency[0], estimate.saliency[i])


def test_split_half_foretells_the_distance_to_the_limit() -> None:
    model, images = make_model("residual"), make_images(1)
    limit = RISE(128 * 100, seed=99)(model, images, 1)
    for count in (256, 1024):
        estimate = RISE(count).estimate(model, images, 1)
        half = float(estimate.split_half)
        pair = torch.stack([estimate.saliency.flatten(), limit.flatten()])
        found = float(torch.corrcoef(pair)[0, 1])
        assert found == pytest.approx(math.sqrt(2 * half / (1 + half)), abs=0.1)


def test_prepare_checks_the_grid() -> None:
    model, images = setting((6, 20))
    with pytest.raises(InputError, match="num_cells"):
        RISE().prepare(model, images)
    method = RISE(num_cells=(6, 7))
    assert method.prepare(model, images) == method


# --- bad settings -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"num_masks": 0},
        {"num_masks": -5},
        {"num_masks": 10.5},
        {"num_masks": True},
        {"num_cells": 0},
        {"num_cells": (7, 0)},
        {"num_cells": (7, 7, 7)},
        {"num_cells": 2.5},
        {"p": 0.0},
        {"p": 1.0},
        {"p": math.nan},
        {"batch_size": 0},
        {"batch_size": "large"},
        {"seed": 1.5},
        {"score": "softmax"},
        {"preset": "captum"},
        {"until": 0.0},
        {"until": 1.0},
    ],
    ids=str,
)
def test_bad_setting(settings: dict) -> None:
    with pytest.raises(InputError, match=f"Expected .*{next(iter(settings))}"):
        RISE(**settings)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        RISE().num_masks = 3


# --- a GPU ------------------------------------------------------------------------------------


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("preset", [None, "torchray"])
def test_gpu_gives_the_maps_of_the_cpu(preset: str) -> None:
    model, images = setting()
    wanted = RISE(256, preset=preset)(model, images, [1, 2])
    torch.cuda.manual_seed(1)
    state = torch.cuda.get_rng_state()
    came = RISE(256, preset=preset)(model.cuda(), images.cuda(), [1, 2])
    torch.testing.assert_close(came.cpu(), wanted, rtol=1e-6, atol=1e-9)
    assert torch.equal(torch.cuda.get_rng_state(), state)
