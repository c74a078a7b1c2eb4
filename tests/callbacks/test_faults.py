"""An explanation that fails does not end a training run, nor change it."""

from __future__ import annotations

import gc
import os
import signal
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from small_runs import QUIET, TinyModule, dataset, events, make_trainer, train_loader, val_loader
from tally import Tally
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset
from torch.utils.tensorboard.writer import FileWriter
from traces import module_state

from lightning_saliency import SaliencyCallback
from lightning_saliency.attribution import Gradient
from lightning_saliency.callbacks.failures import warn
from lightning_saliency.callbacks.tags import logged_tag
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
    steps = [event.step for event in events(tmp_path / "with").Images("saliency/samples/fails/0")]
    assert steps == [3, 11, 15, 19, 23]
    assert module_state(module) == module_state(train(tmp_path / "without"))


def test_after_three_failures_in_a_row_it_stops_trying(tmp_path: Path) -> None:
    method = FailsIn(0, 2, 3, 4, 5)
    with pytest.warns(SaliencyWarning) as said:
        train(tmp_path, SaliencyCallback(method, samples=1))
    assert method.calls == 5
    tried, *ours = [str(w.message) for w in said if issubclass(w.category, SaliencyWarning)]
    assert "tried once before training" in tried
    assert ["nothing more is explained" in text for text in ours] == [False, False, False, True]


# The method fails in the try before training, too.
@pytest.mark.filterwarnings("ignore:Expected fails to explain a sample")
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
    shares = [event.value for event in found.Scalars("saliency_target/gradient/empty")]
    assert shares == [0, 1]
    # There is no number of what was never compared.
    assert "saliency_drift/gradient/previous" not in found.Tags()["scalars"]


# --- one part of an explanation fails ---------------------------------------------------------


def ours(said: pytest.WarningsRecorder) -> list[str]:
    return [str(w.message) for w in said if issubclass(w.category, SaliencyWarning)]


def test_the_other_methods_log_all_the_same(tmp_path: Path) -> None:
    with pytest.warns(SaliencyWarning) as said:
        train(tmp_path, SaliencyCallback([FailsIn(1, 2, 3), Gradient()], samples=1))
    found = events(tmp_path)
    everywhere = [3, 7, 11, 15, 19, 23]
    for tag, steps in (("fails", [3]), ("gradient", everywhere)):
        logged = [event.step for event in found.Images(f"saliency/samples/{tag}/0")]
        assert logged == steps
        scalars = found.Scalars(f"saliency_target/{tag}/empty")
        assert [event.step for event in scalars] == steps
    assert len(found.Images("saliency/methods")) == 1
    assert len(found.Images("saliency/filmstrip/gradient")) == 6
    assert [text.count("nothing more is explained (fails)") for text in ours(said)] == [0, 0, 1]


class FailsOnLabel(FailsIn):
    def __call__(self, model: torch.nn.Module, image: Tensor, target: Any) -> Tensor:
        self.calls += 1
        if bool((target == 2).any()):
            raise ArithmeticError(f"not {len(image)} with this one")
        return image.abs().sum(1, keepdim=True)


def test_the_report_names_the_sample(tmp_path: Path) -> None:
    method = FailsOnLabel()
    with pytest.warns(SaliencyWarning) as said:
        train(tmp_path, SaliencyCallback(method, samples=[4, 1, 7, 8]), max_epochs=1)
    # Item 7 has label 2. All four, then the first, the second and the third.
    assert method.calls == 4
    assert ours(said) == [
        "The explanation of epoch 0 failed (fails) and is skipped; training goes on. "
        "ArithmeticError: not 4 with this one (sample 2)"
    ]


@pytest.mark.parametrize(
    "error", [MemoryError("on purpose"), torch.OutOfMemoryError("on purpose")], ids=repr
)
def test_too_little_memory_is_not_tried_again(tmp_path: Path, error: Exception) -> None:
    calls = []

    def hungry(model: torch.nn.Module, image: Tensor, target: Any) -> Tensor:
        calls.append(len(image))
        raise error

    with pytest.warns(SaliencyWarning, match=r"on purpose \(samples 0, 1, 2\)"):
        train(tmp_path, SaliencyCallback(hungry, samples=3), max_epochs=1)
    assert calls == [3]


def test_one_cause_is_reported_once(tmp_path: Path) -> None:
    def also_fails(model: torch.nn.Module, image: Tensor, target: Any) -> Tensor:
        raise ZeroDivisionError("on purpose")

    callback = SaliencyCallback([FailsIn(0), also_fails], samples=1)
    with pytest.warns(SaliencyWarning) as said:
        train(tmp_path, callback, max_epochs=1)
    *tried, reported = ours(said)
    assert ["tried once before training" in text for text in tried] == [True, True]
    assert "(fails, also_fails)" in reported


def test_what_a_failure_held_is_set_free(tmp_path: Path) -> None:
    held = Tally()

    def large(model: torch.nn.Module, image: Tensor, target: Any) -> Tensor:
        held.append(weakref.ref(image))
        try:
            raise KeyError("first")
        except KeyError:
            model(image).no_such_thing()
        return image

    gc.disable()
    try:
        with pytest.warns(SaliencyWarning, match="no_such_thing"):
            train(tmp_path, SaliencyCallback(large, samples=1), max_epochs=1)
        assert [reference() for reference in held] == [None, None]
    finally:
        gc.enable()


class Unwritable(TensorBoardLogger):
    """Cannot keep pictures."""

    class Experiment:
        def add_image(self, *args: Any, **settings: Any) -> None:
            raise ConnectionError("on purpose")

    @property
    def experiment(self) -> Any:
        return self.Experiment()

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        pass

    def save(self) -> None:
        pass

    def finalize(self, status: str) -> None:
        pass


def test_another_logger_gets_the_pictures_all_the_same(tmp_path: Path) -> None:
    loggers = [
        Unwritable(tmp_path, name="lost"),
        TensorBoardLogger(tmp_path, name="run", version=""),
    ]
    with pytest.warns(SaliencyWarning) as said:
        train(tmp_path, SaliencyCallback([Gradient(), FailsIn()], samples=2), logger=loggers)
    # The pinned pictures of the history are lost too, and counted for themselves.
    lost = [text for text in ours(said) if "(pictures)" in text]
    assert [text.count("nothing more is explained (pictures)") for text in lost] == [0, 0, 1]
    found = events(tmp_path)
    # Until the third failure in a row; the numbers go on.
    assert len(found.Images("saliency/methods")) == 3
    assert len(found.Images("saliency/filmstrip/fails")) == 3
    assert len(found.Scalars("saliency_target/gradient/empty")) == 6


@pytest.mark.filterwarnings("ignore:Expected fails to explain a sample")
@pytest.mark.parametrize("monitor", ["spearman", "ssim", "log2_norm_ratio"])
def test_who_monitors_a_number_goes_on_when_the_first_explanation_fails(
    tmp_path: Path, monitor: str
) -> None:
    tag = f"saliency_drift/fails/previous/{monitor}"
    stopping = EarlyStopping(tag, mode="max", patience=50)
    saving = ModelCheckpoint(tmp_path / "saved", monitor=tag, mode="max")
    with pytest.warns(SaliencyWarning, match="epoch 0 failed"):
        module = train(
            tmp_path,
            SaliencyCallback([FailsIn(0), Gradient()], samples=1, log="full"),
            stopping,
            saving,
            enable_checkpointing=True,
        )
    assert module.steps == 24
    # What stands in is not logged.
    steps = [event.step for event in events(tmp_path).Scalars(logged_tag(tag))]
    assert steps == [11, 15, 19, 23]


# --- before there is anything to explain ------------------------------------------------------


class TwoForms(IterableDataset[Any]):
    """Batches that the callback can unpack, and later batches that it cannot."""

    def __init__(self, good: int) -> None:
        self.good, self.runs = good, 0

    def __iter__(self) -> Iterator[Any]:
        self.runs += 1
        for image, label in zip(*dataset(8, seed=2).tensors, strict=True):
            yield (image, label) if self.runs > self.good else {"pixels": image, "class": label}


class AnyBatch(TinyModule):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", 0.0)


def test_a_batch_that_cannot_be_unpacked_does_not_end_training(tmp_path: Path) -> None:
    # Without a sanity check, and without an index, it is seen only in the middle of training.
    module = AnyBatch()
    callback = SaliencyCallback(Gradient(), samples=2)
    trainer = make_trainer(tmp_path, callback, max_epochs=4, num_sanity_val_steps=0)
    with pytest.warns(SaliencyWarning) as said:
        trainer.fit(module, train_loader(), DataLoader(TwoForms(good=2), batch_size=4))
    assert module.steps == 16
    assert len(ours(said)) == 2
    assert all("(samples)" in text and "'pixels', 'class'" in text for text in ours(said))
    steps = [event.step for event in events(tmp_path).Images("saliency/samples/gradient/0")]
    assert steps == [11, 15]


# --- the run is told to end -------------------------------------------------------------------


def test_the_word_to_end_is_not_kept_waiting(tmp_path: Path) -> None:
    passes, calls = Tally(), Tally()

    def long_explanation(model: torch.nn.Module, image: Tensor, target: Any) -> Tensor:
        calls.append(1)
        # The first call is the try before training.
        for number in range(1000 if len(calls) > 1 else 0):
            passes.append(number)
            model(image)
            if number == 3:
                os.kill(os.getpid(), signal.SIGTERM)
        return image.sum(1, keepdim=True)

    module = TinyModule()
    trainer = make_trainer(tmp_path, SaliencyCallback(long_explanation, samples=1), max_epochs=6)
    before = signal.getsignal(signal.SIGTERM)
    # No warning either.
    with pytest.raises(SystemExit):
        trainer.fit(module, train_loader(), val_loader())
    assert module.steps == 4
    # Number 4 began with a pass that was not made any more.
    assert list(passes) == [0, 1, 2, 3, 4]
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_warning_names_the_line_that_gave_it() -> None:
    with pytest.warns(SaliencyWarning, match="something") as said:
        warn("something is missing")
    assert said[0].filename == __file__
