"""What a spawned process hands back fits into the pipe to the main process."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.strategies.launchers.multiprocessing import _MultiProcessingLauncher
from quiet import several_processes
from small_runs import QUIET, TinyModule, fit
from torch import Tensor, nn

from lightning_saliency import SaliencyCallback
from lightning_saliency.callbacks.spawn_metrics import shorten_handed_back_metrics
from lightning_saliency.errors import SaliencyWarning

pytestmark = QUIET

# What a pipe holds on Linux; who writes more waits until somebody reads.
PIPE = 65536


def trainer(metrics: dict[str, Any], launcher: object, fn: str = "fit") -> Any:
    return SimpleNamespace(
        callback_metrics=metrics,
        strategy=SimpleNamespace(launcher=launcher),
        state=SimpleNamespace(fn=fn),
    )


def spawning() -> _MultiProcessingLauncher:
    return object.__new__(_MultiProcessingLauncher)


def numbers(count: int, start: str = "saliency_drift/grad_cam/previous/") -> dict[str, Tensor]:
    return {f"{start}{i:04d}": torch.tensor(float(i)) for i in range(count)}


def handed_back(trainer: Any) -> bytes:
    extra = _MultiProcessingLauncher.get_extra_results(spawning(), trainer)
    return bytes(extra["callback_metrics_bytes"])


def test_many_numbers_fit_into_a_pipe_and_arrive() -> None:
    run = trainer({**numbers(400), "epoch": torch.tensor(3), "steps": torch.ones(2)}, spawning())
    before = dict(run.callback_metrics)
    # The reason for all this.
    assert len(handed_back(run)) > PIPE
    shorten_handed_back_metrics(run)
    sent = handed_back(run)
    assert len(sent) < PIPE - 4096
    arrived = torch.load(io.BytesIO(sent), weights_only=True)
    assert arrived.keys() == before.keys()
    for tag, value in before.items():
        torch.testing.assert_close(arrived[tag], value, rtol=0, atol=0)


@pytest.mark.parametrize(("fn", "count"), [("fit", 2000), ("validate", 450)])
def test_too_many_are_left_out_with_a_warning_and_none_of_others(fn: str, count: int) -> None:
    theirs = numbers(50, "their_loss/")
    run = trainer({**theirs, **numbers(count)}, spawning(), fn)
    results = pickle.dumps([{tag: value.item() for tag, value in run.callback_metrics.items()}])
    with pytest.warns(SaliencyWarning, match=r"\d+ numbers, for instance saliency_drift/grad_cam"):
        shorten_handed_back_metrics(run)
    assert theirs.keys() < run.callback_metrics.keys()
    sent = len(handed_back(run)) + (len(results) if fn == "validate" else 0)
    # No more than need be is left out.
    assert 40_000 < sent < PIPE - 4096


def test_other_runs_are_left_alone() -> None:
    run = trainer(numbers(400), None)
    before = dict(run.callback_metrics)
    SaliencyCallback(Bright("bright")).teardown(run, TinyModule(), "fit")
    assert all(run.callback_metrics[tag] is value for tag, value in before.items())


class Bright:
    """One of many methods."""

    def __init__(self, name: str) -> None:
        self.__name__ = name

    def __call__(self, model: nn.Module, image: Tensor, target: Any) -> Tensor:
        return image.abs().mean(1, keepdim=True)


@several_processes
def test_a_run_of_many_methods_in_forked_processes_ends(tmp_path: Path) -> None:
    methods = [Bright(f"method_{number}") for number in range(8)]
    callback = SaliencyCallback(methods, samples=2, on_error="raise")
    run = fit(tmp_path, callback, max_epochs=2, strategy="ddp_fork", devices=1)
    assert {f"saliency_target/method_{i}/flips" for i in range(8)} < set(run.callback_metrics)
    assert len(run.callback_metrics) > 200
