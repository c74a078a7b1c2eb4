"""An explanation that fails does not end a training run, nor change it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import QUIET, TinyModule, events, make_trainer, train_loader, val_loader
from torch import Tensor
from torch.utils.tensorboard.writer import FileWriter
from traces import module_state

from lightning_saliency import SaliencyCallback
from lightning_saliency.attribution import Gradient
from lightning_saliency.errors import SaliencyWarning

pytestmark = QUIET


class FailsIn:
    """A method that fails in some of its calls (the first is number 0)."""

    __name__ = "fails"

    def __init__(self, *numbers: int, error: type[BaseException] = ZeroDivisionError) -> None:
        self.numbers = numbers
        self.error = error
        self.calls = 0

    def __call__(self, model: torch.nn.Module, image: Tensor, target: Any) -> Tensor:
        self.calls += 1
        if self.calls - 1 in self.numbers:
            model.train()
            model.register_forward_hook(lambda *_: None)
            raise self.error("on purpose")
        return image.abs().sum(1, keepdim=True)


def train(folder: Path, *callbacks: Any, **settings: Any) -> TinyModule:
    torch.manual_seed(0)
    module = TinyModule()
    trainer = make_trainer(folder, *callbacks, **{"max_epochs": 6, **settings})
    trainer.fit(module, train_loader(), val_loader())
    return module


def test_a_failure_is_reported_and_skipped(tmp_path: Path) -> None:
    with pytest.warns(SaliencyWarning, match=r"epoch 1 failed.*ZeroDivisionError: on purpose") as w:
        module = train(tmp_path / "with", SaliencyCallback(FailsIn(1), samples=1))
    assert len([entry for entry in w if issubclass(entry.category, SaliencyWarning)]) == 1
    steps = [event.step for event in events(tmp_path / "with").Images("saliency/fails/sample_0")]
    assert steps == [3, 11, 15, 19, 23]
    assert module_state(module) == module_state(train(tmp_path / "without"))


def test_after_three_failures_in_a_row_it_stops_trying(tmp_path: Path) -> None:
    method = FailsIn(0, 2, 3, 4, 5)
    with pytest.warns(SaliencyWarning) as said:
        train(tmp_path, SaliencyCallback(method, samples=1))
    assert method.calls == 5
    ours = [str(w.message) for w in said if issubclass(w.category, SaliencyWarning)]
    assert ["nothing more is explained" in text for text in ours] == [False, False, False, True]


def test_failures_end_the_run_if_that_is_wanted(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError, match="on purpose"):
        train(tmp_path, SaliencyCallback(FailsIn(0), samples=1, on_error="raise"))


def test_an_interrupt_passes_through_at_once(tmp_path: Path) -> None:
    method = FailsIn(1, error=KeyboardInterrupt)
    torch.manual_seed(0)
    module = TinyModule()
    trainer = make_trainer(tmp_path, SaliencyCallback(method, samples=1), max_epochs=6)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        trainer.fit(module, train_loader(), val_loader())
    assert module.steps == 8


def test_a_logger_that_raises_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = FileWriter.add_summary

    def only_scalars(self: FileWriter, summary: Any, step: int, walltime: Any = None) -> None:
        if summary.value[0].HasField("image"):
            raise OSError(28, "No space left on device")
        write(self, summary, step, walltime)

    monkeypatch.setattr(FileWriter, "add_summary", only_scalars)
    with pytest.warns(SaliencyWarning, match="No space left on device"):
        module = train(tmp_path, SaliencyCallback(Gradient(), samples=1))
    assert module.steps == 24


def test_weights_that_are_not_finite_are_shown_as_such(tmp_path: Path) -> None:
    class Diverges(TinyModule):
        def on_train_epoch_start(self) -> None:
            if self.current_epoch == 1:
                with torch.no_grad():
                    self.net.head.weight.fill_(float("nan"))

    torch.manual_seed(0)
    trainer = make_trainer(tmp_path, SaliencyCallback(Gradient(), samples=2), max_epochs=2)
    trainer.fit(Diverges(), train_loader(), val_loader())
    found = events(tmp_path)
    shares = [event.value for event in found.Scalars("saliency_target/gradient/degenerate_frac")]
    assert shares == [0, 1]
    drift = found.Scalars("saliency_drift/gradient/previous/spearman")[-1].value
    assert drift != drift
