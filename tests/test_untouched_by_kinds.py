"""Training is untouched whatever a module keeps for itself, and however it is trained."""

from __future__ import annotations

import gc
import os
import random
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from lightning.pytorch.loggers import CSVLogger
from quiet import QUIET, SEVERAL_PROCESSES
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.ops import StochasticDepth
from typing_extensions import override
from untouched import AugmentedImages, Classifier, Record, Recorder, first_difference

sys.path.insert(0, str(Path(__file__).parent / "network"))

from stateful_models import KINDS, Stateful, forget_globals

from lightning_saliency import SaliencyCallback
from lightning_saliency.attribution import RISE, GradCAM, Gradient

pytestmark = [
    *QUIET,
    *SEVERAL_PROCESSES,
    pytest.mark.filterwarnings("ignore:You are trying to `self.log\\(\\)`"),
    pytest.mark.filterwarnings("ignore:Of the run's loggers"),
    # One of the models here is sure of its class whatever it sees.
    pytest.mark.filterwarnings("ignore:RISE. the probability of the target is the same"),
]

Fit = Callable[[pl.Trainer, pl.LightningModule], None]


def loaders() -> tuple[DataLoader[Any], DataLoader[Any]]:
    train = DataLoader(AugmentedImages(12, augment=True), batch_size=4, shuffle=True)
    return train, DataLoader(AugmentedImages(8, augment=False), batch_size=4)


def fit_once(trainer: pl.Trainer, module: pl.LightningModule) -> None:
    trainer.fit(module, *loaders())


def fit_twice(trainer: pl.Trainer, module: pl.LightningModule) -> None:
    train, val = loaders()
    trainer.fit(module, train, val)
    trainer.fit_loop.max_epochs = 4
    trainer.fit(module, train, val)


def validate_between(trainer: pl.Trainer, module: pl.LightningModule) -> None:
    train, val = loaders()
    trainer.validate(module, val, verbose=False)
    trainer.fit(module, train, val)
    trainer.validate(module, val, verbose=False)
    trainer.fit_loop.max_epochs = 3
    trainer.fit(module, train, val)


class Losses(Recorder):
    """Of a module that optimizes by hand there may be no loss."""

    @override
    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.record[-1]["loss"] = repr(outputs)


def run(
    module: pl.LightningModule,
    folder: Path,
    callbacks: list[pl.Callback],
    fit: Fit = fit_once,
    **settings: Any,
) -> Record:
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    forget_globals()
    recorder = Losses()
    trainer = pl.Trainer(
        **{
            "accelerator": "cpu",
            "max_epochs": 2,
            "logger": CSVLogger(folder),
            "callbacks": [*callbacks, recorder],
            "log_every_n_steps": 1,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            **settings,
        }
    )
    fit(trainer, module)
    return recorder.record


def compared(
    make: Callable[[], pl.LightningModule],
    folder: Path,
    methods: Any,
    fit: Fit = fit_once,
    **settings: Any,
) -> tuple[str, SaliencyCallback]:
    """Return what differs between a run without the callback and one with it."""
    callback = SaliencyCallback(methods, samples=3, on_error="raise")
    runs = []
    for callbacks in ([], [callback]):
        torch.manual_seed(4)
        runs.append(run(make(), folder / str(len(callbacks)), callbacks, fit, **settings))
    return first_difference(*runs), callback


# --- what a module keeps for itself -----------------------------------------------------------


class Keeps(Classifier):
    """Has a network that keeps something for itself."""

    def __init__(self, kind: type[Stateful]) -> None:
        super().__init__()
        self.net = kind()

    @override
    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


# What its forward writes is a part of the graph in training: a user would not get far with it.
TRAINABLE = [kind for kind in KINDS if kind.__name__ != "CaughtInTheGraph"]


@pytest.mark.parametrize("sanity", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", TRAINABLE, ids=lambda kind: kind.__name__)
def test_state_of_the_module(tmp_path: Path, kind: type[Stateful], sanity: int) -> None:
    methods = [Gradient(), RISE(num_masks=128)]
    found, callback = compared(lambda: Keeps(kind), tmp_path, methods, num_sanity_val_steps=sanity)
    assert found == ""
    assert callback._budget.made == 2


def test_the_comparison_sees_what_a_pass_leaves_behind(tmp_path: Path) -> None:
    class Careless(pl.Callback):
        def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
            with torch.no_grad():
                pl_module(torch.zeros(1, 3, 12, 12))

    unseen = set()
    for kind in TRAINABLE:
        torch.manual_seed(4)
        plain = run(Keeps(kind), tmp_path, [])
        torch.manual_seed(4)
        if first_difference(plain, run(Keeps(kind), tmp_path, [Careless()])) == "":
            unseen.add(kind.__name__)
    # It does the same each time, however often it has run.
    assert unseen == {"KeepsGradients"}


# --- what a module logs -----------------------------------------------------------------------


class Logs(Classifier):
    @override
    def forward(self, x: Tensor) -> Tensor:
        output = super().forward(x)
        self.log("gate", output.mean(), batch_size=len(x), on_step=False, on_epoch=True)
        self.log_dict({"least": output.min()}, batch_size=len(x), on_step=False, on_epoch=True)
        return output


@pytest.mark.parametrize("sanity", [0, 2])
def test_metrics_that_forward_logs(tmp_path: Path, sanity: int) -> None:
    found, _ = compared(Logs, tmp_path, Gradient(), num_sanity_val_steps=sanity)
    assert found == ""
    rows = [
        next((tmp_path / which).rglob("metrics.csv")).read_text().splitlines()
        for which in ("0", "1")
    ]
    assert "gate" in rows[0][0]
    gates = [
        [dict(zip(lines[0].split(","), line.split(","), strict=True)) for line in lines[1:]]
        for lines in rows
    ]
    for name in ("gate", "least"):
        values = [[row[name] for row in each if row[name]] for each in gates]
        assert values[0] == values[1] != []


# --- what a user's method does ----------------------------------------------------------------


def _settings(model: nn.Module, images: Tensor, target: Tensor) -> Tensor:
    torch.set_num_threads(torch.get_num_threads() + 1)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.mha.set_fastpath_enabled(False)
    torch.set_flush_denormal(True)
    torch.set_printoptions(precision=2)
    gc.disable()
    sys.setrecursionlimit(sys.getrecursionlimit() + 1)
    sys.path.append("elsewhere")
    os.environ["SET_BY_A_METHOD"] = "1"
    nn.modules.module.register_module_forward_hook(lambda *_: None)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.9
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.9
    model.head.weight.requires_grad_().register_hook(lambda gradient: gradient * 0)
    return images[:, :1]


def _scale(model: nn.Module, images: Tensor, target: Tensor) -> Tensor:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    raise ArithmeticError("half-way")


@pytest.mark.parametrize("method", [_settings, _scale])
@pytest.mark.filterwarnings("ignore:.*half-way")
def test_what_a_users_method_does(tmp_path: Path, method: Any) -> None:
    runs = []
    for callbacks in ([], [SaliencyCallback([method, Gradient()], samples=3)]):
        torch.manual_seed(4)
        # Not among the flags that every test leaves alone: Lightning itself sets variables.
        before = dict(os.environ), list(sys.path)
        runs.append(run(Classifier(), tmp_path, callbacks, num_sanity_val_steps=0))
        assert (dict(os.environ), list(sys.path)) == before
    assert first_difference(*runs) == ""


# --- ways to train ----------------------------------------------------------------------------


class Adversarial(Classifier):
    """Two networks that train against each other."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.out = nn.Conv2d(4, 3, 1)

    @override
    def configure_optimizers(self) -> Any:
        made = [*self.generator.parameters(), *self.out.parameters()]
        judged = [*self.features.parameters(), *self.head.parameters()]
        return torch.optim.Adam(made, 0.01), torch.optim.Adam(judged, 0.01)

    @override
    def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        images, labels = batch
        for optimizer in self.optimizers():
            self.toggle_optimizer(optimizer)
            fake = self.out(self.generator(images + 0.1 * torch.randn_like(images)))
            loss = F.cross_entropy(self(fake), labels) + F.cross_entropy(self(images), labels)
            self.manual_backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            self.untoggle_optimizer(optimizer)


class MemoryBank(Classifier):
    """Compares with what it has seen last, and with a slow copy of itself."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("bank", torch.randn(16, 54))
        self.register_buffer("place", torch.zeros((), dtype=torch.long))
        self.slow = [nn.Linear(54, 54).requires_grad_(False)]
        self.fast = nn.Linear(54, 54)

    @override
    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(self.features(self.stem(x)), 3).flatten(1)
        keys = self.slow[0](x).detach()
        with torch.no_grad():
            for slow, fast in zip(self.slow[0].parameters(), self.fast.parameters(), strict=True):
                slow.lerp_(fast, 0.1)
            rows = (self.place + torch.arange(len(keys))) % len(self.bank)
            self.bank[rows] = keys
            self.place = (self.place + len(keys)) % len(self.bank)
        return self.head(self.dropout(x + (self.fast(x) @ self.bank.clone().T).softmax(1).mean()))


class Checkpointed(Classifier):
    """Computes its features again in the backward pass."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.reentrant, self.recomputed = reentrant, 0

    @override
    def forward(self, x: Tensor) -> Tensor:
        def features(x: Tensor) -> Tensor:
            self.recomputed += 1
            return self.dropout(self.features(x))

        x = self.stem(x)
        if not x.requires_grad:
            # Reentrant checkpoints give gradients to nothing else inside.
            x.requires_grad_(self.training)
        x = torch.utils.checkpoint.checkpoint(features, x, use_reentrant=self.reentrant)
        return self.head(F.adaptive_avg_pool2d(x, 3).flatten(1))


class Stochastic(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.depth = StochasticDepth(0.5, "row")
        self.branch = nn.Conv2d(6, 6, 3, padding=1)

    @override
    def forward(self, x: Tensor) -> Tensor:
        x = self.features(self.stem(x))
        x = F.adaptive_avg_pool2d(x + self.depth(self.branch(x)), 3)
        return self.head(self.dropout(x.flatten(1)))


def compiled() -> Any:
    torch._dynamo.reset()
    return torch.compile(Classifier(), dynamic=True, backend="aot_eager")


@dataclass(frozen=True)
class Way:
    make: Callable[[], Any] = Classifier
    fit: Fit = fit_once
    trainer: dict[str, Any] = field(default_factory=dict)
    made: int = 2


WAYS = {
    "GAN": Way(Adversarial),
    "memory bank": Way(MemoryBank),
    "checkpoints, reentrant": Way(lambda: Checkpointed(True)),
    "checkpoints": Way(lambda: Checkpointed(False)),
    "compiled, dynamic": Way(compiled),
    "stochastic depth": Way(Stochastic),
    "gradient clipping": Way(trainer={"gradient_clip_val": 0.1}),
    "sanity check of all": Way(trainer={"num_sanity_val_steps": -1}),
    "no sanity check": Way(trainer={"num_sanity_val_steps": 0}),
    "fit twice": Way(fit=fit_twice, made=4),
    "validate between fits": Way(fit=validate_between, made=3),
}


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True")
def test_ways_to_train(tmp_path: Path, name: str) -> None:
    way = WAYS[name]
    methods = [Gradient(), GradCAM("features"), RISE(num_masks=128)]
    found, callback = compared(way.make, tmp_path, methods, way.fit, **way.trainer)
    assert found == ""
    assert callback._budget.made >= way.made


# --- several at a time ------------------------------------------------------------------------


@pytest.fixture
def at_once() -> Iterator[Callable[[list[Callable[[], object]]], None]]:
    def run_all(runs: list[Callable[[], object]]) -> None:
        errors: list[BaseException] = []

        def work(one: Callable[[], object]) -> None:
            try:
                one()
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(one,)) for one in runs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert errors == []

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield run_all


def test_trainers_in_threads(tmp_path: Path, at_once: Any) -> None:
    original = torch.utils.checkpoint.CheckpointFunction
    stance = torch._dynamo.eval_frame._stance.stance
    callbacks = [SaliencyCallback(Gradient(), samples=2, on_error="raise") for _ in range(3)]

    def train(number: int) -> Callable[[], object]:
        return lambda: run(
            Checkpointed(number == 1),
            tmp_path / str(number),
            [callbacks[number]],
            max_epochs=1 + number,
        )

    at_once([train(number) for number in range(3)])
    assert torch.utils.checkpoint.CheckpointFunction is original
    assert torch._dynamo.eval_frame._stance.stance == stance
    assert [callback._budget.made for callback in callbacks] == [1, 2, 3]
