import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from lightning_saliency.network.cuts import are_cuts


def cuts_of(score: Tensor, image: Tensor, *inner: Tensor) -> list[bool]:
    return are_cuts(score, image, [get_gradient_edge(each) for each in inner])


def test_a_residual_branch_is_no_cut() -> None:
    image = torch.randn(2, 3, requires_grad=True)
    first = image * 2
    branch = first.relu()
    total = first + branch
    assert cuts_of(total.sum(), image, first, branch, total) == [True, False, True]


def test_one_of_several_outputs_is_no_cut() -> None:
    image = torch.randn(2, 4, requires_grad=True)
    a, b = image.chunk(2, dim=1)
    joined = torch.cat([a, b.relu()], 1)
    assert cuts_of(joined.sum(), image, a, b, joined) == [False, False, True]
    assert cuts_of(a.sum(), image, a, b) == [True, False]


def test_score_that_does_not_depend_on_the_image() -> None:
    image, weight = torch.randn(2, requires_grad=True), torch.randn(2, requires_grad=True)
    inner = weight * 2
    assert cuts_of(inner.sum(), image, inner) == [False]


def test_more_paths_than_a_machine_number_holds() -> None:
    image = torch.randn(2, requires_grad=True)
    x, branches, totals = image, [], []
    for _ in range(200):
        branch = nn.functional.relu(x)
        x = x + branch
        branches.append(branch)
        totals.append(x)
    assert all(cuts_of(x.sum(), image, *totals))
    assert not any(cuts_of(x.sum(), image, *branches))


def test_deep_graph() -> None:
    image = torch.randn(1, requires_grad=True)
    x = image
    for _ in range(5000):
        x = x * 1.0
    assert cuts_of(x, image, x) == [True]
