from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor, nn

from lightning_saliency.errors import ModelError, NothingReplacedError
from lightning_saliency.network.backward_rules import BackwardRules
from lightning_saliency.network.relu_rules import deconvnet_rules, guided_rules


def depth() -> int:
    return torch._C._len_torch_function_stack()


def test_it_counts_what_it_replaces_and_what_it_does_not() -> None:
    x = torch.randn(3, requires_grad=True)
    with BackwardRules(guided_rules()) as rules:
        torch.sigmoid(torch.relu(x).relu_() + 1)
    assert rules.replaced == {"relu": 2}
    assert rules.ordinary["sigmoid"] == 1


def test_the_forward_values_are_the_ordinary_ones() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8, 8)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(True), nn.Conv2d(4, 4, 3), nn.ReLU())
    with BackwardRules(deconvnet_rules()):
        inside = model(x)
    assert torch.equal(inside, model(x))


def test_without_a_replacement_it_says_what_the_model_calls() -> None:
    with (
        pytest.raises(NothingReplacedError, match=r"gelu \(called 2 times\)"),
        BackwardRules(guided_rules(), method="guided backprop"),
    ):
        nn.functional.gelu(nn.functional.gelu(torch.ones(1)))


def test_refused_functions_are_named() -> None:
    with (
        pytest.raises(ModelError, match=r"silu \(called once\)"),
        BackwardRules(guided_rules(), refused=["silu"]),
    ):
        nn.functional.silu(torch.relu(torch.ones(1)))


def test_an_error_inside_is_not_covered_and_leaves_no_mode_behind() -> None:
    before = depth()
    with pytest.raises(ZeroDivisionError), BackwardRules(guided_rules()):
        raise ZeroDivisionError
    assert depth() == before


def test_other_threads_notice_nothing() -> None:
    found: list[Tensor] = []

    def other() -> None:
        x = torch.tensor([1.0], requires_grad=True)
        (-torch.relu(x)).sum().backward()
        assert x.grad is not None
        found.append(x.grad)

    with BackwardRules(guided_rules()):
        torch.relu(torch.ones(1))
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    # Guided backprop would have stopped the negative gradient.
    assert found[0].item() == -1


def test_torch_itself_is_not_changed() -> None:
    relu, function = torch.relu, nn.functional.relu
    with BackwardRules(guided_rules()):
        assert torch.relu is relu
        assert nn.functional.relu is function
        torch.relu(torch.ones(1))
