"""What is switched for the whole process ends as it was, however many threads explain."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable

import pytest
import torch
import torch.utils.checkpoint
from tiny_models import make_images, make_model
from torch import Tensor, nn
from traces import bits, differences, global_flags

from lightning_saliency.attribution import Gradient
from lightning_saliency.network.isolation.process_state import SharedSwitch
from lightning_saliency.network.isolation.undisturbed import undisturbed

IMAGES = make_images()
ORDERS = list(itertools.permutations(range(3)))
in_any_order = pytest.mark.parametrize("order", ORDERS, ids=str)


def in_threads(
    runs: list[Callable[[], None]], order: tuple[int, ...], inside: Callable[[], None]
) -> None:
    """Enter an explanation of its own in each thread, all at a time, and leave in some order."""
    entered = [threading.Event() for _ in runs]
    leave = [threading.Event() for _ in runs]
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            with undisturbed(make_model()):
                entered[number].set()
                assert leave[number].wait(20)
                runs[number]()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(runs))]
    for thread, event in zip(threads, entered, strict=True):
        thread.start()
        assert event.wait(20)
    for number in order:
        inside()
        leave[number].set()
        threads[number].join(20)
    assert errors == []


@in_any_order
def test_everything_is_as_it_was_when_the_last_thread_ends(order: tuple[int, ...]) -> None:
    original, before = torch.utils.checkpoint.CheckpointFunction, global_flags()

    def inside() -> None:
        assert torch.utils.checkpoint.CheckpointFunction is not original
        assert torch._dynamo.eval_frame._stance.stance == "force_eager"

    in_threads([bool] * 3, order, inside)
    assert torch.utils.checkpoint.CheckpointFunction is original
    assert differences(before, global_flags()) == []


@in_any_order
@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled:UserWarning")
def test_anomaly_detection_comes_back(order: tuple[int, ...]) -> None:
    def inside() -> None:
        assert not torch.is_anomaly_enabled()

    def switch_on() -> None:
        torch.autograd.set_detect_anomaly(True)
        torch.autograd.set_detect_anomaly(False)

    with torch.autograd.set_detect_anomaly(True, check_nan=False):
        before = global_flags()
        in_threads([bool, switch_on, bool], order, inside)
        assert differences(before, global_flags()) == []


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = make_model()

    def forward(self, x: Tensor) -> Tensor:
        return torch.utils.checkpoint.checkpoint(self.inner, x, use_reentrant=True)


def test_other_threads_are_checkpointed_as_ever() -> None:
    model, seen = Checkpointed(), []
    wanted = bits(Gradient()(model.inner, IMAGES, 1))

    def train() -> None:
        output = Checkpointed()(IMAGES.clone().requires_grad_())
        seen.append(output.grad_fn.name())
        output.sum().backward()

    train()
    with undisturbed(make_model()):
        thread = threading.Thread(target=train)
        thread.start()
        thread.join(20)
        assert bits(Gradient()(model, IMAGES, 1)) == wanted
    assert seen == ["CheckpointFunctionBackward"] * 2


def test_what_somebody_else_has_put_in_its_place_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(torch.utils.checkpoint.CheckpointFunction):
        pass

    monkeypatch.setattr(
        torch.utils.checkpoint, "CheckpointFunction", torch.utils.checkpoint.CheckpointFunction
    )
    with undisturbed(make_model()):
        torch.utils.checkpoint.CheckpointFunction = Other
    assert torch.utils.checkpoint.CheckpointFunction is Other


def test_a_switch_that_fails_is_not_on() -> None:
    calls: list[str] = []

    def switch() -> Callable[[], object]:
        calls.append("on")
        if len(calls) == 1:
            raise ArithmeticError
        return lambda: calls.append("off")

    shared = SharedSwitch(switch)
    with pytest.raises(ArithmeticError), shared.on():
        pass
    with shared.on(), shared.on():
        assert calls == ["on", "on"]
    assert calls == ["on", "on", "off"]
