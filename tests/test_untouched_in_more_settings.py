"""Training is untouched with all that a Trainer can be told, and with modules of other kinds."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from contract import make_method
from lightning.pytorch import callbacks as lightning_callbacks
from lightning.pytorch.callbacks import StochasticWeightAveraging
from lightning.pytorch.loggers import TensorBoardLogger
from quiet import QUIET, SEVERAL_PROCESSES
from torch import Tensor
from torch.utils.data import DataLoader
from untouched import AugmentedImages, Classifier, Record, Recorder, first_difference

from lightning_saliency import SaliencyCallback

pytestmark = [
    *QUIET,
    *SEVERAL_PROCESSES,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Expected excitation maps that sum to 1"),
    pytest.mark.filterwarnings("ignore:You have turned on `Trainer.detect_anomaly=True.`"),
    pytest.mark.filterwarnings("ignore:You are using `persistent_workers`"),
    pytest.mark.filterwarnings("ignore:.*sampler has shuffling enabled.*"),
    pytest.mark.filterwarnings("ignore:You requested to overfit.*"),
    pytest.mark.filterwarnings("ignore:.*`swa_.*"),
    pytest.mark.filterwarnings("ignore:Swapping scheduler.*"),
    pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*"),
]

METHODS = [
    *("Gradient", "GradCAM", "GuidedBackprop"),
    *("ExcitationBackprop", "RISE", "ExtremalPerturbation"),
]


class LossOnly(Recorder):
    """Of a module that optimizes by hand there may be no loss."""

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.record[-1]["loss"] = repr(outputs)


class Manual(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:  # type: ignore[override]
        optimizer: Any = self.optimizers()
        self.manual_backward(F.cross_entropy(self(batch[0]), batch[1]))
        if batch_idx % 3 == 2:
            optimizer.step()
            optimizer.zero_grad()


class TwoOptimizers(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def configure_optimizers(self) -> Any:
        return [
            torch.optim.Adam(self.features.parameters(), lr=0.01),
            torch.optim.SGD(self.head.parameters(), lr=0.1, momentum=0.9),
        ]

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:  # type: ignore[override]
        optimizers: Any = self.optimizers()
        for optimizer in optimizers:
            optimizer.zero_grad()
            self.manual_backward(F.cross_entropy(self(batch[0]), batch[1]))
            optimizer.step()


def ema() -> pl.Callback:
    if not hasattr(lightning_callbacks, "EMAWeightAveraging"):
        pytest.skip("not in this Lightning")
    return lightning_callbacks.EMAWeightAveraging(decay=0.5)


@dataclass(frozen=True)
class Case:
    module: type[Classifier] = Classifier
    trainer: dict[str, Any] = field(default_factory=dict)
    loader: dict[str, Any] = field(default_factory=dict)
    extra: Callable[[], pl.Callback] | None = None
    accumulate: int = 3


CASES = {
    "EMA": Case(extra=ema),
    "EMA, few validations": Case(
        extra=ema, trainer={"check_val_every_n_epoch": 2, "max_epochs": 4}
    ),
    "SWA": Case(
        extra=lambda: StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=1),
        trainer={"max_epochs": 4},
        accumulate=1,
    ),
    "manual optimization": Case(module=Manual, accumulate=1),
    "two optimizers": Case(module=TwoOptimizers, accumulate=1),
    "persistent workers": Case(loader={"num_workers": 1, "persistent_workers": True}),
    "detect_anomaly": Case(trainer={"detect_anomaly": True}),
    "deterministic": Case(trainer={"deterministic": True}),
    "overfit_batches": Case(trainer={"overfit_batches": 3}),
    "limit_val_batches": Case(trainer={"limit_val_batches": 1}),
    "reload_dataloaders": Case(trainer={"reload_dataloaders_every_n_epochs": 1}),
    "validation at quarters": Case(trainer={"val_check_interval": 0.25}),
    "validation every 3 steps": Case(trainer={"val_check_interval": 3}),
    "validation every 2 epochs": Case(trainer={"check_val_every_n_epoch": 2, "max_epochs": 4}),
    "validation every 3 steps of the run": Case(
        trainer={"check_val_every_n_epoch": None, "val_check_interval": 3}
    ),
}


def run(case: Case, folder: Path, *callbacks: pl.Callback) -> Record:
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    recorder = Recorder() if case.module is Classifier else LossOnly()
    extra = [] if case.extra is None else [case.extra()]
    trainer = pl.Trainer(
        **{  # type: ignore[arg-type]
            "accelerator": "cpu",
            "max_epochs": 2,
            "accumulate_grad_batches": case.accumulate,
            "logger": TensorBoardLogger(folder, name=None),
            "callbacks": [*extra, *callbacks, recorder],
            "log_every_n_steps": 1,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            **case.trainer,
        }
    )
    trainer.fit(
        case.module(),
        DataLoader(AugmentedImages(32, augment=True), batch_size=4, shuffle=True, **case.loader),
        DataLoader(AugmentedImages(8, augment=False), batch_size=4, **case.loader),
    )
    torch.use_deterministic_algorithms(False)
    return recorder.record


@pytest.mark.parametrize("name", CASES)
def test_training_is_untouched(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    methods = [make_method(method) for method in METHODS]
    first = SaliencyCallback(methods, samples=3, on_error="raise")
    second = SaliencyCallback(methods, samples=[0, 2], on_error="raise", name="by_index")
    record = run(case, tmp_path / "with", first, second)
    assert first_difference(run(case, tmp_path / "without"), record) == ""
    assert first._budget.made >= 2
    assert second._budget.made >= 2
