"""The command ``lightning-saliency benchmark``, used as by a newcomer."""

import csv
import logging
import sys
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread
from quiet import QUIET
from small_datasets import write_picture, write_voc

import lightning_saliency.cli.benchmark as command
from lightning_saliency.cli import main

pytestmark = QUIET

MINE = """
import torch

class Mine(torch.nn.Module):
    def __init__(self, classes=20):
        super().__init__()
        torch.manual_seed(0)
        self.features = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, stride=4), torch.nn.ReLU())
        self.head = torch.nn.Linear(8, classes)

    def forward(self, image):
        return self.head(self.features(image).mean((2, 3)))

def wrong():
    return Mine(1000)

def nothing():
    return None
"""


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    (tmp_path / "mine.py").write_text(MINE)
    level = logging.getLogger("lightning.pytorch").level
    yield
    logging.getLogger("lightning.pytorch").setLevel(level)
    sys.modules.pop("mine", None)


def run(*arguments: str) -> int:
    return main(["benchmark", "--accelerator", "cpu", *arguments])


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run what cannot be done; return what is said about it."""
    try:
        code = run(*arguments)
    except SystemExit as stop:
        code = int(str(stop.code))
    assert code == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said


def test_the_table_in_all_its_forms(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    methods = ("center", "grad_cam", "contrastive_excitation_backprop")
    assert run("--method", *methods, "--data", "digits", "--limit", "6", "--batch-size", "4") == 0
    said = capsys.readouterr().out
    folder = tmp_path / "pointing_game" / "digits_2_example"
    table = (folder / "table.md").read_text()
    assert table in said
    assert "Written to pointing_game/digits_2_example" in said
    with (folder / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows] == list(methods)
    for row in rows:
        percent = f"{100 * float(row['accuracy']):.1f}"
        assert any(row["method"] in line and percent in line for line in table.splitlines())
        assert (row["pictures"], row["games"], row["skipped"]) == ("6", "12", "0")
    assert imread(folder / "table.png").shape[2] == 4
    # More pictures: the six are there already.
    assert run("--method", "grad_cam", "--data", "digits", "--limit", "7") == 0
    assert "7 |    14 |" in capsys.readouterr().out


def test_a_model_of_ones_own_on_voc(capsys: pytest.CaptureFixture[str]) -> None:
    write_voc(Path("data"), 5)
    voc = ("--data", "voc", "--root", "data", "--model", "mine:Mine", "--side", "64")
    assert run("--method", "center", "gradient", *voc, "--output", "here") == 0
    said = capsys.readouterr().out
    assert "published all" not in said
    assert "classes do not occur and count as 0" in said
    assert Path("here/results.sqlite").is_file()


def test_typos(capsys: pytest.CaptureFixture[str]) -> None:
    digits = ("--data", "digits")
    assert "Did you mean 'grad_cam'? Methods: center" in fails(
        capsys, "--method", "gradcam", *digits
    )
    assert "invalid choice: 'vox'" in fails(capsys, "--method", "rise", "--data", "vox")
    assert "required: --method" in fails(capsys, *digits)
    assert "required: --data" in fails(capsys, "--method", "all")
    assert "Did you mean 'vgg16'?" in fails(capsys, "--method", "rise", "--model", "vg16", *digits)
    assert "a number of 1 or more, got '0'" in fails(
        capsys, "--method", "rise", *digits, "--limit", "0"
    )
    assert "number above 0, or auto, got two" in fails(
        capsys, "--method", "rise", *digits, "--devices", "two"
    )
    assert "Expected devices that are there" in fails(
        capsys, "--method", "rise", *digits, "--accelerator", "abacus"
    )
    assert "0 pixels or more, got -1" in fails(
        capsys, "--method", "rise", *digits, "--tolerance", "-1"
    )


def test_wrong_folders_and_files(capsys: pytest.CaptureFixture[str]) -> None:
    voc = ("--method", "center", "--data", "voc")
    assert "Expected --root, the folder of VOC" in fails(capsys, *voc)
    assert "there is no such folder" in fails(capsys, *voc, "--root", "nowhere")
    assert "that is not there" in fails(capsys, *voc, "--root", ".")
    write_voc(Path("data"), 3)
    voc = (*voc, "--root", "data")
    assert "nothing.pt is not there" in fails(capsys, *voc, "--weights", "nothing.pt")
    assert "val.txt" in fails(capsys, *voc, "--split", "val")
    assert "for VOC and COCO only" in fails(
        capsys, "--method", "rise", "--model", "vgg16", "--data", "digits"
    )
    Path("file").write_text("")
    assert "cannot be made" in fails(
        capsys, "--method", "center", "--data", "digits", "--output", "file/there"
    )


def test_models_of_ones_own(capsys: pytest.CaptureFixture[str]) -> None:
    write_voc(Path("data"), 3)
    voc = ("--method", "gradient", "--data", "voc", "--root", "data", "--model")
    assert "No module named 'yours'" in fails(capsys, *voc, "yours:make")
    assert "has no attribute 'make'" in fails(capsys, *voc, "mine:make")
    assert "a torch.nn.Module, got NoneType" in fails(capsys, *voc, "mine:nothing")
    assert "20 classes of voc_2007_test" in fails(capsys, *voc, "mine:wrong")


def test_skipped_pictures_are_listed_and_counted(capsys: pytest.CaptureFixture[str]) -> None:
    names = write_voc(Path("data"), 20, sizes=[(40, 30)])
    pictures = Path("data/VOCdevkit/VOC2007/JPEGImages")
    for name in names[4:7]:
        (pictures / f"{name}.jpg").write_bytes(b"\xff\xd8\xff half of a picture")
    voc = ("--method", "center", "--data", "voc", "--root", "data", "--model", "mine:Mine")
    assert run(*voc, "--workers", "0", "--output", "here") == 1
    said = capsys.readouterr()
    assert "pictures were skipped" in said.err
    listed = Path("here/skipped.txt").read_text()
    assert f"{names[5]}: it cannot be read: cannot identify image file" in listed
    assert run(*voc, "--workers", "0", "--output", "here", "--allow-skipped") == 0
    # Repaired, nothing is skipped any more.
    for seed, name in enumerate(names[4:7]):
        write_picture(pictures / f"{name}.jpg", (40, 30), seed)
    assert run(*voc, "--workers", "0", "--output", "here") == 0
    assert not Path("here/skipped.txt").exists()
    (pictures / f"{names[8]}.jpg").unlink()
    assert "1 cannot be used" in fails(capsys, *voc, "--output", "new")


def test_results_of_other_settings(capsys: pytest.CaptureFixture[str]) -> None:
    digits = ("--method", "center", "--data", "digits", "--limit", "3")
    assert run(*digits) == 0
    said = fails(capsys, *digits, "--tolerance", "9")
    assert "tolerance = '4', and now it is '9'. Name another file" in said
    assert run(*digits) == 0


def test_ctrl_c(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        # What Lightning does when it is interrupted.
        raise SystemExit(1)

    monkeypatch.setattr(command, "run_pointing_game", interrupted)
    assert run("--method", "center", "--data", "digits") == 130
    assert "the same command resumes from there" in capsys.readouterr().err


def test_help_says_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["benchmark", "--help"])
    assert stop.value.code == 0
    said = capsys.readouterr().out
    for word in ("contrastive_excitation_backprop", "--devices", "exit code", "example"):
        assert word in said
    with pytest.raises(SystemExit):
        main([])
    assert "COMMAND" in capsys.readouterr().err
