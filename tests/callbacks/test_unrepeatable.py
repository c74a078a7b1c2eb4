"""A model whose answer depends on what cannot be put back is named once, before training."""

from __future__ import annotations

import itertools
import warnings
from pathlib import Path

import pytest
from small_runs import QUIET, TinyModule, make_trainer, train_loader, val_loader
from torch import Tensor

from lightning_saliency import SaliencyCallback
from lightning_saliency.attribution import GradCAM, Gradient
from lightning_saliency.errors import SaliencyWarning

pytestmark = QUIET


class Iterates(TinyModule):
    """Goes through an iterator, of which nobody can take a copy that runs on alike."""

    def __init__(self) -> None:
        super().__init__()
        self.turns = (number for number in itertools.count())

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) * (1 + next(self.turns))


@pytest.mark.parametrize("sanity", [2, 0])
def test_it_is_named_once(sanity: int, tmp_path: Path) -> None:
    callback = SaliencyCallback([Gradient(), GradCAM()], samples=3)
    trainer = make_trainer(tmp_path, callback, num_sanity_val_steps=sanity, max_epochs=3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", SaliencyWarning)
        trainer.fit(Iterates(), train_loader(), val_loader())
    said = [str(each.message) for each in caught if each.category is SaliencyWarning]
    assert len(said) == 1
    assert "'turns' (generator)" in said[0]
    assert "cannot be put back" in said[0]


def test_an_ordinary_model_is_not_spoken_of(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, SaliencyCallback(Gradient(), samples=3), max_epochs=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", SaliencyWarning)
        trainer.fit(TinyModule(), train_loader(), val_loader())
