"""Weights that are replaced by random ones in the middle of a run: every method's drift jumps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from contract import METHODS
from small_runs import QUIET, TinyModule, events, make_trainer, train_loader, val_loader

from lightning_saliency import SaliencyCallback
from lightning_saliency.metrics import drift_amount

pytestmark = QUIET

WHEN = 3
CHEAP: dict[str, dict[str, Any]] = {
    "RISE": {"num_masks": 256},
    "ExtremalPerturbation": {"max_iter": 15, "areas": (0.1, 0.3)},
}
# Not log2_norm_ratio, which is no measure of drift: masks of a given area always have one norm.
MEASURES = ("top10_iou", "spearman", "ssim", "center_shift")


class Replaced(TinyModule):
    """Learns slowly; in one epoch all its weights are replaced by random ones."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-4)

    def on_train_epoch_start(self) -> None:
        for module in self.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 0.01
        if self.current_epoch == WHEN:
            torch.manual_seed(99)
            for module in self.modules():
                reset: Any = getattr(module, "reset_parameters", None)
                if reset is not None:
                    reset()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.filterwarnings("ignore:Expected excitation maps that sum to 1")
def test_every_measure_jumps_when_the_weights_are_replaced(method: str, tmp_path: Path) -> None:
    entry = METHODS[method](**CHEAP.get(method, {}))
    callback = SaliencyCallback(entry, samples=6, noise_every=None, on_error="raise", log="full")
    torch.manual_seed(0)
    trainer = make_trainer(tmp_path, callback, max_epochs=WHEN + 2)
    trainer.fit(Replaced(), train_loader(), val_loader())
    found = events(tmp_path)
    for measure in MEASURES:
        amounts = {
            reference: [
                drift_amount(measure, event.value)
                for event in found.Scalars(
                    f"saliency_similarity/{entry.name}/{reference}/{measure}"
                )
            ]
            for reference in ("previous", "pinned")
        }
        # The first explanation has nothing to be compared with.
        before, jump, *after = (amounts["previous"][: WHEN - 1], *amounts["previous"][WHEN - 1 :])
        assert jump > 1.5 * max(before + after) + 1e-3, measure
        # The pinned explanation is of other weights ever after.
        assert min(amounts["pinned"][WHEN - 1 :]) > max(amounts["pinned"][: WHEN - 1]), measure
    relative = found.Scalars(f"saliency_drift_relative/{entry.name}/previous/top10_iou")
    assert relative[WHEN - 1].value > 0.7
