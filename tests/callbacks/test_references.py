"""What explanations are compared with: previous, first, best checkpoint, chosen epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from small_runs import QUIET, TinyModule, events, fit, make_trainer, train_loader, val_loader

from lightning_saliency import SaliencyCallback
from lightning_saliency.attribution import Gradient
from lightning_saliency.callbacks.stages.drift import Reference, References
from lightning_saliency.errors import InputError

pytestmark = QUIET


def reference(epoch: int) -> Reference:
    none = torch.zeros(1, dtype=torch.long)
    return Reference(torch.full((1, 1, 2, 2), float(epoch)), none, none, torch.ones(1), epoch)


def pinned_epochs(references: References, scores: list[float | None]) -> list[int]:
    """The epoch of the pinned reference at each epoch, given the best score before it."""
    epochs = []
    for epoch, best in enumerate(scores):
        references.advance(reference(epoch), best)
        assert references.previous is not None
        assert references.pinned is not None
        assert references.previous.epoch == max(0, epoch - 1)
        epochs.append(references.pinned.epoch)
    return epochs


@pytest.mark.parametrize(
    ("pinned", "warmup", "expected"),
    [
        ("first", 0, [0, 0, 0, 0, 0]),
        # Until one is pinned, each explanation is its own.
        ("first", 2, [0, 1, 2, 2, 2]),
        (3, 0, [0, 1, 2, 3, 3]),
        # A new best is known one epoch later: that of epoch 0 at 1, of 2 at 3.
        ("best", 0, [0, 0, 0, 2, 2]),
        # The best of the warm-up does not count.
        ("best", 1, [0, 1, 1, 2, 2]),
        ("best", 3, [0, 1, 2, 3, 3]),
    ],
)
def test_which_explanation_is_pinned(pinned: Any, warmup: int, expected: list[int]) -> None:
    scores = [None, 0.5, 0.5, 0.3, 0.3]
    assert pinned_epochs(References(pinned, warmup), scores) == expected


def test_an_epoch_that_is_not_explained_gives_way_to_the_next_that_is() -> None:
    references = References(3)
    for epoch in (0, 2, 4, 6):
        references.advance(reference(epoch))
    assert references.pinned is not None
    assert references.pinned.epoch == 4


@pytest.mark.parametrize("pinned", ["first", "best", 2])
@pytest.mark.parametrize("stop", [1, 2, 3, 4])
def test_the_state_goes_on_where_it_stopped(pinned: Any, stop: int) -> None:
    scores = [None, 0.5, 0.5, 0.3, 0.2]
    whole = pinned_epochs(References(pinned, 1 if pinned == "first" else 0), scores)
    first = References(pinned, 1 if pinned == "first" else 0)
    for epoch in range(stop):
        first.advance(reference(epoch), scores[epoch])
    second = References(pinned, 1 if pinned == "first" else 0)
    second.load_state_dict(first.state_dict())
    rest = []
    for epoch in range(stop, 5):
        second.advance(reference(epoch), scores[epoch])
        assert second.pinned is not None
        assert second.previous is not None
        assert second.previous.epoch == epoch - 1
        rest.append(second.pinned.epoch)
    assert rest == whole[stop:]


def test_nothing_is_saved_before_the_first() -> None:
    empty = References()
    assert empty.state_dict() == {}
    empty.load_state_dict({})
    assert empty.pinned is None


class Scored(TinyModule):
    """Validates with scores that are given."""

    scores = (3.0, 2.0, 2.5, 1.0, 4.0, 5.0)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        self.log("score", torch.tensor(self.scores[self.current_epoch]))


@pytest.mark.parametrize("at", ["validation end", "epoch end"])
def test_the_best_checkpoint_is_followed(at: str, tmp_path: Path) -> None:
    saving = ModelCheckpoint(
        tmp_path, monitor="score", filename="best", save_on_train_epoch_end=at == "epoch end"
    )
    callback = SaliencyCallback(Gradient(), samples=2, pinned="best", on_error="raise", log="full")
    trainer = make_trainer(tmp_path, callback, saving, enable_checkpointing=True, max_epochs=6)
    trainer.fit(Scored(), train_loader(), val_loader())
    found = events(tmp_path)
    epochs = [event.value for event in found.Scalars("saliency_similarity/gradient/pinned/epoch")]
    # The best are epochs 0, 1 and 3; each is known when the next explanation is made.
    assert epochs == [0, 0, 1, 1, 3, 3]
    drift = {
        ref: [None, *(event.value for event in found.Scalars(f"saliency_drift/gradient/{ref}"))]
        for ref in ("previous", "pinned")
    }
    for epoch in (1, 2, 4):
        assert drift["previous"][epoch] == drift["pinned"][epoch]
    for epoch in (3, 5):
        assert drift["previous"][epoch] != drift["pinned"][epoch]


def test_before_the_warm_up_is_over_nothing_is_compared_with_the_pinned_maps(
    tmp_path: Path,
) -> None:
    callback = SaliencyCallback(Gradient(), samples=2, warmup_epochs=2, log="full")
    fit(tmp_path, callback, max_epochs=4)
    found = events(tmp_path)
    for tag in ("saliency_drift/gradient/pinned", "saliency_similarity/gradient/pinned/ssim"):
        ((step, value),) = ((e.step, e.value) for e in found.Scalars(tag))
        assert step == 15
        assert 0 < value < 1


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"pinned": "last"}, "'first', 'best' or an epoch, got 'last'"),
        ({"pinned": -1}, "or an epoch, got -1"),
        ({"pinned": True}, "got True"),
        ({"pinned": 1.5}, "got 1.5"),
        ({"warmup_epochs": -1}, "integer >= 0, got -1"),
        ({"warmup_epochs": 0.5}, "integer >= 0, got 0.5"),
        ({"pinned": 3, "warmup_epochs": 5}, "after the warm-up, got epoch 3"),
    ],
    ids=str,
)
def test_what_cannot_be_pinned_is_refused_at_once(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        SaliencyCallback(Gradient(), **settings)


@pytest.mark.parametrize(
    ("settings", "callbacks", "says"),
    [
        ({"pinned": "best"}, [], "the run has none. Add ModelCheckpoint"),
        ({"pinned": "best"}, [ModelCheckpoint()], "ModelCheckpoint that monitors something"),
        (
            {"pinned": "best"},
            [ModelCheckpoint(monitor="val_loss", save_top_k=0)],
            "ModelCheckpoint that monitors something",
        ),
        ({"pinned": 2}, [], "pinned to be an epoch of this run, 0 to 1 .* got 2"),
        ({"warmup_epochs": 5}, [], "warmup_epochs to be an epoch of this run, 0 to 1 .* got 5"),
    ],
    ids=["no checkpoints", "no monitor", "nothing is saved", "no such epoch", "long warm-up"],
)
def test_references_that_will_not_exist_end_before_the_first_step(
    settings: dict[str, Any], callbacks: list[pl.Callback], says: str, tmp_path: Path
) -> None:
    module = TinyModule()
    trainer = make_trainer(
        tmp_path,
        SaliencyCallback(Gradient(), samples=2, **settings),
        *callbacks,
        enable_checkpointing=bool(callbacks),
    )
    with pytest.raises(InputError, match=says):
        trainer.fit(module, train_loader(), val_loader())
    assert module.steps == 0


def test_a_run_without_a_last_epoch_may_pin_any(tmp_path: Path) -> None:
    callback = SaliencyCallback(Gradient(), samples=2, pinned=7)
    fit(tmp_path, callback, max_epochs=-1, max_steps=8)
