import warnings
from collections.abc import Callable

import naive_measures
import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure
from torchmetrics.functional.regression import spearman_corrcoef

from lightning_saliency.errors import InputError
from lightning_saliency.metrics import (
    MEASURES,
    NO_DRIFT,
    log2_norm_ratio,
    spearman,
    ssim,
    top10,
    top10_iou,
)


def sparse(share: float) -> Callable[[Tensor], Tensor]:
    """Keep this share of the pixels and the one that is largest; the others are 0."""
    return lambda u: u * ((u < share) | (u == u.amax((2, 3), keepdim=True)))


KINDS: dict[str, Callable[[Tensor], Tensor]] = {
    "uniform": lambda u: u,
    "signed": lambda u: u - 0.5,
    "heavy_tails": lambda u: torch.tan(3.1 * (u - 0.5)),
    "half_zero": lambda u: (u - 0.5).clamp_min(0),
    "sparse": sparse(0.05),
    "one_pixel": sparse(0.0),
    "sparse_signed": lambda u: sparse(0.05)(u) - sparse(0.05)(1 - u),
    "five_levels": lambda u: (4 * u).round() / 4,
    "binary": lambda u: (u > 0.7).double(),
    "saturated": lambda u: (2 * u).clamp_max(1),
    "on_an_offset": lambda u: 100 + u,
    "negative": lambda u: -1 - u,
    "huge": lambda u: 1e30 * u,
    "huge_signed": lambda u: 1e30 * (u - 0.5),
    "tiny": lambda u: 1e-30 * u,
    "smooth": lambda u: torch.nn.functional.avg_pool2d(u, 5, 1, 2),
}
SIZES = [(64, 64), (7, 7), (14, 9), (40, 6)]


def pair(kind: str, size: tuple[int, int], count: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(sum(size))
    u = torch.rand(2 * count, 1, *size, generator=generator, dtype=torch.float64)
    # Related, so that no measure is at chance only.
    u[count:] = 0.5 * (u[count:] + u[:count])
    return KINDS[kind](u)[:count].float(), KINDS[kind](u)[count:].float()


def expected(name: str, current: Tensor, reference: Tensor) -> list[float]:
    pairs = zip(current[:, 0].double().numpy(), reference[:, 0].double().numpy(), strict=True)
    return [naive_measures.MEASURES[name](a, b) for a, b in pairs]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MEASURES)
def test_equal_to_the_definition(name: str, kind: str, size: tuple[int, int]) -> None:
    current, reference = pair(kind, size)
    values = MEASURES[name](current, reference)
    assert values.shape == (3,)
    assert values.dtype == torch.float32
    np.testing.assert_allclose(values, expected(name, current, reference), rtol=2e-6, atol=2e-7)


@pytest.mark.parametrize("other", ["uniform", "sparse", "one_pixel", "signed", "five_levels"])
@pytest.mark.parametrize("name", MEASURES)
def test_equal_to_the_definition_for_maps_of_different_kinds(name: str, other: str) -> None:
    current, _ = pair("half_zero", (20, 20))
    _, reference = pair(other, (20, 20))
    values = MEASURES[name](current, reference)
    np.testing.assert_allclose(values, expected(name, current, reference), rtol=2e-6, atol=2e-7)


@pytest.mark.parametrize("name", MEASURES)
def test_double_precision_is_kept(name: str) -> None:
    current, reference = (maps.double() for maps in pair("signed", (30, 20)))
    values = MEASURES[name](current, reference)
    assert values.dtype == torch.float64
    np.testing.assert_allclose(values, expected(name, current, reference), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize(
    "size", [(1, 2), (2, 1), (2, 2), (1, 64), (5, 1), (3, 3), (4, 4), (5, 5), (5, 6)]
)
def test_small_maps(name: str, size: tuple[int, int]) -> None:
    current, reference = pair("uniform", size)
    values = MEASURES[name](current, reference)
    np.testing.assert_allclose(values, expected(name, current, reference), rtol=2e-6, atol=2e-7)


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("kind", KINDS)
def test_equal_maps_have_exactly_the_value_for_no_drift(name: str, kind: str) -> None:
    current, _ = pair(kind, (33, 20))
    values = MEASURES[name](current, current.clone())
    assert values.tolist() == [NO_DRIFT[name]] * 3


DEGENERATE = {
    "zero": 0.0,
    "constant": 0.1,
    "negative_constant": -3.0,
    "nan": torch.nan,
    "inf": torch.inf,
}


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("kind", DEGENERATE)
def test_a_degenerate_map_gives_nan_and_leaves_the_others_alone(name: str, kind: str) -> None:
    current, reference = pair("uniform", (16, 16), count=4)
    alone = MEASURES[name](current[:1], reference[:1])
    current[1] = DEGENERATE[kind]
    reference[2] = DEGENERATE[kind]
    current[3] = reference[3] = DEGENERATE[kind]
    values = MEASURES[name](current, reference)
    assert values.isnan().tolist() == [False, True, True, True]
    assert values[0] == alone[0]


@pytest.mark.parametrize("name", MEASURES)
def test_a_single_nan_or_inf_pixel_is_not_ignored(name: str) -> None:
    current, reference = pair("uniform", (16, 16), count=2)
    current[0, 0, 3, 4], current[1, 0, 3, 4] = torch.nan, -torch.inf
    assert MEASURES[name](current, reference).isnan().all()
    assert MEASURES[name](current, current).isnan().all()


@pytest.mark.parametrize("name", MEASURES)
def test_a_pair_has_the_same_value_alone_as_in_a_batch(name: str) -> None:
    current, reference = pair("signed", (24, 24), count=4)
    current[2] *= 1e6
    values = MEASURES[name](current, reference)
    for i in range(4):
        alone = MEASURES[name](current[i : i + 1], reference[i : i + 1])
        np.testing.assert_allclose(alone, values[i : i + 1], rtol=1e-6)


@pytest.mark.parametrize("name", MEASURES)
def test_no_pairs_and_maps_of_one_pixel(name: str) -> None:
    assert MEASURES[name](torch.rand(0, 1, 8, 8), torch.rand(0, 1, 8, 8)).shape == (0,)
    assert MEASURES[name](torch.rand(2, 1, 1, 1), torch.rand(2, 1, 1, 1)).isnan().all()


@pytest.mark.parametrize("name", MEASURES)
def test_the_surroundings_do_not_matter(name: str) -> None:
    current, reference = pair("signed", (20, 20))
    plain = MEASURES[name](current, reference)
    wants_gradient = MEASURES[name](current.requires_grad_(), reference)
    assert not wants_gradient.requires_grad
    with torch.inference_mode():
        inferred = MEASURES[name](current, reference)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = MEASURES[name](current, reference)
    torch.use_deterministic_algorithms(True)
    try:
        deterministic = MEASURES[name](current, reference)
    finally:
        torch.use_deterministic_algorithms(False)
    strided = MEASURES[name](current.mT.contiguous().mT, reference)
    for values in (wants_gradient, inferred, cast, deterministic, strided):
        assert torch.equal(values, plain)


@pytest.mark.parametrize("name", MEASURES)
def test_half_precision_maps_are_compared_in_single_precision(name: str) -> None:
    current, reference = (maps.bfloat16() for maps in pair("uniform", (20, 20)))
    values = MEASURES[name](current, reference)
    assert torch.equal(values, MEASURES[name](current.float(), reference.float()))


@pytest.mark.parametrize("name", MEASURES)
def test_what_does_not_fit_together_is_refused(name: str) -> None:
    maps = torch.rand(2, 1, 8, 8)
    with pytest.raises(InputError, match=r"one shape .* \(2, 1, 8, 8\) on cpu and \(2, 1, 8, 9\)"):
        MEASURES[name](maps, torch.rand(2, 1, 8, 9))
    with pytest.raises(InputError, match=r"got shape \(2, 8, 8\)"):
        MEASURES[name](maps, maps[:, 0])
    with pytest.raises(InputError, match=r"got torch\.bool"):
        MEASURES[name](maps > 0.5, maps)
    with pytest.raises(InputError, match="meta"):
        MEASURES[name](maps, maps.to("meta"))


def test_spearman_of_many_ties_in_a_large_map() -> None:
    # The ranks of the zeros add up to more than int32 holds.
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(1, 1, 384, 384, generator=generator)
    second = first + torch.randn(1, 1, 384, 384, generator=generator)
    first, second = first.clamp_min(0), second.clamp_min(0)
    exact = naive_measures.spearman(first[0, 0].double().numpy(), second[0, 0].double().numpy())
    assert float(spearman(first, second)) == pytest.approx(exact, abs=1e-6)


def test_spearman_is_that_of_torchmetrics_where_that_is_right() -> None:
    current, reference = pair("half_zero", (64, 64))
    theirs = spearman_corrcoef(current.flatten(1).T, reference.flatten(1).T)
    np.testing.assert_allclose(spearman(current, reference), theirs, atol=2e-6)


@pytest.mark.parametrize("size", [(64, 64), (11, 40), (6, 6), (3, 8)])
def test_ssim_is_that_of_torchmetrics(size: tuple[int, int]) -> None:
    current, reference = (maps.double() for maps in pair("signed", size))
    scaled = [
        (maps - maps.amin((2, 3), keepdim=True))
        / (maps.amax((2, 3), keepdim=True) - maps.amin((2, 3), keepdim=True))
        for maps in (current, reference)
    ]
    sigma = [1.5 if side >= 6 else (side - 1) / 3.5 for side in size]
    # The means themselves leave the border out in some versions of torchmetrics.
    _, of_pixels = structural_similarity_index_measure(
        *scaled, sigma=sigma, data_range=1.0, reduction="none", return_full_image=True
    )
    theirs = of_pixels.mean((1, 2, 3))
    np.testing.assert_allclose(ssim(current, reference), theirs, atol=1e-12)


def test_ssim_sees_the_sign() -> None:
    current, _ = pair("smooth", (32, 32))
    assert (ssim(current, -current) < 0).all()


def test_top10_of_a_map_without_ties_is_a_tenth() -> None:
    maps = torch.randperm(100).reshape(1, 1, 10, 10).float()
    assert torch.equal(top10(maps), maps >= 90)


def test_top10_leaves_a_background_out() -> None:
    maps = torch.zeros(2, 1, 10, 10)
    maps[0, 0, 0, :3] = 1.0
    maps[1, 0, 9, :3] = 1.0
    assert torch.equal(top10(maps), maps > 0)
    assert float(top10_iou(maps[:1], maps[1:])) == 0.0


def test_top10_leaves_a_background_between_signs_out() -> None:
    maps = torch.zeros(1, 1, 10, 10)
    maps[0, 0, 0, :3], maps[0, 0, 5, :3] = 1.0, -1.0
    assert torch.equal(top10(maps), maps > 0)


def test_top10_takes_a_saturated_area_whole() -> None:
    maps = torch.rand(1, 1, 10, 10) / 2
    maps[0, 0, 3:8, 3:8] = 1.0
    assert torch.equal(top10(maps), maps == 1)


def test_top10_does_not_depend_on_where_equal_pixels_are() -> None:
    maps, _ = pair("five_levels", (20, 20))
    assert torch.equal(top10(maps.flip(2, 3)), top10(maps).flip(2, 3))


def test_top10_marks_nothing_in_a_degenerate_map() -> None:
    maps = torch.stack([torch.full((1, 8, 8), value) for value in DEGENERATE.values()])
    assert not top10(maps).any()
    assert not top10(torch.rand(1, 1, 1, 1)).any()


def test_center_shift_of_a_pixel_that_moves() -> None:
    maps = torch.zeros(2, 1, 30, 40)
    maps[0, 0, 2, 3] = maps[1, 0, 5, 7] = 4.0
    # 5 pixels of a diagonal of 50; a common offset changes nothing.
    shift = MEASURES["center_shift"](maps[:1] + 7, maps[1:] - 1)
    assert float(shift) == pytest.approx(0.1, rel=1e-6)


def test_log2_norm_ratio_counts_doublings() -> None:
    maps, _ = pair("signed", (16, 16))
    np.testing.assert_allclose(log2_norm_ratio(8 * maps, maps), [3.0] * 3, atol=1e-6)
    np.testing.assert_allclose(log2_norm_ratio(-maps / 2, maps), [-1.0] * 3, atol=1e-6)


def test_nothing_is_warned_of() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind in KINDS:
            for measure in MEASURES.values():
                measure(*pair(kind, (64, 64)))
