"""Maps are float32 in every precision, and can be compared across precisions."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from contract import make_method
from small_runs import QUIET, TinyModule, make_trainer, val_loader
from torch import Tensor

from lightning_saliency import SaliencyCallback

pytestmark = [
    *QUIET,
    pytest.mark.filterwarnings("ignore:You passed .Trainer.*precision='16-mixed'"),
]

METHODS = [
    *("Gradient", "GradCAM", "GuidedBackprop"),
    *("ExcitationBackprop", "RISE", "ExtremalPerturbation"),
]

# The largest norm of the difference from the maps of "32-true", as a share of their norm. With
# mixed precision the weights are float32, and explanations are made without autocast.
TOLERANCE = {"16-mixed": 0.0, "bf16-mixed": 0.0, "bf16-true": 0.1, "64-true": 1e-4}
# A search of masks ends elsewhere when its steps are rounded differently.
OF_SEARCH = {"bf16-true": 0.5, "64-true": 0.1}


class Hear(pl.Callback):
    def __init__(self) -> None:
        self.maps: dict[str, Tensor] = {}

    def on_explained(self, trainer: Any, pl_module: Any, source: Any, explained: Any) -> None:
        found = explained.explanations
        self.maps = {series: explanation.saliency for series, explanation in found.items()}


@lru_cache
def maps(precision: str, folder: Path) -> dict[str, Tensor]:
    # At the image, which has negative numbers here, excitations are divided by sums of any sign.
    inside = {"ExcitationBackprop": {"saliency_layer": "net.features.2"}}
    methods = [make_method(name, **inside.get(name, {})) for name in METHODS]
    callback, hear = SaliencyCallback(methods, samples=4, on_error="raise"), Hear()
    torch.manual_seed(0)
    trainer = make_trainer(folder, callback, hear, precision=precision, logger=False)
    with pytest.warns(UserWarning, match="no logger"):
        trainer.validate(TinyModule(), val_loader(), verbose=False)
    return hear.maps


@pytest.mark.parametrize("precision", TOLERANCE)
def test_maps_are_comparable(tmp_path: Path, precision: str) -> None:
    exact = maps("32-true", tmp_path)
    found = maps(precision, tmp_path)
    assert len(found) == len(METHODS)
    for series, saliency in found.items():
        assert saliency.dtype == torch.float32
        most = TOLERANCE[precision]
        if series == "extremal_perturbation":
            most = OF_SEARCH.get(precision, most)
        assert (saliency - exact[series]).norm() <= most * exact[series].norm(), series
