from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lightning_saliency.attribution import (
    AttributionMethod,
    ContrastiveExcitationBackprop,
    DeconvNet,
    ExcitationBackprop,
    GuidedBackprop,
)
from lightning_saliency.errors import ModelError, NothingReplacedError
from lightning_saliency.network.backward_rules import BackwardRules, Rules
from lightning_saliency.network.relu_rules import ReluChoice, deconvnet, guided


def guided_rules() -> Rules:
    return ReluChoice(guided).rules()


def deconvnet_rules() -> Rules:
    return ReluChoice(deconvnet).rules()


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


def test_a_rule_that_lets_a_call_be_does_not_make_it_allowed() -> None:
    def lets_be(*_args: object, **_kwargs: object) -> object:
        return NotImplemented

    with (
        pytest.raises(ModelError, match=r"silu \(called once\)"),
        BackwardRules({**guided_rules(), nn.functional.silu: lets_be}, refused=["silu"]),
    ):
        nn.functional.silu(torch.relu(torch.ones(1)))
    with BackwardRules({**guided_rules(), nn.functional.silu: None}, refused=["silu"]) as rules:
        nn.functional.silu(torch.relu(torch.ones(1)))
    assert rules.ordinary["silu"] == 1


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


def small_model(middle: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3),
        middle,
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 3),
    ).eval()


class Checkpointed(nn.Module):
    def __init__(self, use_reentrant: bool) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(6, 6, 3), nn.ReLU(True), nn.Conv2d(6, 6, 1))
        self.use_reentrant: bool | None = use_reentrant

    def forward(self, x: Tensor) -> Tensor:
        if self.use_reentrant is None:
            return self.inner(x)
        result: Tensor = checkpoint(self.inner, x, use_reentrant=self.use_reentrant)
        return result


RULE_METHODS = [
    DeconvNet(),
    GuidedBackprop(),
    ExcitationBackprop(),
    ContrastiveExcitationBackprop(),
]
by_method = pytest.mark.parametrize("method", RULE_METHODS, ids=lambda m: m.name)


@pytest.mark.parametrize("method", RULE_METHODS[:2], ids=lambda m: m.name)
def test_a_checkpointed_model_is_explained_like_any(method: AttributionMethod) -> None:
    middle = Checkpointed(use_reentrant=False)
    model, image = small_model(middle), torch.randn(2, 3, 9, 9)
    found = method(model, image, 1)
    middle.use_reentrant = None
    assert torch.equal(found, method(model, image, 1))


@pytest.mark.parametrize("method", RULE_METHODS[2:], ids=lambda m: m.name)
def test_checkpoints_are_an_error_for_excitation_backprop(method: AttributionMethod) -> None:
    # The second run of the checkpointed part knows nothing of the rules.
    with pytest.raises(ModelError, match=r"torch\.utils\.checkpoint"):
        method(small_model(Checkpointed(use_reentrant=False)), torch.randn(2, 3, 9, 9), 1)


@by_method
def test_a_model_with_reentrant_checkpoints_is_explained_like_any(
    method: AttributionMethod,
) -> None:
    middle = Checkpointed(use_reentrant=True)
    model, image = small_model(middle), torch.rand(2, 3, 9, 9)
    with torch.no_grad():
        # Excitation backprop is for inputs >= 0, and there is no ReLU before the middle.
        model[0].weight.abs_()
        model[0].bias.abs_()
    found = method(model, image, 1)
    assert torch.utils.checkpoint.CheckpointFunction.__name__ == "CheckpointFunction"
    middle.use_reentrant = None
    assert torch.equal(found, method(model, image, 1))


@by_method
@pytest.mark.filterwarnings("ignore")
def test_an_exported_model_is_explained_like_its_source(method: AttributionMethod) -> None:
    model, image = small_model(nn.ReLU(True)), torch.randn(2, 3, 9, 9)
    exported = torch.export.export(model, (image,)).module()
    torch.testing.assert_close(method(exported, image, 1), method(model, image, 1))


@by_method
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("part", [False, True], ids=["whole", "part"])
def test_a_traced_or_scripted_model_is_an_error(method: AttributionMethod, part: bool) -> None:
    image = torch.randn(2, 3, 9, 9)
    model = small_model(torch.jit.script(nn.ReLU()) if part else nn.ReLU())
    if not part:
        model = torch.jit.trace(model, image)
    with pytest.raises(ModelError, match="scripted or traced"):
        method(model, image, 1)


@by_method
def test_an_error_in_the_model_leaves_no_mode_behind(method: AttributionMethod) -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise ArithmeticError

    before = depth()
    with pytest.raises(ArithmeticError):
        method(small_model(Broken()), torch.randn(2, 3, 9, 9), 1)
    assert depth() == before


def test_torch_itself_is_not_changed() -> None:
    relu, function = torch.relu, nn.functional.relu
    with BackwardRules(guided_rules()):
        assert torch.relu is relu
        assert nn.functional.relu is function
        torch.relu(torch.ones(1))
