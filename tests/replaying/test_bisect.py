"""The first checkpoint at which something has changed, and how many explanations that takes."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "callbacks"))

from small_runs import QUIET, TinyModule, dataset, make_trainer, train_loader

from lightning_saliency import SaliencyCallback, bisect
from lightning_saliency.attribution import Gradient
from lightning_saliency.errors import InputError, MethodError

pytestmark = QUIET
DRIFT = "saliency_drift/gradient/pinned/spearman"
COUNT = 64


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A checkpoint of Lightning's own."""
    folder = tmp_path_factory.mktemp("saved")
    torch.manual_seed(0)
    trainer = make_trainer(folder, max_epochs=1, logger=False)
    trainer.fit(TinyModule(), train_loader())
    trainer.save_checkpoint(folder / "one.ckpt")
    return dict(torch.load(folder / "one.ckpt", weights_only=False))


def write(folder: Path, saved: dict[str, Any], changed: set[int], count: int = COUNT) -> Path:
    """Checkpoints of a run that hardly moves, but for those with other weights."""
    torch.manual_seed(5)
    other = TinyModule().state_dict()
    for epoch in range(count):
        weights = other if epoch in changed else saved["state_dict"]
        moved = {
            name: w + 1e-6 * epoch if w.is_floating_point() else w for name, w in weights.items()
        }
        loops = {
            "fit_loop": {
                "epoch_loop.state_dict": {"_batches_that_stepped": 4 * epoch + 3},
                "epoch_progress": {"current": {"processed": epoch, "completed": epoch}},
            }
        }
        about = {**saved, "epoch": epoch, "loops": loops, "state_dict": moved}
        folder.mkdir(exist_ok=True)
        torch.save(about, folder / f"{epoch}.ckpt")
    return folder


def callback(**settings: Any) -> SaliencyCallback:
    return SaliencyCallback(Gradient(), samples=dataset(3).tensors, on_error="raise", **settings)


def search(where: Any, **settings: Any) -> Any:
    chosen = {"tag": DRIFT, "below": 0.9, "accelerator": "cpu", **settings}
    return bisect(TinyModule(), where, callback(), **chosen)


@pytest.mark.parametrize("start", [1, 2, 31, 32, 63])
def test_it_is_found_exactly_among_64(tmp_path: Path, saved: dict[str, Any], start: int) -> None:
    found = search(write(tmp_path / "c", saved, set(range(start, COUNT))))
    assert found.changed.epoch == start
    assert found.before.epoch == start - 1
    assert found.explanations <= math.ceil(math.log2(COUNT)) + 2
    assert f"First at epoch {start}, step {4 * start + 3} ({start}.ckpt)" in str(found)
    assert "Assumed: what has changed once stays changed" in str(found)


def test_a_run_without_a_change(tmp_path: Path, saved: dict[str, Any]) -> None:
    found = search(write(tmp_path / "c", saved, set()))
    assert found.changed is None
    assert found.explanations == 2
    assert str(found).startswith("No change: at no checkpoint that was explained")


def test_a_passing_change_is_found_by_a_scan(tmp_path: Path, saved: dict[str, Any]) -> None:
    where = write(tmp_path / "c", saved, {5, 6}, count=9)
    assert search(where).changed is None
    found = search(where, scan=True)
    assert (found.changed.epoch, found.before.epoch, found.explanations) == (5, 4, 9)
    assert "nothing was assumed" in str(found)


def test_another_reference(tmp_path: Path, saved: dict[str, Any]) -> None:
    where = write(tmp_path / "c", saved, set(range(5, 16)), count=16)
    found = search(where, below=None, above=0.9, reference=where / "15.ckpt")
    assert found.changed.epoch == 5
    assert found.explanations <= 4 + 2


def test_the_share_of_a_region(tmp_path: Path, saved: dict[str, Any]) -> None:
    where = write(tmp_path / "c", saved, set(range(3, 8)), count=8)
    ours = callback(regions={"all but nothing": (0, 0, 8, 16)})
    tag = "saliency_region/gradient/all but nothing"
    scan = bisect(TinyModule(), where, ours, tag, above=2.0, scan=True, accelerator="cpu")
    shares = [value for _, value in scan.values]
    middle = (shares[0] + shares[-1]) / 2
    bound = {"above" if shares[-1] > shares[0] else "below": middle}
    ours = callback(regions={"all but nothing": (0, 0, 8, 16)})
    found = bisect(TinyModule(), where, ours, tag, **bound, accelerator="cpu")
    assert found.changed is not None
    assert found.changed.epoch == 3


def test_one_that_cannot_be_loaded_is_passed_by(tmp_path: Path, saved: dict[str, Any]) -> None:
    class Refuses(TinyModule):
        def on_load_checkpoint(self, checkpoint: Any) -> None:
            if checkpoint["epoch"] in (4, 7):
                raise KeyError("not this one")

    where = write(tmp_path / "c", saved, set(range(5, 8)), count=8)
    found = bisect(Refuses(), where, callback(), DRIFT, below=0.9, accelerator="cpu")
    assert found.changed is not None
    assert found.changed.epoch == 5
    assert {each.path.name for each in found.skipped} == {"4.ckpt", "7.ckpt"} & {
        each.path.name for each in found.skipped
    }
    assert "7.ckpt" in {each.path.name for each in found.skipped}


def test_bad_input(tmp_path: Path, saved: dict[str, Any]) -> None:
    where = write(tmp_path / "c", saved, set(), count=2)
    with pytest.raises(InputError, match="above or below, one of them"):
        search(where, above=1.0)
    with pytest.raises(InputError, match="number that the callback logs, got 'x'"):
        search(where, tag="x")
    with pytest.raises(InputError, match="reference to be one of the checkpoints"):
        search([where / "0.ckpt"], reference=where / "1.ckpt")


def test_maps_that_say_nothing(tmp_path: Path, saved: dict[str, Any]) -> None:
    zero = {**saved, "state_dict": {k: 0 * v for k, v in saved["state_dict"].items()}}
    where = write(tmp_path / "c", zero, set(), count=1)
    with pytest.raises(MethodError, match="got none: the explanation has failed"):
        search(where, tag=DRIFT)
