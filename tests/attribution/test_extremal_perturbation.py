"""Extremal perturbation against TorchRay, a plain loop, and what it promises."""

import dataclasses
import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tally import Tally
from tiny_models import CLASSES, in_training, make_images, make_model
from torch import Tensor, nn
from torch.nn.functional import max_pool2d
from traces import bits, leaves_no_trace

from lightning_saliency.attribution.extremal_perturbation import (
    ExtremalPerturbation,
    contrastive_reward,
    extremal_perturbation,
    simple_reward,
)
from lightning_saliency.attribution.mask_search.objective import PictureRewards
from lightning_saliency.attribution.mask_search.rewards import Variant
from lightning_saliency.attribution.mask_search.search import MaskSearch
from lightning_saliency.benchmark import get_example_data, get_example_regions
from lightning_saliency.errors import InputError, ModelError
from lightning_saliency.image.perturbation import PerturbationKind, blend, perturbation_levels
from lightning_saliency.image.smooth_mask import SmoothMask
from lightning_saliency.network.batching import Batches

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torchray.attribution import extremal_perturbation as torchray

every_variant = pytest.mark.parametrize("variant", ["preserve", "delete", "dual"])
every_perturbation = pytest.mark.parametrize("perturbation", ["blur", "fade"])
float64 = torch.float64


def quick(**settings: Any) -> ExtremalPerturbation:
    return ExtremalPerturbation(**{"areas": (0.1, 0.3), "max_iter": 4, **settings})


# --- TorchRay ---------------------------------------------------------------------------------


class _Ones:
    """The torch module, but for the ones that TorchRay's search begins with."""

    def __init__(self, start: Tensor) -> None:
        self.start = start

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def ones(self, *size: int) -> Tensor:
        return self.start.clone() if size == tuple(self.start.shape) else torch.ones(*size)


@every_variant
@every_perturbation
@pytest.mark.parametrize("max_iter", [1, 2, 3])
@pytest.mark.filterwarnings("ignore:torch.meshgrid:UserWarning")
def test_preset_equals_torchray_in_each_iteration(
    monkeypatch: pytest.MonkeyPatch,
    variant: Variant,
    perturbation: PerturbationKind,
    max_iter: int,
) -> None:
    # A mask of ones everywhere is full of ties, which a sort breaks by the last bits of the mask.
    # So both begin here with the same grid, in which no two points are equal.
    start = torch.rand(2, 1, 4, 5, generator=torch.Generator().manual_seed(4))
    monkeypatch.setattr(torchray, "torch", _Ones(start))
    monkeypatch.setattr(MaskSearch, "_initial_grid", lambda *_: start[:, 0].clone())
    model, image = make_model(), make_images(1, (24, 30))
    settings: dict[str, Any] = {
        "areas": [0.1, 0.3],
        "max_iter": max_iter,
        "variant": variant,
        "perturbation": perturbation,
    }
    masks, history = extremal_perturbation(model, image, 2, preset="torchray", **settings)
    wanted, wanted_history = torchray.extremal_perturbation(model, image, 2, **settings)
    torch.testing.assert_close(masks, wanted, rtol=0, atol=1e-5)
    torch.testing.assert_close(history, wanted_history, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:torch.meshgrid:UserWarning")
def test_preset_equals_torchray_but_for_ties() -> None:
    # From the masks of ones that both begin with by themselves.
    model, image = make_model(), make_images(1, (24, 30))
    settings: dict[str, Any] = {"areas": [0.1, 0.3], "max_iter": 2}
    masks, history = extremal_perturbation(model, image, 2, preset="torchray", **settings)
    wanted, wanted_history = torchray.extremal_perturbation(model, image, 2, **settings)
    torch.testing.assert_close(masks, wanted, rtol=0, atol=1e-3)
    torch.testing.assert_close(history, wanted_history, rtol=1e-4, atol=1e-4)


@every_variant
@pytest.mark.filterwarnings("ignore:torch.meshgrid:UserWarning")
def test_slope_of_the_energy_is_that_of_torchray(variant: Variant) -> None:
    model, image = make_model(), make_images(1, (24, 30))
    areas, iteration = (0.1, 0.3), 242
    weight = 300 * 1.0035**iteration
    search = ExtremalPerturbation(areas, variant=variant, preset="torchray")._search(image)
    grid = torch.rand(2, *search.smooth_mask.grid_size, generator=torch.Generator().manual_seed(8))
    grid.requires_grad_()
    _, _, came = search.slope(grid, iteration, rewards_of(model, image, 2, variant), _flip)

    generator = torchray.MaskGenerator((24, 30), 7, 21)
    perturbation = torchray.Perturbation(image)
    cropped, canvas = generator.generate(grid[:, None])
    masks = {"preserve": [cropped], "delete": [1 - cropped], "dual": [cropped, 1 - cropped]}
    pictures = torch.cat([perturbation.apply(mask) for mask in masks[variant]])
    reward = torchray.simple_reward(model(pictures.flip(3)), 2, variant)
    ordered = canvas.flatten(1).sort(dim=1).values
    step = torch.zeros_like(ordered)
    for row, area in enumerate(areas):
        step[row, int(ordered.shape[1] * (1 - area)) :] = 1
    energy = reward.sum() - weight * (ordered - step).square().mean(1).sum()
    (wanted,) = torch.autograd.grad(energy, grid)
    torch.testing.assert_close(came, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))


@pytest.mark.parametrize(("preset", "can_be_turned_off"), [(None, True), ("torchray", False)])
def test_pixels_that_are_fully_on(preset: Any, can_be_turned_off: bool) -> None:
    search = quick(preset=preset)._search(make_images(1))
    mask = torch.ones(1, 2, 16, 20, requires_grad=True)
    (slope,) = torch.autograd.grad(search.pictures(mask)[0].sum(), mask)
    assert bool(slope.any()) == can_be_turned_off


def _flip(pictures: Tensor) -> Tensor:
    return pictures.flip(3)


def rewards_of(
    model: nn.Module, image: Tensor, target: int, variant: Variant = "preserve"
) -> PictureRewards:
    return PictureRewards(model, image, target, simple_reward, variant, Batches(3, image.device))


# --- a plain loop -----------------------------------------------------------------------------


# Thirds of the fractional parts of multiples of 0.754878 and 0.569840.
SHIFTS = [(-1, -1), (1, 0), (0, -1), (-1, 1), (-1, -1), (1, 1)]


def naive_mask(smooth: Tensor, area: float, contrast: float) -> Tensor:
    """Return a sigmoid around the level that gives the area, by halving; torch differentiates it.

    The level is one more step of Newton's method from where the halving ended, which changes
    nothing but its derivative.
    """
    low, high = -10.0, 10.0
    for _ in range(100):
        level = (low + high) / 2
        share = torch.sigmoid(contrast * (smooth.detach() - level)).mean().item()
        low, high = (level, high) if share > area else (low, level)
    soft = torch.sigmoid(contrast * (smooth - low))
    steepness = contrast * (soft * (1 - soft)).mean().detach()
    return torch.sigmoid(contrast * (smooth - low - (soft.mean() - area) / steepness))


def naive_first_grid(score: Callable[[Tensor], Tensor], size: tuple[int, int]) -> Tensor:
    """Return where a search begins: discs by their rewards and by those of their opposites."""
    height, width = size
    discs, kept, lost = [], [], []
    for middle_y in (0.125, 0.375, 0.625, 0.875):
        for middle_x in (0.125, 0.375, 0.625, 0.875):
            distance = torch.zeros(1, height, width, dtype=float64)
            for y in range(height):
                for x in range(width):
                    down, across = (y + 0.5) / height - middle_y, (x + 0.5) / width - middle_x
                    distance[0, y, x] = down**2 + across**2
            discs.append(naive_mask(-distance, 0.2, 60))
            kept.append(score(discs[-1]))
            lost.append(-score(1 - discs[-1]))
    grid = torch.zeros(1, height, width, dtype=float64)
    for found in (kept, lost):
        mean = sum(found) / 16
        total = sum((reward - mean) * disc for reward, disc in zip(found, discs, strict=True))
        assert isinstance(total, Tensor)
        grid += 0.1 + 0.3 * (total - total.min()) / (total.max() - total.min())
    return grid


def naive_search(
    model: nn.Module, image: Tensor, target: int, area: float, updates: int, variant: Variant
) -> Tensor:
    """Return the mask of one image after some of six updates, without batches."""
    sigma = 3.0 if variant == "preserve" else 4.0
    smooth = SmoothMask((image.shape[2], image.shape[3]), 1, sigma)
    levels = perturbation_levels(image, "blur", 8, 20 * 16 / 224)

    def reward_of(mask: Tensor, shift: tuple[int, int] = (0, 0)) -> Tensor:
        def score(kept: Tensor) -> Tensor:
            picture = blend(levels, kept[:, None])[:, 0]
            return model(picture.roll(shift, (2, 3)))[0, target]

        kept, lost = score(mask), score(1 - mask)
        return {"preserve": kept, "delete": -lost, "dual": kept - lost}[variant]

    grid = naive_first_grid(reward_of, (16, 20)).detach()
    first, second = torch.zeros_like(grid), torch.zeros_like(grid)
    for t in range(updates + 1):
        leaf = grid.clone().requires_grad_()
        # 0.4 of the image at first; the area after half of the five intervals.
        now = area * (0.4 / area) ** max(0, 1 - t / 2.5)
        mask = naive_mask(smooth(leaf), now, 4 * 15 ** (t / 5))
        if t == updates:
            return mask.detach()
        (slope,) = torch.autograd.grad(reward_of(mask, SHIFTS[t]), leaf)
        first = 0.8 * first + 0.2 * slope
        second = 0.9 * second + 0.1 * slope.square()
        move = first / (1 - 0.8 ** (t + 1)) / ((second / (1 - 0.9 ** (t + 1))).sqrt() + 1e-16)
        grid = (grid + 0.1 * 0.25 ** (t / 5) * move).clamp(0, 1)
    raise AssertionError


@every_variant
def test_equals_a_plain_loop(variant: Variant) -> None:
    model, images = make_model(dtype=float64), make_images(2, (16, 20), dtype=float64)
    search = quick(max_iter=6, variant=variant)._search(images)
    unrefined = dataclasses.replace(search.config, refined=False)
    search = dataclasses.replace(search, config=unrefined)
    # Such a search returns the masks that the last update was computed from.
    masks, _ = search.run(rewards_of(model, images, 3, variant))
    for n in range(2):
        for a, area in enumerate((0.1, 0.3)):
            wanted = naive_search(model, images[n : n + 1], 3, area, 5, variant)
            torch.testing.assert_close(masks[n, a], wanted[0], rtol=0, atol=1e-6)


def test_logits_of_another_scale_give_the_same_masks() -> None:
    class Scaled(nn.Module):
        def __init__(self, factor: float) -> None:
            super().__init__()
            self.model, self.factor = make_model(dtype=float64), factor

        def forward(self, x: Tensor) -> Tensor:
            return self.factor * self.model(x)

    images = make_images(2, dtype=float64)
    wanted, came = (quick().masks(Scaled(factor), images, 1) for factor in (1.0, 1000.0))
    torch.testing.assert_close(came.masks, wanted.masks, rtol=0, atol=1e-3)
    torch.testing.assert_close(came.history, 1000 * wanted.history, rtol=1e-3, atol=1e-1)


# --- masks ------------------------------------------------------------------------------------


@every_variant
@every_perturbation
def test_masks_have_their_areas(variant: Variant, perturbation: PerturbationKind) -> None:
    method = quick(variant=variant, perturbation=perturbation)
    found = method.masks(make_model(), make_images(3, (24, 30)), [0, 1, 2])
    assert found.masks.shape == (3, 2, 24, 30)
    assert found.masks.min() >= 0
    assert found.masks.max() <= 1
    area = torch.tensor([0.1, 0.3]).expand(3, 2)
    torch.testing.assert_close(found.masks.mean((2, 3)), area, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.area_error, torch.zeros(3, 2), rtol=0, atol=1e-5)


@every_variant
def test_what_is_said_of_the_masks_is_what_the_model_says(variant: Variant) -> None:
    model, images = make_model(dtype=float64), make_images(2, (16, 20), dtype=float64)
    found = quick(variant=variant).masks(model, images, [3, 1])
    levels = perturbation_levels(images, "blur", 8, 20 * 16 / 224)
    for n, target in enumerate((3, 1)):

        def logits(mask: Tensor, n: int = n) -> tuple[Tensor, Tensor]:
            pair = [blend(levels[n : n + 1], m[None, None])[:, 0] for m in (mask, 1 - mask)]
            return model(pair[0])[0], model(pair[1])[0]

        def reward(mask: Tensor, target: int = target) -> float:
            kept, lost = (out[target].item() for out in logits(mask))
            return {"preserve": kept, "delete": -lost, "dual": kept - lost}[variant]

        on, off = reward(torch.ones(16, 20, dtype=float64)), reward(torch.zeros(16, 20).double())
        assert found.clean_reward[n].item() == pytest.approx(on)
        assert found.perturbed_reward[n].item() == pytest.approx(off)
        clean = model(images[n : n + 1])[0].softmax(0)[target].item()
        assert found.clean_probability[n].item() == pytest.approx(clean)
        enough = math.nan
        for a in (1, 0):
            got = reward(found.masks[n, a])
            assert found.rewards[n, a].item() == pytest.approx(got)
            shown = logits(found.masks[n, a])[1 if variant == "delete" else 0]
            assert found.probability[n, a].item() == pytest.approx(shown.softmax(0)[target].item())
            if got >= on - 0.1 * abs(on - off):
                enough = (0.1, 0.3)[a]
        assert found.sufficient_area[n].item() == pytest.approx(enough, nan_ok=True)


class Bright(nn.Module):
    """The logit of class 1 is the brightness in the top left quarter, that of class 2 elsewhere."""

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2] // 2, x.shape[3] // 2
        corner = x[:, :, :height, :width].sum((1, 2, 3))
        return torch.stack([0 * corner, corner, x.sum((1, 2, 3)) - corner], 1)


@every_variant
@every_perturbation
def test_finds_the_part_that_matters(variant: Variant, perturbation: PerturbationKind) -> None:
    image = torch.zeros(1, 1, 48, 48)
    image[:, :, 6:18, 6:18] = 1
    method = ExtremalPerturbation(
        (0.05, 0.1), variant=variant, perturbation=perturbation, jitter=False
    )
    found = method.masks(Bright(), image, 1)
    small, large = found.masks[0]
    assert small[3:21, 3:21].sum() / small.sum() > 0.95
    # The square is 1/16 of the image; a blur leaves it to the model where the rest lies.
    assert large[6:18, 6:18].mean() > 0.9
    if perturbation == "fade":
        assert large[3:21, 3:21].sum() / large.sum() > 0.95
    if perturbation == "fade":
        # A blur only moves the light, and most of it stays in the corner.
        assert found.rewards[0, 1] > found.rewards[0, 0] > found.perturbed_reward[0]
    grey = ((found.masks > 0.1) & (found.masks < 0.9)).float().mean((0, 2, 3))
    assert grey[0] < 0.05
    # Once the square is in, a blur makes the model indifferent to where the rest of the area lies.
    assert grey[1] < (0.05 if perturbation == "fade" else 0.15)
    saliency = method(Bright(), image, 1)
    torch.testing.assert_close(saliency, found.masks.mean(1, keepdim=True))


class Exclusive(nn.Module):
    """Class 1 needs more than half of one square in sight, and less than half of the other."""

    def forward(self, x: Tensor) -> Tensor:
        one, other = x[:, 0, 4:16, 4:16].mean((1, 2)), x[:, 0, 32:44, 32:44].mean((1, 2))
        score = (one - 0.5).relu() * (0.5 - other).relu()
        return torch.stack([torch.zeros_like(score), score], 1)


@pytest.mark.parametrize("first_look", [True, False])
def test_finds_what_shows_in_no_derivative_at_first(first_look: bool) -> None:
    image, model = torch.ones(1, 1, 48, 48), Exclusive()
    search = ExtremalPerturbation((0.1,), "fade")._search(image)
    config = dataclasses.replace(search.config, coarse_initialization=first_look)
    search = dataclasses.replace(search, config=config)
    rewards = rewards_of(model, image, 1)
    masks, history = search.run(rewards)
    found = float(rewards.evaluate(search.pictures(masks))[0])
    # A grey mask of the whole image has a flat score.
    assert bool(history[0, 0, 0, 0] > 0) == first_look
    assert found == pytest.approx(0.25 if first_look else 0.0, abs=0.01)


def test_masks_of_the_example_lie_on_their_digits_and_keep_them() -> None:
    model, image, *categories = get_example_data()
    areas = (0.02, 0.03, 0.06)
    found = ExtremalPerturbation(areas).masks(model, image.expand(2, -1, -1, -1), categories)
    digits = max_pool2d(get_example_regions().reshape(2, 1, 128, 128).float(), 9, 1, 4)
    assert found.area_error.abs().max() < 0.01 * areas[0]
    grey = ((found.masks > 0.1) & (found.masks < 0.9)).float().mean((2, 3))
    assert grey.max() < 0.05
    kept = found.probability >= 0.9 * found.clean_probability[:, None]
    for n in range(2):
        first = kept[n].int().argmax()
        assert kept[n, first]
        mask = found.masks[n, first]
        own, other = (
            (mask * region[0]).sum() / mask.sum() for region in (digits[n], digits[1 - n])
        )
        assert own > 0.7
        assert other < 0.1


def test_sufficient_area_is_the_smallest_that_does() -> None:
    image = torch.zeros(1, 1, 48, 48)
    image[:, :, 6:18, 6:18] = 1
    areas = (0.01, 0.02, 0.12, 0.2)
    method = ExtremalPerturbation(areas, "fade", jitter=False)
    found = method.masks(Bright(), image, 1)
    assert found.sufficient_area.item() == pytest.approx(0.12)
    little = dataclasses.replace(method, areas=(0.01, 0.02)).masks(Bright(), image, 1)
    assert little.sufficient_area.isnan().all()


@pytest.mark.parametrize("preset", [None, "torchray"])
@pytest.mark.parametrize("batch_size", [1, 3, 100])
@every_variant
def test_batch_size_changes_nothing(preset: Any, batch_size: int, variant: Variant) -> None:
    model, images = make_model(dtype=float64), make_images(3, dtype=float64)
    method = quick(preset=preset, variant=variant, jitter=False)
    wanted = method.masks(model, images, [1, 4, 1])
    came = dataclasses.replace(method, batch_size=batch_size).masks(model, images, [1, 4, 1])
    torch.testing.assert_close(came.masks, wanted.masks, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(came.history, wanted.history, rtol=1e-6, atol=1e-9)


@every_variant
def test_no_more_pictures_than_the_batch_size(variant: Variant) -> None:
    model, sizes = make_model(), Tally()
    model.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    quick(variant=variant, batch_size=4)(model, make_images(5), 1)
    assert max(sizes) == 4


@pytest.mark.parametrize(
    ("count", "variant", "most"), [(1, "preserve", 8), (6, "preserve", 12), (6, "dual", 12)]
)
def test_no_more_pictures_than_a_training_step_has_room_for(
    count: int, variant: Variant, most: int
) -> None:
    model, sizes = make_model(), Tally()
    model.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    quick(areas=(0.1, 0.2, 0.3, 0.4), variant=variant)(model, make_images(count), 1)
    assert max(sizes) == most


def test_areas_of_a_list_are_those_found_alone_or_better() -> None:
    model, images = make_model(dtype=float64), make_images(6, dtype=float64)
    together = quick().masks(model, images, 3)
    smallest, largest = (quick(areas=(area,)).masks(model, images, 3) for area in (0.1, 0.3))
    torch.testing.assert_close(together.masks[:, :1], smallest.masks, rtol=1e-6, atol=1e-9)
    better = together.rewards[:, 1] - largest.rewards[:, 0]
    assert (better > -1e-9).all()
    assert better.max() > 1e-6  # some are a smaller mask, grown
    grown = better > 1e-6
    inside = torch.minimum(together.masks[:, 0], together.masks[:, 1]).sum((1, 2))
    assert (inside / together.masks[:, 0].sum((1, 2)))[grown].min() > 0.8


@pytest.mark.parametrize("size", [(8, 8), (9, 31), (33, 12)])
@pytest.mark.parametrize("preset", [None, "torchray"])
def test_any_size(size: tuple[int, int], preset: Any) -> None:
    found = quick(preset=preset).masks(make_model(channels=1), make_images(2, size, 1), 0)
    assert found.masks.shape == (2, 2, *size)
    assert torch.isfinite(found.masks).all()


def test_lengths_follow_the_shorter_side() -> None:
    def lengths(size: tuple[int, int], **settings: Any) -> tuple[int, float]:
        smooth = quick(**settings)._search(torch.zeros(1, 1, *size)).smooth_mask
        return smooth.step, smooth.sigma

    assert lengths((224, 300)) == (3, 10.5)
    assert lengths((128, 128)) == (2, 6)
    for side in (28, 32, 48, 64):
        assert lengths((side + 9, side)) == (1, 3)
    for variant, lost in (("delete", True), ("dual", True), ("preserve", False)):
        assert lengths((224, 224), variant=variant) == ((4, 14) if lost else (3, 10.5))
        assert lengths((64, 64), variant=variant) == ((1, 4) if lost else (1, 3))
    assert lengths((64, 64), step=5) == (5, 15)
    assert lengths((64, 64), sigma=4.0) == (1, 4)
    assert lengths((64, 64), sigma=12.0) == (4, 12)
    assert lengths((64, 64), step=2, sigma=4.0) == (2, 4)
    assert lengths((64, 64), preset="torchray") == (7, 21)
    assert lengths((64, 64), preset="torchray", sigma=12.0) == (7, 12)


def test_targets_that_are_callables() -> None:
    model, images = make_model(dtype=float64), make_images(dtype=float64)
    found = quick(perturbation="fade").masks(model, images, lambda output: output[:, 2])
    for a in range(2):
        # Under "fade" with 8 levels, a mask of the image is a product with it.
        wanted = model(images * found.masks[:, a : a + 1])[:, 2]
        torch.testing.assert_close(found.rewards[:, a], wanted)
    assert found.probability.isnan().all()


def test_leaves_no_trace() -> None:
    model, images = in_training(make_model()), make_images()
    with leaves_no_trace(model, images), torch.no_grad():
        quick().masks(model, images, 1)
        extremal_perturbation(model, images, 1, max_iter=2)


def test_ends_early_when_nothing_changes() -> None:
    image = torch.zeros(1, 1, 24, 24)
    image[:, :, 3:9, 3:9] = 1
    method = ExtremalPerturbation((0.1,), "fade", max_iter=200, jitter=False, tolerance=0.05)
    found = method.masks(Bright(), image, 1)
    iterations = found.history.shape[-1]
    assert iterations % 5 == 0
    assert 0.5 * 199 < iterations < 200  # not before the area is reached
    assert found.area_error.abs().max() < 1e-5
    every = dataclasses.replace(method, tolerance=None).masks(Bright(), image, 1)
    assert every.history.shape[-1] == 200
    torch.testing.assert_close(found.rewards, every.rewards, rtol=0.02, atol=0)


def test_preset_does_not_end_before_the_area_is_right() -> None:
    image = torch.zeros(1, 1, 24, 24)
    image[:, :, 3:9, 3:9] = 1
    method = ExtremalPerturbation((0.1,), "fade", 20, preset="torchray", tolerance=0.5)
    # After 20 steps the masks change slowly, but still cover most of the canvas.
    assert method.masks(Bright(), image, 1).history.shape[-1] == 20


def test_repeats_to_the_bit() -> None:
    model, images = make_model(), make_images()
    first, second = (quick().masks(model, images, 1) for _ in range(2))
    assert bits(first.masks) == bits(second.masks)
    assert bits(first.history) == bits(second.history)


# --- rewards ----------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [2, [2, 0]])
def test_reward_of_ones_own(target: int | list[int]) -> None:
    seen: list[tuple[tuple[int, ...], Any]] = []

    def reward(activation: Tensor, target: int | Tensor, variant: Variant) -> Tensor:
        seen.append((tuple(activation.shape), target))
        assert variant == "preserve"
        return 2 * simple_reward(activation, target, variant)[:, None, None].expand(-1, 3, 2)

    model, images = make_model(), make_images(2)
    found = quick(reward_func=reward, batch_size=3).masks(model, images, target)
    plain = quick().masks(model, images, target)
    torch.testing.assert_close(found.history[:, :, 0, 0], 2 * plain.history[:, :, 0, 0])
    # 16 coarse masks for each image and their opposites, then two masks for each.
    coarse, few, one = (32, CLASSES), (3, CLASSES), (1, CLASSES)
    assert [shape for shape, _ in seen[:4]] == [coarse, coarse, few, one]
    if isinstance(target, int):
        assert {chosen for _, chosen in seen} == {2}
    else:
        chosen = [classes.tolist() for _, classes in seen[:4]]
        assert chosen == [[2] * 16 + [0] * 16, [2] * 16 + [0] * 16, [2, 2, 0], [0]]


@pytest.mark.parametrize(
    ("reward", "words"),
    [
        (lambda y, target, variant: y[:, 0].sum(), r"shape \(16,\), but it returned \(\)"),
        (lambda y, target, variant: y[:1, 0], r"returned \(1,\)"),
        (lambda y, target, variant: 3.0, "returned float"),
        (lambda y, target, variant: y[:, 0].detach(), "no gradient passes it"),
        (lambda y, target, variant: y.argmax(1), "no gradient passes it"),
    ],
)
def test_rewards_that_cannot_be_used(reward: Any, words: str) -> None:
    model, image = in_training(make_model()), make_images(1)
    with leaves_no_trace(model, image), pytest.raises(InputError, match=words):
        quick(reward_func=reward)(model, image, 1)


def test_contrastive_reward_of_a_callable() -> None:
    with pytest.raises(InputError, match="Expected a class as target for the contrastive reward"):
        quick(reward_func="contrastive")(make_model(), make_images(1), lambda y: y[:, 1])


def test_model_without_a_gradient() -> None:
    class Rounded(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean((2, 3)).round().detach()

    with pytest.raises(ModelError, match="differentiable"):
        quick()(Rounded(), make_images(1), 1)


# --- the function -----------------------------------------------------------------------------


def test_call_of_torchrays_readme(capsys: pytest.CaptureFixture[str]) -> None:
    model, x, category_id = make_model(), make_images(1), 1
    masks, hist = extremal_perturbation(
        model, x, category_id, reward_func=contrastive_reward, debug=True, areas=[0.12]
    )
    assert masks.shape == (1, 1, 16, 20)
    assert hist.shape == (1, 2, 12)
    printed = capsys.readouterr().out
    assert "reward_func='contrastive'" in printed
    assert "iteration 1, image 0, area 0.12: reward " in printed


def test_several_images_come_in_front() -> None:
    masks, history = extremal_perturbation(make_model(), make_images(3), 1, (0.1, 0.2), max_iter=2)
    assert masks.shape == (3, 2, 1, 16, 20)
    assert history.shape == (3, 2, 2, 2)
    assert (history[:, :, 1] <= 0).all()


def test_a_single_area_may_be_a_number() -> None:
    model, images = make_model(), make_images(1)
    wanted, _ = extremal_perturbation(model, images, 1, areas=[0.2], max_iter=2)
    came, _ = extremal_perturbation(model, images, 1, areas=0.2, max_iter=2)
    assert bits(came) == bits(wanted)


def test_resized_and_smoothed_masks() -> None:
    model, images = make_model(), make_images(1)
    masks, _ = extremal_perturbation(model, images, 1, (0.1, 0.2), max_iter=2, resize=(7, 9))
    assert masks.shape == (2, 1, 7, 9)
    sharp, _ = extremal_perturbation(model, images, 1, max_iter=2)
    smooth, _ = extremal_perturbation(model, images, 1, max_iter=2, smooth=0.1)
    assert smooth.diff().abs().sum() < sharp.diff().abs().sum()


def test_prints_every_so_often(capsys: pytest.CaptureFixture[str]) -> None:
    extremal_perturbation(make_model(), make_images(1), 1, max_iter=5, print_iter=2)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == ["iteration 1", "iteration 3", "iteration 5"]
    with pytest.raises(InputError, match="print_iter >= 1, got 0"):
        extremal_perturbation(make_model(), make_images(1), 1, max_iter=5, print_iter=0)


# --- settings ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"areas": ()}, "Expected areas"),
        ({"areas": (0.1, 1.01)}, "Expected areas"),
        ({"areas": (0.0, 0.1)}, "Expected areas"),
        ({"areas": (0.2, 0.1)}, "larger than the one before"),
        ({"areas": (0.1, 0.1)}, "larger than the one before"),
        ({"areas": (math.nan,)}, "Expected areas"),
        ({"areas": (0.1, math.nan, 0.2)}, "Expected areas"),
        ({"areas": "0.1"}, "Expected areas"),
        ({"areas": None}, "Expected areas"),
        ({"max_iter": 0}, "max_iter to be an integer >= 1, got 0"),
        ({"max_iter": 2.5}, "max_iter"),
        ({"num_levels": 1}, "num_levels to be an integer >= 2, got 1"),
        ({"num_levels": None}, "num_levels"),
        ({"step": 0}, "step"),
        ({"step": 1.5}, "step"),
        ({"sigma": 0}, "sigma > 0"),
        ({"sigma": math.nan}, "sigma > 0"),
        ({"rounds": -1}, "rounds to be an integer >= 0, got -1"),
        ({"rounds": 2, "preset": "torchray"}, "rounds=0 with preset='torchray', .* got rounds=2"),
        ({"tolerance": 0.0}, "tolerance > 0"),
        ({"tolerance": math.nan}, "tolerance > 0"),
        ({"variant": "both"}, "variant to be one of 'preserve', 'delete', 'dual', got 'both'"),
        ({"perturbation": "noise"}, "perturbation to be one of 'blur', 'fade'"),
        ({"preset": "paper"}, "preset to be one of None, 'torchray'"),
        ({"reward_func": "best"}, "'simple', 'contrastive' or a function, got 'best'"),
        ({"reward_func": None}, "reward_func"),
        ({"batch_size": 0}, "batch_size"),
    ],
    ids=str,
)
def test_bad_settings(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        ExtremalPerturbation(**settings)


def test_rewards_of_the_authors_go_by_name() -> None:
    assert ExtremalPerturbation(reward_func=contrastive_reward) == ExtremalPerturbation(
        reward_func="contrastive"
    )
