"""The fit to the scores of few masks: its parts by hand, and what it is good for."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from known_maps import MAPS, KnownMap, estimated, slope_error_bias
from tiny_models import make_images, make_model
from torch import Tensor, nn
from traces import bits

from lightning_saliency.attribution import RISE
from lightning_saliency.attribution.rise_estimation import regression
from lightning_saliency.attribution.rise_estimation.estimators import MaskAverage, rank_correlation
from lightning_saliency.attribution.rise_estimation.kernel_ridge import KernelRidge, PairKernel
from lightning_saliency.attribution.rise_estimation.link_function import LinkFunction
from lightning_saliency.attribution.rise_estimation.regression import MaskRegression
from lightning_saliency.errors import SaliencyWarning
from lightning_saliency.image.random_mask import MaskBlock, Upsampling, balanced_masks

SIZE = (24, 20)
TABLE = Upsampling(SIZE, (7, 7), dtype=torch.float64)


def blocks_of(count: int, seed: int = 0) -> list[MaskBlock]:
    return list(balanced_masks(TABLE, count, seed))


def gathered(
    gatherer: MaskRegression | MaskAverage,
    count: int,
    score: Callable[[Tensor], Tensor],
    seed: int = 0,
) -> MaskRegression | MaskAverage:
    """Return the gatherer with the scores (N, M) of masks (M, H, W)."""
    for block in blocks_of(count, seed):
        gatherer.add(score(block.masks[:, 0])[:, None], block)
    return gatherer


def spot(row: int, column: int) -> Tensor:
    weights = torch.zeros(SIZE, dtype=torch.float64)
    weights[row : row + 6, column : column + 6] = 1 / 36
    return weights


def linear(masks: Tensor) -> Tensor:
    """Two images, whose score is the mean of the mask over one place, less that over another."""
    plus, minus = spot(3, 4), spot(14, 10)
    sums = [(masks * (plus - 0.5 * minus)).sum((1, 2)), (masks * minus).sum((1, 2))]
    return torch.stack(sums)


def distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).square().mean().sqrt())


def steep(masks: Tensor) -> Tensor:
    """Probabilities that are near 0 and now and then near 1."""
    return (25 * linear(masks) - 14).sigmoid()


# --- the fit ----------------------------------------------------------------------------------


def test_fit_is_kernel_ridge_regression_with_a_free_level() -> None:
    generator = torch.Generator().manual_seed(0)
    pairs = torch.randn(15, 3, generator=generator, dtype=torch.float64)
    points = torch.cat([pairs, -pairs])
    values = torch.stack([points[:, 0].sin(), points[:, 1] * points[:, 2]], 1)
    values += 0.1 * torch.randn(30, 2, generator=generator, dtype=torch.float64)
    scale = points.square().sum(1).mean()
    new = torch.randn(5, 3, generator=generator, dtype=torch.float64)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return torch.exp(-0.3 * (a[:, None] - b[None]).square().sum(-1) / scale)

    centring = torch.eye(30, dtype=torch.float64) - 1 / 30
    mean_eigenvalue = torch.trace(centring @ kernel(points, points) @ centring) / 30

    def solved(keep: list[int], column: int, ridge: float) -> Callable[[Tensor], Tensor]:
        # The system of the dual: (K + r I) a + b = y, with weights a that sum to 0.
        some, y = points[keep], values[keep, column]
        system = torch.ones(len(keep) + 1, len(keep) + 1, dtype=torch.float64)
        system[:-1, :-1] = kernel(some, some) + ridge * mean_eigenvalue * torch.eye(len(keep))
        system[-1, -1] = 0
        found = torch.linalg.solve(system, torch.cat([y, torch.zeros(1).double()]))
        return lambda at: kernel(at, some) @ found[:-1] + found[-1]

    pair_kernel = PairKernel(pairs)
    fit = KernelRidge(pair_kernel, values.unflatten(0, (2, 15)))
    for column in range(2):
        leave_one_out = {
            ridge: torch.cat(
                [
                    solved([i for i in range(30) if i != j], column, ridge)(points[j : j + 1])
                    for j in range(30)
                ]
            )
            for ridge in (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
        }
        errors = {
            r: (told - values[:, column]).square().mean() for r, told in leave_one_out.items()
        }
        best = min(errors, key=lambda ridge: float(errors[ridge]))
        torch.testing.assert_close(fit.leave_one_out[..., column].flatten(), leave_one_out[best])
        torch.testing.assert_close(fit.variance[column], errors[best])
        whole = solved(list(range(30)), column, best)
        for at, came in zip((new, -new), fit.at(*pair_kernel(new)), strict=True):
            torch.testing.assert_close(came[:, column], whole(at), rtol=1e-6, atol=1e-8)


def test_values_that_do_not_change_are_fitted_by_their_level() -> None:
    points = torch.randn(10, 3, dtype=torch.float64)
    level = torch.full((2, 10, 1), 7.0, dtype=torch.float64)
    kernel = PairKernel(points)
    fit = KernelRidge(kernel, level)
    torch.testing.assert_close(fit.at(*kernel(points)), level)
    torch.testing.assert_close(fit.variance, torch.zeros(1, dtype=torch.float64))


@pytest.mark.parametrize("kind", ["probability", "sigmoid", "log_probability", "logit", None])
def test_link_there_and_back(kind: str) -> None:
    line = torch.linspace(-12, 12, 25, dtype=torch.float64)[:, None]
    link = LinkFunction(kind)
    scores = link.expected_score(line, torch.zeros(1).double())
    torch.testing.assert_close(link.transform(scores), line, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["probability", "log_probability"])
def test_scores_at_the_ends_stay_finite(kind: str) -> None:
    ends = torch.tensor([0.0, 1e-45, 1.0, 1 + 1e-7])
    scores = ends.log() if kind == "log_probability" else ends
    assert LinkFunction(kind).transform(scores.double()).tolist() == [-16, -16, 16, 16]


@pytest.mark.parametrize("variance", [0.3, 2.0, 9.0])
def test_probability_is_expected_over_the_error_of_the_fit(variance: float) -> None:
    values = torch.linspace(-5, 5, 11, dtype=torch.float64)[:, None]
    errors = torch.randn(100_000, generator=torch.Generator().manual_seed(1)).double()
    wanted = (values + variance**0.5 * errors).sigmoid().mean(1, keepdim=True)
    came = LinkFunction("probability").expected_score(values, torch.tensor([variance]).double())
    torch.testing.assert_close(came, wanted, rtol=0, atol=0.02)


# --- the map ----------------------------------------------------------------------------------


def test_sum_of_grids_is_that_of_the_masks() -> None:
    blocks = blocks_of(512)
    weights = torch.randn(3, 512, generator=torch.Generator().manual_seed(0)).double()
    wanted = torch.einsum("rm,mhw->rhw", weights, torch.cat([b.masks[:, 0] for b in blocks]))
    grids = [
        torch.einsum("rm,mij->rij", part, block.grids)
        for part, block in zip(weights.split(128, 1), blocks, strict=True)
    ]
    came = TABLE.sum_of(torch.stack(grids), torch.cat([block.shifts for block in blocks]))
    torch.testing.assert_close(came, wanted)
    many = torch.stack(grids).repeat(1, 50, 1, 1)
    torch.testing.assert_close(
        TABLE.sum_of(many, torch.cat([b.shifts for b in blocks])), wanted.repeat(50, 1, 1)
    )


def test_map_of_a_linear_score_is_the_covariance_of_the_masks() -> None:
    exact = gathered(MaskAverage(), 128 * 300, linear, seed=5).mean(True)
    came = gathered(MaskRegression(LinkFunction("logit")), 256, linear).mean()
    assert came.shape == exact.shape == (2, 1, *SIZE)
    assert distance(came, exact) < 0.02 * float(exact.abs().max())


def test_probabilities_need_fewer_masks() -> None:
    limit = gathered(MaskAverage(), 128 * 400, steep, seed=5).mean(True)
    for count, seed in ((128, 0), (128, 1), (256, 2), (512, 3)):
        fitted = gathered(MaskRegression(LinkFunction("probability")), count, steep, seed)
        averaged = gathered(MaskAverage(), count, steep, seed)
        assert distance(fitted.mean(True), limit) < 0.5 * distance(averaged.mean(True), limit)


def chaotic(masks: Tensor) -> Tensor:
    """A score that cannot be foretold, but for a part that is as in ``linear``."""
    return linear(masks) + 0.3 * (1e4 * linear(masks)).sin()


def test_what_cannot_be_foretold_is_not_lost() -> None:
    limit = gathered(MaskAverage(), 128 * 400, chaotic, seed=5).mean(True)
    fitted = gathered(MaskRegression(LinkFunction(None)), 1024, chaotic).mean(True)
    averaged = gathered(MaskAverage(), 1024, chaotic).mean(True)
    assert distance(fitted, limit) < 1.05 * distance(averaged, limit)


def test_a_link_that_is_wrong_is_made_good_by_what_it_leaves_over() -> None:
    # Told that logits are probabilities, the link bends them beyond recognition.
    def far_out(masks: Tensor) -> Tensor:
        return 3 * linear(masks) - 1

    limit = gathered(MaskAverage(), 128 * 300, far_out, seed=5).mean(True)
    came = gathered(MaskRegression(LinkFunction("probability")), 1024, far_out).mean(True)
    assert distance(came, limit) < 0.02 * float(limit.abs().max())


def test_halves_and_single_images() -> None:
    whole = gathered(MaskRegression(LinkFunction("probability")), 512, steep)
    blocks = blocks_of(512)
    for half in (0, 1):
        alone = MaskRegression(LinkFunction("probability"))
        for block in blocks[half::2]:
            alone.add(steep(block.masks[:, 0])[:, None], block)
        assert bits(whole.mean(half=half)) == bits(alone.mean())
    halves = [whole.mean(half=half).flatten(2) for half in (0, 1)]
    assert torch.equal(whole.split_half(True), rank_correlation(*halves))
    second = whole.select(torch.tensor([False, True]))
    assert (second.num_blocks, second.num_masks) == (4, 512)
    torch.testing.assert_close(second.mean(), whole.mean()[1:])
    assert gathered(MaskRegression(LinkFunction(None)), 128, steep).split_half(True).isnan().all()


def test_what_is_kept_from_one_map_to_the_next_changes_none() -> None:
    def fitted(method: RISE, image: Tensor) -> str:
        return bits(method(make_model().to(image.dtype), image, 1))

    images = make_images(1)
    calls = [
        (RISE(128), images),
        (RISE(128), images.double()),
        (RISE(128, num_cells=(5, 7)), images),
        # More masks than are kept.
        (RISE(256, num_cells=9), images),
        (RISE(128), images[..., :-1]),
    ]
    fresh = []
    for method, image in calls:
        regression._kept.clear()
        regression._kept_masks.clear()
        fresh.append(fitted(method, image))
    assert [fitted(method, image) for method, image in calls] == fresh
    assert [fitted(method, image) for method, image in reversed(calls)] == fresh[::-1]
    assert len(regression._kept) == len(regression._kept_masks) == 1


# --- within RISE ------------------------------------------------------------------------------


def test_fit_is_made_up_to_a_number_of_masks_and_where_masks_are_balanced() -> None:
    model, images = make_model(), make_images(2)
    for settings in ({"num_masks": 2048}, {"num_masks": 256, "p": 0.4}):
        fitted, averaged = RISE(**settings), RISE(**settings, preset="balanced")
        assert bits(fitted(model, images, 1)) == bits(averaged(model, images, 1))
    assert bits(RISE(1024)(model, images, 1)) != bits(
        RISE(1024, preset="balanced")(model, images, 1)
    )


@pytest.mark.parametrize("score", ["probability", "logit", "log_probability", "sigmoid"])
def test_fit_brings_the_map_nearer_to_the_mean_over_very_many_masks(score: str) -> None:
    model, images = make_model("residual"), make_images(1)
    limit = RISE(128 * 60, seed=99, score=score)(model, images, 1)
    fitted = RISE(512, score=score)(model, images, 1)
    averaged = RISE(512, score=score, preset="balanced")(model, images, 1)
    assert distance(fitted, limit) < 0.12 * float(limit.std())
    assert distance(fitted, limit) < 0.8 * distance(averaged, limit)


def test_a_constant_score_gives_a_map_of_zeros() -> None:
    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.new_tensor([[1.0, 2.0]]).expand(len(x), 2)

    came = RISE(score="logit")(Constant(), make_images(), 1)
    torch.testing.assert_close(came, torch.zeros_like(came), rtol=0, atol=1e-6)


# --- known maps -------------------------------------------------------------------------------

BY_NAME = {known.name: known for known in MAPS}


def test_exact_maps_are_the_limit_of_plain_means() -> None:
    for known in (BY_NAME["A * B"], BY_NAME["rare"], BY_NAME["checkers of cells"]):
        exact = known.exact()
        plain = estimated(known, 128 * 400, 1, "balanced")
        assert (plain - exact).square().mean().sqrt() < 0.01 * exact.abs().max()


@pytest.mark.parametrize("known", MAPS, ids=lambda known: known.name)
def test_maps_are_neither_smoothed_nor_biased(known: KnownMap) -> None:
    slope, _, bias, chance = slope_error_bias(known, 256, 8)
    assert 0.9 <= slope <= 1.1
    assert bias <= 2 * chance


@pytest.mark.parametrize("name", ["A * B", "line", "rare", "checkers of cells"])
def test_errors_are_no_larger_than_those_of_plain_means(name: str) -> None:
    (_, fitted, *_), (_, averaged, *_) = (
        slope_error_bias(BY_NAME[name], 256, 8, preset) for preset in (None, "balanced")
    )
    assert fitted < averaged


# --- scores without variance ------------------------------------------------------------------


class Sure(nn.Module):
    """The logit of class 1 is the mean of the picture and a level."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def forward(self, x: Tensor) -> Tensor:
        logit = x.mean((1, 2, 3)) + self.by
        return torch.stack([torch.zeros_like(logit), logit], 1)


@pytest.mark.parametrize("settings", [{}, {"score": "sigmoid"}, {"preset": "balanced"}], ids=str)
def test_probabilities_that_no_mask_changes_give_a_hint(settings: dict[str, Any]) -> None:
    method = RISE(128, **settings)
    for sure in (Sure(100), Sure(-100)):
        with pytest.warns(SaliencyWarning, match=r"2 of 2 images.* take score='logit'"):
            saliency = method(sure, make_images(2), 1)
        assert saliency.abs().max() < 1e-6
    assert method(Sure(0), make_images(2), 1).abs().max() > 1e-3
    assert RISE(128, score="logit")(Sure(100), make_images(2), 1).abs().max() > 1e-3


def test_the_hint_counts_the_images_it_is_about() -> None:
    images = make_images(3)
    images[1] = 1000
    with pytest.warns(SaliencyWarning, match="probability .* 1 of 3 images"):
        RISE(128)(Sure(0), images, 1)
