"""The command ``lightning-saliency benchmark --data tetrominoes``."""

import csv
from pathlib import Path
from typing import Any

import pytest

import lightning_saliency.benchmark.tetromino_scores as scores
from lightning_saliency.benchmark.tetrominoes import (
    TetrominoNetwork,
    TetrominoNoise,
    TetrominoTask,
    TrainedTetrominoes,
    make_tetrominoes,
)
from lightning_saliency.cli import main

TASKS = ("linear", "multiplicative", "translated", "xor")


@pytest.fixture(autouse=True)
def _without_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def untrained(task: TetrominoTask, noise: TetrominoNoise, seed: int) -> TrainedTetrominoes:
        data = make_tetrominoes(task, noise, 200, seed)
        return TrainedTetrominoes(TetrominoNetwork().eval(), data, 0.5)

    monkeypatch.setattr(scores, "train_on_tetrominoes", untrained)
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> int:
    return main(["benchmark", "--data", "tetrominoes", *arguments])


def test_the_table_in_both_forms(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--method", "gradient", "grad_cam", "gradient", "--limit", "4", "--seeds", "2") == 0
    said = capsys.readouterr().out
    folder = tmp_path / "pointing_game" / "tetrominoes"
    assert (folder / "table.md").read_text() in said
    assert "xor, correlated, seed 1: the network is right for 50.0%" in said
    assert "Written to pointing_game/tetrominoes" in said
    with (folder / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    # The baselines come by themselves, and nothing twice.
    assert list(dict.fromkeys(row["method"] for row in rows)) == [
        *("random", "input", "gradient", "grad_cam"),
    ]
    assert len(rows) == 4 * len(TASKS) * 2 * 2
    assert {(row["task"], row["noise"]) for row in rows} == {
        (task, noise) for task in TASKS for noise in ("white", "correlated")
    }


@pytest.mark.slow
def test_defaults_are_three_seeds_of_a_hundred_pictures(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[int] = []

    def counted(model: Any, images: Any, classes: Any) -> Any:
        seen.append(len(images))
        return images

    monkeypatch.setattr(scores, "_picture", counted)
    assert run("--method", "gradient", "--output", str(tmp_path / "out")) == 0
    assert seen == [100] * 3 * 8
    assert (tmp_path / "out" / "table.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["--method", "center"], "Expected a method that makes maps, got center"),
        (["--method", "rise", "--model", "vgg16", "--root", "."], "Expected no --root, --model"),
        (["--method", "rise", "--excitation-layer", "conv"], "Expected no --excitation-layer"),
        (["--method", "rise", "--preset", "torchray"], "Expected no --preset"),
    ],
)
def test_arguments_that_do_not_apply(
    capsys: pytest.CaptureFixture[str], arguments: list[str], wanted: str
) -> None:
    assert run(*arguments) == 2
    said = capsys.readouterr().err
    assert wanted in said
    assert "Traceback" not in said


def test_nothing_else_has_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--data", "digits", "--method", "rise", "--seeds", "3"]
    assert main(["benchmark", *arguments]) == 2
    assert "Expected --seeds with --data tetrominoes alone" in capsys.readouterr().err
