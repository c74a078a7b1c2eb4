"""What the command does after a run: replay, bisect, report, compare, export."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint

sys.path.insert(0, str(Path(__file__).parents[1] / "callbacks"))

from small_runs import QUIET, make_trainer

from lightning_saliency import SaliencyCallback, load_maps
from lightning_saliency.attribution import GradCAM, Gradient
from lightning_saliency.cli import main

pytestmark = [
    *QUIET,
    pytest.mark.filterwarnings("ignore:No seed found, seed set to 0"),
    pytest.mark.filterwarnings("ignore:LightningCLI's args parameter is intended"),
]

MINE = """
import lightning.pytorch as pl
from small_runs import TinyModule, train_loader, val_loader

class Mine(TinyModule):
    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.save_hyperparameters()

class Digits(pl.LightningDataModule):
    def train_dataloader(self):
        return train_loader()
    def val_dataloader(self):
        return val_loader()
"""
CPU = ["--accelerator", "cpu"]


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A run of four epochs in the current folder, with checkpoints and maps; its module."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mine_after_run", raising=False)
    Path("mine_after_run.py").write_text(MINE)
    import mine_after_run  # type: ignore[import-not-found]

    torch.manual_seed(0)
    trainer = make_trainer(
        Path("live"),
        SaliencyCallback([Gradient(), GradCAM()], samples=3, save_maps=True),
        ModelCheckpoint("ckpt", filename="{epoch}", save_top_k=-1),
        max_epochs=4,
        enable_checkpointing=True,
    )
    trainer.fit(mine_after_run.Mine(5), datamodule=mine_after_run.Digits())
    return mine_after_run


def equal(one: str, other: str) -> bool:
    pairs = [
        [load_maps(each, series).maps for each in (one, other)]
        for series in ("gradient", "grad_cam")
    ]
    return all(torch.equal(*pair) for pair in pairs)


def test_by_names(mine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["--module", "mine_after_run:Mine", "--data", "mine_after_run:Digits"]
    how = ["--method", "gradient", "grad_cam", "--samples", "3", *CPU]
    assert main(["replay", "ckpt", *names, *how, "--output", "out"]) == 0
    assert "4 checkpoints explained; see out." in capsys.readouterr().out
    assert equal("live", "out")

    how = ["--method", "gradient", "--samples", "3", "--below", "-1", *CPU]
    assert main(["bisect", "ckpt", *names, *how]) == 0
    said = capsys.readouterr().out
    assert "No change: at no checkpoint" in said
    assert "2 explanations of 4 checkpoints" in said


def test_by_a_file_of_lightning_cli(mine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    method = [
        {"class_path": f"lightning_saliency.attribution.{n}"} for n in ("Gradient", "GradCAM")
    ]
    ours = {
        "class_path": "lightning_saliency.SaliencyCallback",
        "init_args": {"method": method, "samples": 3, "save_maps": True},
    }
    settings = {
        "seed_everything": 0,
        "model": {"class_path": "mine_after_run.Mine", "init_args": {"width": 5}},
        "data": {"class_path": "mine_after_run.Digits"},
        "trainer": {"max_epochs": 4, "accelerator": "cpu", "callbacks": [ours], "logger": False},
        "ckpt_path": None,
    }
    Path("config.yaml").write_text(yaml.safe_dump(settings))
    assert main(["replay", "ckpt", "--config", "config.yaml", "--output", "out", *CPU]) == 0
    assert equal("live", "out")


def test_compare_and_export(mine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "live", "live", "--series", "gradient", "--figure", "a.png"]) == 0
    assert "gradient: " in capsys.readouterr().out
    assert Path("a.png").stat().st_size > 1000
    assert main(["compare", "live", "live", "--series", "gradient", "--figure", "a.png"]) == 2
    assert "but a.png exists" in capsys.readouterr().err
    assert main(["compare", "live", "live", "--series", "gradient", "--html", "a.html"]) == 0
    assert "Page: a.html" in capsys.readouterr().out
    assert Path("a.json").exists()
    assert main(["compare", "live", "live", "--series", "gradient", "--html", "a.html"]) == 2
    assert "but a.html exists" in capsys.readouterr().err
    assert main(["export", "live", "--forms", "numpy", "gif"]) == 0
    assert {each.name for each in Path("export").iterdir()} == {
        *("gradient.npz", "gradient.gif", "grad_cam.npz", "grad_cam.gif")
    }
    assert main(["export", "live", "--forms", "gif"]) == 2


def test_report(mine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "live", "--title", "mine & yours"]) == 0
    assert "Report: live/saliency_report.html" in capsys.readouterr().out
    assert "mine &amp; yours" in Path("live/saliency_report.html").read_text()
    assert main(["report", "live"]) == 2
    assert "saliency_report.html exists" in capsys.readouterr().err
    assert main(["report", "live", "--output", "deep/page.html"]) == 0
    assert Path("deep/page.json").exists()


BAD = [
    (["replay", "ckpt"], "Expected --module, such as mine:Classifier, or --config"),
    (["replay", "none", "--module", "mine_after_run:Mine"], "there is no such file"),
    (["replay", "ckpt", "--module", "mine_after_run:Digits"], "to be a LightningModule"),
    (["replay", "ckpt", "--module", "nowhere:X"], "a class that can be imported"),
    (["replay", "ckpt", "--module", "mine_after_run:Mine"], "Expected validation data"),
    (
        ["replay", "ckpt", "--module", "mine_after_run:Mine", "--method", "grad_kam"],
        "Did you mean 'grad_cam'?",
    ),
    (["replay", "ckpt", "--config", "mine_after_run.py"], "to be a YAML file"),
    (["bisect", "ckpt", "--module", "mine_after_run:Mine"], "above or below, one of them"),
    (["report", "ckpt"], "Expected a folder 'saliency_maps' in ckpt"),
    (["report", "live", "--output", "a.txt"], "output as a file such as saliency_report.html"),
    (["compare", "live", "ckpt"], "Expected a folder 'saliency_maps' in ckpt"),
]


def test_bad_input_is_one_line(mine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, said in BAD:
        machine = CPU if arguments[0] in ("replay", "bisect") else []
        assert main([*arguments, *machine]) == 2, arguments
        error = capsys.readouterr().err
        assert said in error
        assert "Traceback" not in error
    assert not Path("replay").exists()
