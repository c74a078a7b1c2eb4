"""Methods that work find the digits; the centre does not."""

import logging
from pathlib import Path

import lightning.pytorch as pl
import pytest

from lightning_saliency.benchmark import DigitsPointing, load_pointing_model
from lightning_saliency.evaluation import run_pointing_game

logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)


@pytest.mark.parametrize(
    ("methods", "pictures"),
    [
        (("grad_cam", "contrastive_excitation_backprop"), 40),
        pytest.param(("rise", "extremal_perturbation"), 10, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("digits", [1, 2])
def test_far_above_the_centre_on_digits_that_are_off_it(
    tmp_path: Path, methods: tuple[str, ...], pictures: int, digits: int
) -> None:
    data = DigitsPointing(pictures, digits, off_center=True)
    model = load_pointing_model("example", data.name, 10)
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    report = run_pointing_game(
        ["center", *methods], model, data, tmp_path / "results.sqlite", trainer
    )
    centre, *others = (row.accuracy for row in report.scores)
    assert centre == 0
    assert min(others) > centre + 0.3
