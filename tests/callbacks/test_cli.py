"""The callbacks from a file, by LightningCLI."""

from __future__ import annotations

import pickle
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from contract import CHEAP, METHODS
from lightning.pytorch.cli import LightningCLI
from quiet import several_processes
from small_runs import QUIET, TinyModule, dataset, events, fit
from torch import Tensor, nn
from torch.utils.data import DataLoader

import lightning_saliency
from lightning_saliency import DriftAlarm, SaliencyCallback, callbacks
from lightning_saliency.attribution import GradCAM, Gradient

pytestmark = [
    *QUIET,
    pytest.mark.filterwarnings("ignore:No seed found, seed set to 0"),
    pytest.mark.filterwarnings("ignore:LightningCLI's args parameter is intended"),
    pytest.mark.filterwarnings("ignore:The `srun` command is available"),
]


NAMED = [name for name in callbacks.__all__ if name.removesuffix("Callback") in METHODS]
EXAMPLES = Path(__file__).parents[2] / "examples"

# Each setting that all callbacks have, not at its default.
SHARED: dict[str, Any] = {
    "samples": [3, 1],
    "dataloader_idx": 0,
    "target": ["label", 2],
    "every_n_epochs": 2,
    "unpack": f"{__name__}.unpack",
    "forward": f"{__name__}.forward",
    "mean": [0.5, 0.25, 0.5],
    "std": [1.0, 2.0, 1.0],
    "class_names": ["a", "b", "c", "d", "e"],
    "max_overhead": 0.25,
    "on_error": "raise",
    "name": "mine",
}
METHOD = "lightning_saliency.attribution."
# As a list, as one, in the short form, and as a function of the user's.
SEVERAL = [
    {"class_path": METHOD + "GradCAM", "init_args": {"saliency_layer": "net.features.3"}},
    {"class_path": METHOD + "RISE", "init_args": {"num_masks": 16, "seed": 3}},
    {
        "class_path": METHOD + "ExtremalPerturbation",
        "init_args": {"areas": [0.1, 0.2], "reward_func": "contrastive", "sigma": 2.5},
    },
]
GENERIC: dict[str, Any] = {
    "a list": SEVERAL,
    "one": SEVERAL[0],
    "by its name": "GradCAM",
    "names": ["GradCAM", "Gradient"],
    "a function": f"{__name__}.brightness",
    "a function among methods": [f"{__name__}.brightness", SEVERAL[1]],
}


def unpack(batch: Any) -> tuple[Tensor, Tensor | None]:
    return batch[0], batch[1]


def forward(module: Any, images: Tensor) -> Tensor:
    return module.net(images)


def brightness(model: nn.Module, image: Tensor, target: Any) -> Tensor:
    return image.abs().mean(1, keepdim=True)


class Module(TinyModule):
    """Has its data with it."""

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(dataset(8, seed=1), batch_size=4)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(dataset(8, seed=2), batch_size=4)


def write(folder: Path, *given: dict[str, Any], **trainer: Any) -> Path:
    path = folder / "config.yaml"
    settings = {"logger": False, "enable_checkpointing": False, **trainer}
    path.write_text(yaml.safe_dump({"trainer": {**settings, "callbacks": list(given)}}))
    return path


def read(path: Path, *more: str) -> LightningCLI:
    return LightningCLI(Module, run=False, args=["--config", str(path), *more])


def ours(cli: LightningCLI) -> SaliencyCallback:
    (found,) = [c for c in cli.trainer.callbacks if isinstance(c, SaliencyCallback)]
    return found


def settings_of(callback: SaliencyCallback) -> dict[str, Any]:
    """Return all that was set, to be compared."""
    explainer = callback._explainer
    return {
        "class": type(callback),
        "methods": explainer.methods,
        "choices": explainer.choices,
        "forward": explainer.forward,
        "prefix": callback._prefix,
        "unpack": callback._samples.unpack,
        "samples": (callback._samples.indices, callback._samples.count),
        "every_n_epochs": callback._every_n_epochs,
        "dataloader_idx": callback._collector._dataloader_idx,
        "share": callback._budget.share,
        "pictures": {key: vars(callback._pictures)[key] for key in ("mean", "std", "class_names")},
        "regions": repr(vars(callback._drift._regions)),
    }


def printed(path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit):
        read(path, "--print_config")
    return capsys.readouterr().out


@pytest.mark.parametrize("name", NAMED)
def test_named_callbacks_come_from_a_file_and_go_back_into_one(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"class_path": f"lightning_saliency.{name}", "init_args": SHARED}
    path = write(tmp_path, given)
    callback = ours(read(path))
    direct = getattr(lightning_saliency, name)(
        **{**SHARED, "target": ("label", 2), "unpack": unpack, "forward": forward}
    )
    assert settings_of(callback) == settings_of(direct)
    again = tmp_path / "again.yaml"
    again.write_text(printed(path, capsys))
    assert settings_of(ours(read(again))) == settings_of(callback)
    assert settings_of(pickle.loads(pickle.dumps(callback))) == settings_of(callback)


@pytest.mark.parametrize("form", GENERIC)
def test_methods_are_nested_and_go_back_into_a_file(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    init = {"method": GENERIC[form], "samples": 2}
    path = write(tmp_path, {"class_path": "lightning_saliency.SaliencyCallback", "init_args": init})
    callback = ours(read(path))
    wanted = {
        "a list": "grad_cam rise extremal_perturbation",
        "one": "grad_cam",
        "by its name": "grad_cam",
        "names": "grad_cam gradient",
        "a function": "brightness",
        "a function among methods": "brightness rise",
    }[form]
    assert " ".join(entry.name for entry in callback._explainer.methods) == wanted
    again = tmp_path / "again.yaml"
    again.write_text(printed(path, capsys))
    assert settings_of(ours(read(again))) == settings_of(callback)
    assert settings_of(pickle.loads(pickle.dumps(callback))) == settings_of(callback)


def test_the_settings_of_nested_methods_arrive(tmp_path: Path) -> None:
    init = {"method": SEVERAL}
    path = write(tmp_path, {"class_path": "lightning_saliency.SaliencyCallback", "init_args": init})
    for entry, given in zip(ours(read(path))._explainer.methods, SEVERAL, strict=True):
        assert isinstance(entry.method, METHODS[given["class_path"].rpartition(".")[2]])
        for setting, value in given["init_args"].items():
            assert getattr(entry.method, setting) == (
                tuple(value) if isinstance(value, list) else value
            )


def alarm_settings(cli: LightningCLI) -> list[Any]:
    (alarm,) = [c for c in cli.trainer.callbacks if isinstance(c, DriftAlarm)]
    return [alarm._tags.patterns, vars(alarm._rules), alarm.stop, alarm.save_checkpoint]


@pytest.mark.parametrize(
    "monitor",
    ["saliency_drift/gradient/previous/ssim", ["saliency_region/gradient/border", "mine/a"], None],
    ids=["one", "two", "all"],
)
def test_an_alarm_comes_from_a_file_and_goes_back_into_one(
    monitor: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    init = {"monitor": monitor, "warmup": 2, "window": 6, "factor": 3.5, "agree": 1, "stop": True}
    if monitor is not None and not isinstance(monitor, str):
        init |= {"limit": 0.4, "save_checkpoint": "kept"}
    watched = {"class_path": "lightning_saliency.GradientCallback"}
    path = write(
        tmp_path, {"class_path": "lightning_saliency.DriftAlarm", "init_args": init}, watched
    )
    found = alarm_settings(read(path))
    direct = DriftAlarm(**init)
    assert found == [
        direct._tags.patterns,
        vars(direct._rules),
        direct.stop,
        direct.save_checkpoint,
    ]
    again = tmp_path / "again.yaml"
    again.write_text(printed(path, capsys))
    assert alarm_settings(read(again)) == found


@pytest.mark.parametrize(
    ("init", "says"),
    [
        ({"target": "labl"}, "Given value: labl"),
        ({"samples": "many"}, "Given value: many"),
        ({"saliency_lyer": "a"}, "saliency_lyer"),
        ({"every_n_epochs": 0}, "Expected every_n_epochs to be at least 1"),
    ],
    ids=str,
)
def test_a_wrong_setting_is_named(
    init: dict[str, Any], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"class_path": "lightning_saliency.GradCAMCallback", "init_args": init}
    with pytest.raises((SystemExit, ValueError)) as caught:
        read(write(tmp_path, given))
    assert says in capsys.readouterr().err + str(caught.value)


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Return a function that runs the example with more arguments, in a folder of the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(EXAMPLES))

    def run(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["cli.py", "fit", *arguments])
        runpy.run_path(str(EXAMPLES / "cli.py"), run_name="__main__")

    return run


@pytest.mark.filterwarnings("ignore:Nothing was explained")
def test_the_example_runs_and_saves_its_settings(
    example: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = yaml.safe_load((EXAMPLES / "cli.yaml").read_text())
    # For a moment instead of two minutes.
    settings["data"]["pictures"] = 64
    settings["trainer"]["callbacks"][1]["init_args"]["max_iter"] = 1
    settings["trainer"] |= {"max_epochs": 1, "limit_val_batches": 1, "accelerator": "cpu"}
    settings["trainer"] |= {"enable_progress_bar": False, "enable_model_summary": False}
    path = tmp_path / "short.yaml"
    path.write_text(yaml.safe_dump(settings))
    example("--config", str(path))
    saved = tmp_path / "runs/cli/version_0/config.yaml"
    assert "Unable to serialize" not in saved.read_text()
    (checkpoint,) = (tmp_path / "runs/cli/version_0/checkpoints").iterdir()
    assert checkpoint.name.startswith("epoch=0")
    capsys.readouterr()
    with pytest.raises(SystemExit):
        example("--config", str(saved), "--print_config")
    assert yaml.safe_load(capsys.readouterr().out) == yaml.safe_load(saved.read_text())


@pytest.mark.slow
@several_processes
def test_callbacks_go_to_spawned_processes(tmp_path: Path) -> None:
    methods = [Gradient(), GradCAM(), brightness]
    callback = SaliencyCallback(
        methods, samples=[3, 1], unpack=unpack, forward=forward, on_error="raise"
    )
    named = [
        getattr(lightning_saliency, name)(samples=2, name="named", **CHEAP.get(name[:-8], {}))
        for name in NAMED
    ]
    fit(tmp_path, callback, *named, max_epochs=1, strategy="ddp_spawn", devices=2)
    found = set(events(tmp_path).Tags()["images"])
    assert {f"saliency/samples/{name}/1" for name in ("gradient", "grad_cam", "brightness")} < found
    assert {f"named/saliency/samples/{METHODS[name[:-8]].name}/1" for name in NAMED} < found
