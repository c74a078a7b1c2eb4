"""With averaged weights, those are explained that are validated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch import callbacks as lightning_callbacks
from small_runs import QUIET, TinyModule, dataset, make_trainer, train_loader, val_loader
from torch import Tensor

from lightning_saliency import SaliencyCallback

pytestmark = [
    *QUIET,
    pytest.mark.skipif(
        not hasattr(lightning_callbacks, "EMAWeightAveraging"), reason="not in this Lightning"
    ),
]


class Weights:
    """A method that notes the weights that it is called with."""

    __name__ = "weights"

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def __call__(self, model: Any, image: Tensor, target: Any) -> Tensor:
        self.seen.append(model.net.head.weight.detach().clone())
        return image.abs().sum(1, keepdim=True)


class Watch(pl.Callback):
    """Notes what is validated, and what is trained."""

    def __init__(self) -> None:
        self.validated: list[Tensor] = []
        self.averages: list[Tensor] = []
        self.trained: list[Tensor] = []

    def on_validation_batch_end(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
        if not trainer.sanity_checking:
            self.validated.append(module.net.head.weight.detach().clone())

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.trained.append(pl_module.net.head.weight.detach().clone())
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, lightning_callbacks.EMAWeightAveraging):
                average: Any = callback._average_model
                self.averages.append(average.module.net.head.weight.detach().clone())


@pytest.mark.parametrize("order", ["before", "after", "between"])
def test_the_validated_weights_are_explained(tmp_path: Path, order: str) -> None:
    method, watch = Weights(), Watch()
    ours = SaliencyCallback(method, samples=2, on_error="raise")
    averaging = lightning_callbacks.EMAWeightAveraging(decay=0.5)
    several = {
        "before": [ours, averaging, watch],
        "after": [watch, averaging, ours],
        "between": [averaging, ours, watch],
    }[order]
    torch.manual_seed(0)
    trainer = make_trainer(tmp_path, *several, max_epochs=3)
    trainer.fit(TinyModule(), train_loader(), val_loader(4))
    assert len(method.seen) == len(watch.validated) == 3
    for seen, validated, trained in zip(method.seen, watch.validated, watch.trained, strict=True):
        assert torch.equal(seen, validated)
        assert not torch.equal(seen, trained)


def test_so_they_are_at_the_end_of_an_epoch_without_validation(tmp_path: Path) -> None:
    method, watch = Weights(), Watch()
    ours = SaliencyCallback(method, samples=dataset(2).tensors, on_error="raise")
    averaging = lightning_callbacks.EMAWeightAveraging(decay=0.5)
    torch.manual_seed(0)
    trainer = make_trainer(tmp_path, watch, averaging, ours, max_epochs=2)
    trainer.fit(TinyModule(), train_loader())
    assert len(method.seen) == 2
    for seen, average, trained in zip(method.seen, watch.averages, watch.trained, strict=True):
        assert torch.equal(seen, average)
        assert not torch.equal(seen, trained)
