"""A run that was saved by an earlier version of the package resumes as it did there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from small_runs import QUIET, fit

from lightning_saliency import DriftAlarm, RISECallback, SaliencyCallback
from lightning_saliency.attribution import GradCAM, Gradient
from lightning_saliency.errors import SaliencyWarning

pytestmark = [
    *QUIET,
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
]

DATA = Path(__file__).with_name("data")


# Lightning says so where it is older than the one that wrote the checkpoint.
@pytest.mark.filterwarnings("ignore:The loaded checkpoint was produced with Lightning")
@pytest.mark.parametrize("version", ["0.1.0"])
def test_it_resumes_with_its_references(version: str, tmp_path: Path) -> None:
    """The checkpoint is of two epochs; the numbers are of the third, as that version gave them."""
    checkpoint = DATA / f"version_{version}.ckpt"
    callbacks = [
        SaliencyCallback([Gradient(), GradCAM("net.features")], samples=3, on_error="raise"),
        RISECallback(num_masks=16, samples=[4, 1], name="second", noise_every=None),
        DriftAlarm(monitor="saliency_drift/*"),
    ]
    with pytest.warns(SaliencyWarning, match="the filmstrips .*painted pictures"):
        trainer = fit(tmp_path, *callbacks, ckpt_path=checkpoint, max_epochs=3)
    wanted = json.loads((DATA / f"version_{version}.json").read_text())
    # That version gave scores of 0 before there was enough to judge by.
    wanted = {tag: value for tag, value in wanted.items() if "saliency_alarm/" not in tag}
    metrics = trainer.callback_metrics
    found = {tag: float(metrics[tag]) for tag in wanted if tag in metrics}
    # The weights of the third epoch depend a little on the machine and the version of torch.
    assert found == pytest.approx(wanted, abs=0.1, nan_ok=True)
    assert found["saliency_drift/gradient/previous/spearman"] < 0.999
    keys = torch.load(checkpoint, weights_only=False)["callbacks"]
    assert {callback.state_key for callback in callbacks} <= keys.keys()
