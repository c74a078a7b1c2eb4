import pytest
import torch
from scipy.stats import rankdata, spearmanr

from lightning_saliency.image.saliency_map import mean_ranks, rank_correlation


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ranks_are_those_of_scipy_less_their_mean(dtype: torch.dtype) -> None:
    values = torch.randint(0, 9, (2, 3, 50), generator=torch.Generator().manual_seed(0)).to(dtype)
    came = mean_ranks(values)
    assert came.dtype == dtype
    assert came.numpy().tolist() == (rankdata(values.numpy(), axis=-1) - 25.5).tolist()


def test_the_correlation_is_that_of_scipy_with_many_equal_values() -> None:
    first, second = torch.randint(0, 5, (2, 4, 60), generator=torch.Generator().manual_seed(1))
    wanted = [spearmanr(a, b).statistic for a, b in zip(first, second, strict=True)]
    came = rank_correlation(first.double(), second.double())
    assert came.tolist() == pytest.approx(wanted, abs=1e-12)


def test_a_constant_side_has_no_correlation() -> None:
    values = torch.rand(2, 9)
    assert rank_correlation(values, torch.ones(2, 9)).isnan().all()
    assert rank_correlation(torch.zeros(2, 1), torch.ones(2, 1)).isnan().all()
