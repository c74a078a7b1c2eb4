"""With a callback, training is the same as without, to the last bit."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from contract import CHEAP, METHODS, make_method
from quiet import QUIET, SEVERAL_PROCESSES
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from typing_extensions import override
from untouched import CLASSES, SIZE, Record, Setting, first_difference, train

import lightning_saliency
from lightning_saliency import callbacks
from lightning_saliency.attribution import AttributionMethod
from lightning_saliency.metrics import FAITHFULNESS
from lightning_saliency.trust import TrustChecks

pytestmark = [
    *QUIET,
    *SEVERAL_PROCESSES,
    # Excitation backprop says so of networks with units that nothing excites, such as this one.
    pytest.mark.filterwarnings("ignore:Expected excitation maps that sum to 1"),
]

HOOKS = ("on_validation_epoch_end", "on_train_epoch_end")
# Eight batches and three to accumulate: a validation run in the middle of an epoch comes between
# two optimizer steps, when parts of a gradient are already there.
HARDEST = Setting(precision="bf16-mixed", val_check_interval=0.5)
# The first epoch ends without a validation run.
SELDOM = Setting(check_val_every_n_epoch=2)
WORKERS = Setting(val_check_interval=0.5, num_workers=1)
SETTINGS = [Setting(), Setting(val_check_interval=0.5), HARDEST, SELDOM]
every_setting = pytest.mark.parametrize("setting", SETTINGS, ids=str)


@pytest.fixture(scope="session")
def undisturbed_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Setting], Record]:
    """Return the record of the run without a callback; made once for each setting."""

    @lru_cache
    def run(setting: Setting) -> Record:
        return train(tmp_path_factory.mktemp("plain"), setting)

    return run


Plain = Callable[[Setting], Record]


def test_the_run_repeats_itself(undisturbed_run: Plain, tmp_path: Path) -> None:
    record = undisturbed_run(HARDEST)
    assert len(record) == 17
    assert first_difference(record, train(tmp_path, HARDEST)) == ""


# --- the methods, called from the hooks -------------------------------------------------------


def samples() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(9)
    return torch.rand(3, 3, *SIZE, generator=generator), torch.tensor([0, 1, CLASSES - 1])


class Explainer(pl.Callback):
    """Calls a method from a hook, as simply as a user would."""

    def __init__(self, method: AttributionMethod, hook: str) -> None:
        self.method = method
        self.hook = hook
        self.maps: list[Tensor] = []

    def explain(self, module: pl.LightningModule) -> None:
        images, labels = samples()
        self.maps.append(self.method(module, images, labels))

    @override
    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.hook == "on_validation_epoch_end":
            self.explain(pl_module)

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.hook == "on_train_epoch_end":
            self.explain(pl_module)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("hook", HOOKS)
def test_methods(undisturbed_run: Plain, tmp_path: Path, name: str, hook: str) -> None:
    explainer = Explainer(make_method(name), hook)
    record = train(tmp_path, HARDEST, [explainer])
    assert first_difference(undisturbed_run(HARDEST), record) == ""
    # Two validation runs in each of two epochs, and the sanity check.
    assert len(explainer.maps) == (5 if hook == "on_validation_epoch_end" else 2)
    assert not torch.equal(explainer.maps[0], explainer.maps[-1])


@every_setting
@pytest.mark.parametrize("hook", HOOKS)
def test_settings(undisturbed_run: Plain, tmp_path: Path, setting: Setting, hook: str) -> None:
    record = train(tmp_path, setting, [Explainer(make_method("GradCAM"), hook)])
    assert first_difference(undisturbed_run(setting), record) == ""


class Failing(Explainer):
    """Asks for a class that the model does not have, and goes on."""

    @override
    def explain(self, module: pl.LightningModule) -> None:
        with pytest.raises(ValueError, match="from 0 to 3"):
            self.method(module, samples()[0], CLASSES)


@pytest.mark.parametrize("name", METHODS)
def test_after_an_error(undisturbed_run: Plain, tmp_path: Path, name: str) -> None:
    failing = [Failing(make_method(name), hook) for hook in HOOKS]
    record = train(tmp_path, HARDEST, failing)
    assert first_difference(undisturbed_run(HARDEST), record) == ""


class FailingInTheModel(Explainer):
    """Explains a model that raises in the middle of the pass, and goes on."""

    @override
    def explain(self, module: pl.LightningModule) -> None:
        module.breaks_when_explained = True
        with pytest.raises(ArithmeticError, match="in the model"):
            self.method(module, *samples())


@pytest.mark.parametrize("name", METHODS)
def test_after_an_exception_inside_the_model(
    undisturbed_run: Plain, tmp_path: Path, name: str
) -> None:
    failing = [FailingInTheModel(make_method(name), hook) for hook in HOOKS]
    record = train(tmp_path, HARDEST, failing)
    assert first_difference(undisturbed_run(HARDEST), record) == ""


# --- the callbacks ----------------------------------------------------------------------------

NAMED = [name for name in callbacks.__all__ if name.removesuffix("Callback") in METHODS]


def make_callback(name: str, **settings: Any) -> pl.Callback:
    cheap = CHEAP.get(name.removesuffix("Callback"), {})
    return getattr(lightning_saliency, name)(**{"samples": 3, **cheap, **settings})


def explanations(folder: Path, name: str) -> int:
    """Return how often the first sample was explained, by what TensorBoard finds."""
    events = EventAccumulator(str(folder), size_guidance={"images": 0}).Reload()
    tag = f"saliency/samples/{METHODS[name.removesuffix('Callback')].name}/0"
    return len(events.Images(tag)) if tag in events.Tags()["images"] else 0


@pytest.mark.parametrize("name", NAMED)
def test_named_callbacks(undisturbed_run: Plain, tmp_path: Path, name: str) -> None:
    record = train(tmp_path, HARDEST, [make_callback(name)])
    assert first_difference(undisturbed_run(HARDEST), record) == ""
    # Two validation runs in each of two epochs.
    assert explanations(next(tmp_path.iterdir()), name) == 4


@pytest.mark.parametrize("name", NAMED)
def test_named_callbacks_at_the_end_of_an_epoch_without_validation(
    undisturbed_run: Plain, tmp_path: Path, name: str
) -> None:
    record = train(tmp_path, SELDOM, [make_callback(name, samples=samples())])
    assert first_difference(undisturbed_run(SELDOM), record) == ""
    # One explanation at the end of the first epoch, one after the validation run of the second.
    assert explanations(next(tmp_path.iterdir()), name) == 2


@pytest.mark.filterwarnings("ignore::lightning_saliency.errors.SaliencyWarning")
def test_an_alarm_beside_a_callback(undisturbed_run: Plain, tmp_path: Path) -> None:
    alarm = lightning_saliency.DriftAlarm(warmup=0, limit=1e-6)
    record = train(tmp_path, HARDEST, [make_callback("GradientCallback"), alarm])
    assert first_difference(undisturbed_run(HARDEST), record) == ""


class Breaks(pl.Callback):
    """From the first training step on, explaining the model raises inside the model."""

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        pl_module.breaks_when_explained = True


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.filterwarnings("ignore:.*in the model")
def test_named_callbacks_after_an_exception_inside_the_model(
    undisturbed_run: Plain, tmp_path: Path, name: str
) -> None:
    record = train(tmp_path, HARDEST, [make_callback(name), Breaks()])
    assert first_difference(undisturbed_run(HARDEST), record) == ""
    assert explanations(next(tmp_path.iterdir()), name) == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("setting", [SETTINGS[0], SETTINGS[1], WORKERS], ids=str)
def test_named_callbacks_in_more_settings(
    undisturbed_run: Plain, tmp_path: Path, name: str, setting: Setting
) -> None:
    record = train(tmp_path, setting, [make_callback(name)])
    assert first_difference(undisturbed_run(setting), record) == ""


@every_setting
def test_one_callback_for_several_methods(
    undisturbed_run: Plain, tmp_path: Path, setting: Setting
) -> None:
    methods = [make_method("Gradient"), make_method("GradCAM")]
    callback = lightning_saliency.SaliencyCallback(
        methods, samples=[1, 5], target=("label", "predicted")
    )
    record = train(tmp_path, setting, [callback])
    assert first_difference(undisturbed_run(setting), record) == ""


@pytest.mark.parametrize(
    ("setting", "sanity_check"),
    [(HARDEST, 0), (SELDOM, True)],
    ids=["check in the first epoch", "check at the end"],
)
def test_signs_of_trust(
    undisturbed_run: Plain, tmp_path: Path, setting: Setting, sanity_check: bool | int
) -> None:
    checks = TrustChecks(tuple(FAITHFULNESS), every=2, sanity_check=sanity_check)
    methods = [make_method(name) for name in ("Gradient", "ExcitationBackprop", "RISE")]
    callback = lightning_saliency.SaliencyCallback(
        methods, samples=samples(), trust=checks, on_error="raise"
    )
    record = train(tmp_path, setting, [callback])
    assert first_difference(undisturbed_run(setting), record) == ""
    events = EventAccumulator(str(next(tmp_path.iterdir()))).Reload().Tags()
    assert "saliency/sanity/rise" in events["images"]
    assert "saliency_faithfulness/rise/road" in events["scalars"]


@pytest.mark.parametrize("samples", [3, [0, 6]], ids=["first", "by index"])
def test_worker_processes(undisturbed_run: Plain, tmp_path: Path, samples: Any) -> None:
    record = train(tmp_path, WORKERS, [make_callback("GradCAMCallback", samples=samples)])
    assert first_difference(undisturbed_run(WORKERS), record) == ""


def _careless(model: nn.Module, image: Tensor, target: Tensor) -> Tensor:
    """Does in a user's method most of what a method should not do."""
    torch.manual_seed(0), np.random.seed(0)
    model.train()
    model.requires_grad_(True)
    model.zero_grad()
    image.requires_grad_()
    model(image)[:, 0].sum().backward()
    model.register_forward_hook(lambda *_: None)
    return image.grad.abs().amax(1, keepdim=True)


def test_careless_method_of_a_user(undisturbed_run: Plain, tmp_path: Path) -> None:
    callback = lightning_saliency.SaliencyCallback(_careless, samples=3, on_error="raise")
    record = train(tmp_path, HARDEST, [callback])
    assert first_difference(undisturbed_run(HARDEST), record) == ""


def _broken(model: nn.Module, image: Tensor, target: Tensor) -> Tensor:
    torch.rand(3)
    model(image)
    raise ArithmeticError("a user's mistake")


@pytest.mark.filterwarnings("ignore:.*a user's mistake")
def test_broken_method_of_a_user(undisturbed_run: Plain, tmp_path: Path) -> None:
    callback = lightning_saliency.SaliencyCallback(_broken, samples=3)
    record = train(tmp_path, HARDEST, [callback])
    assert first_difference(undisturbed_run(HARDEST), record) == ""


# --- the test can fail ------------------------------------------------------------------------


class Naive(pl.Callback):
    """Does one thing that disturbs training, at both hooks."""

    def __init__(self, act: Callable[[pl.Trainer, pl.LightningModule], object]) -> None:
        self.act = act

    @override
    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking:
            self.act(trainer, pl_module)

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.act(trainer, pl_module)


def _eval(trainer: pl.Trainer, module: pl.LightningModule) -> None:
    module.eval()


def _eval_and_train(trainer: pl.Trainer, module: pl.LightningModule) -> None:
    module.eval()
    module.train()


def _forward_in_train_mode(trainer: pl.Trainer, module: pl.LightningModule) -> None:
    module(samples()[0])


def _backward(trainer: pl.Trainer, module: pl.LightningModule) -> None:
    with torch.enable_grad():
        module(samples()[0])[:, 0].sum().backward()


def _zero_grad(trainer: pl.Trainer, module: pl.LightningModule) -> None:
    module.zero_grad()


def _draw_from_torch(trainer: pl.Trainer, module: pl.LightningModule) -> None:
    torch.rand(1)


def _draw_from_numpy(trainer: pl.Trainer, module: pl.LightningModule) -> None:
    np.random.rand()


def _iterate_the_loader(trainer: pl.Trainer, module: pl.LightningModule) -> None:
    next(iter(trainer.val_dataloaders))


def _leave_a_hook(trainer: pl.Trainer, module: pl.LightningModule) -> None:
    module.features.register_forward_hook(lambda *_: None)


def _freeze_and_unfreeze(trainer: pl.Trainer, module: pl.LightningModule) -> None:
    module.requires_grad_(False)
    module.requires_grad_(True)


def _write_to_a_weight(trainer: pl.Trainer, module: pl.LightningModule) -> None:
    with torch.no_grad():
        module.head.bias[0] = module.head.bias[0].nextafter(torch.tensor(torch.inf))


NAIVE: dict[str, tuple[Callable[[pl.Trainer, pl.LightningModule], object], str]] = {
    "eval() without a way back": (_eval, "training flag of ''"),
    "eval() and train()": (_eval_and_train, "training flag of 'stem.1'"),
    "a forward pass in train mode": (_forward_in_train_mode, "running_mean"),
    "backward()": (_backward, "gradient of 'head.weight'"),
    "zero_grad()": (_zero_grad, "gradient of 'head.weight'"),
    "a draw from torch": (_draw_from_torch, "random stream of torch"),
    "a draw from NumPy": (_draw_from_numpy, "random stream of numpy"),
    "a look into the validation loader": (_iterate_the_loader, "random stream of torch"),
    "a hook left behind": (_leave_a_hook, "_forward_hooks of 'features'"),
    "freezing and unfreezing": (_freeze_and_unfreeze, "requires_grad of 'stem.0.weight'"),
    "one bit of one weight": (_write_to_a_weight, "parameter 'head.bias'"),
}


@pytest.mark.parametrize("case", NAIVE)
def test_what_a_naive_callback_does_is_seen(
    undisturbed_run: Plain, tmp_path: Path, case: str
) -> None:
    act, seen = NAIVE[case]
    setting = Setting(val_check_interval=0.5)
    difference = first_difference(undisturbed_run(setting), train(tmp_path, setting, [Naive(act)]))
    assert seen in difference
