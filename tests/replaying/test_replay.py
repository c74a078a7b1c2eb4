"""A replay of a run's checkpoints finds what a callback in the run has found."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch import callbacks as lightning_callbacks
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).parents[1] / "callbacks"))

from small_runs import (
    QUIET,
    TinyModule,
    dataset,
    events,
    make_trainer,
    train_loader,
    val_loader,
)

from lightning_saliency import DriftAlarm, SaliencyCallback, load_maps, replay
from lightning_saliency.attribution import RISE, GradCAM, Gradient
from lightning_saliency.errors import InputError, SaliencyWarning

pytestmark = QUIET
CPU: dict[str, Any] = {"accelerator": "cpu"}
needs_averaging = pytest.mark.skipif(
    not hasattr(lightning_callbacks, "EMAWeightAveraging"), reason="not in this Lightning"
)


class Named(TinyModule):
    """A module with hyperparameters."""

    def __init__(self, width: int, depth: int = 2) -> None:
        super().__init__()
        self.save_hyperparameters()


class Unsaved(TinyModule):
    """A module that forgot to save them."""

    def __init__(self, width: int) -> None:
        super().__init__()


def callback(**settings: Any) -> SaliencyCallback:
    methods = [Gradient(), GradCAM(), RISE(num_masks=20)]
    chosen: dict[str, Any] = {"samples": 5, "save_maps": True, "on_error": "raise", **settings}
    return SaliencyCallback(methods, **chosen)


def saving(folder: Path, **settings: Any) -> ModelCheckpoint:
    chosen = {"filename": "{epoch}-{step}", "save_top_k": -1, **settings}
    return ModelCheckpoint(folder / "ckpt", **chosen)


def live(
    folder: Path,
    *callbacks: pl.Callback,
    module: pl.LightningModule | None = None,
    epochs: int = 4,
    val: Any = None,
    **settings: Any,
) -> None:
    torch.manual_seed(0)
    chosen = {"max_epochs": epochs, "enable_checkpointing": True, **settings}
    trainer = make_trainer(folder, *callbacks, **chosen)
    trainer.fit(module or TinyModule(), train_loader(), val or val_loader())


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    found = events(folder)
    return {
        tag: [(each.step, each.value) for each in found.Scalars(tag)]
        for tag in found.Tags()["scalars"]
        if tag.startswith("saliency_") and tag != "saliency_overhead"
    }


def pictures(folder: Path) -> dict[str, list[tuple[int, bytes]]]:
    found = events(folder)
    return {
        tag: [(each.step, each.encoded_image_string) for each in found.Images(tag)]
        for tag in found.Tags()["images"]
    }


def assert_equal(
    one: Path, other: Path, is_resumed: bool = False, is_validated: bool = False
) -> None:
    """Everything that was logged and kept is the same, to the last bit.

    Filmstrips show the validation loss, which is not known unless the replay validates.
    """
    for series in ("gradient", "grad_cam", "rise"):
        maps = [load_maps(folder / "run", series) for folder in (one, other)]
        for name in ("maps", "epochs", "steps", "target", "predicted", "probability"):
            assert torch.equal(*(getattr(each, name) for each in maps)), (series, name)
        assert maps[0].digests == maps[1].digests
        assert float(maps[0].maps.abs().sum()) > 0
    numbers = scalars(one)
    assert any(tag.endswith("/previous") for tag in numbers)
    # As text, in which NaN is NaN.
    assert repr(numbers) == repr(scalars(other))
    shown = [pictures(folder) for folder in (one, other)]
    if not is_validated:
        shown = [
            {tag: each for tag, each in some.items() if "filmstrip" not in tag} for some in shown
        ]
    if is_resumed:
        # The pinned maps are shown once more, as in a run that resumes.
        shown[1] = {tag: each[:1] if "pinned" in tag else each for tag, each in shown[1].items()}
    assert shown[0] == shown[1]


# How the checkpoints are saved, and how the run validates.
WAYS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "at the end of epochs": ({}, {}),
    "after validation": ({"save_on_train_epoch_end": False}, {}),
    "twice in an epoch": ({"save_on_train_epoch_end": False}, {"val_check_interval": 0.5}),
    "weights alone": ({"save_weights_only": True}, {}),
    "accumulated": ({}, {"accumulate_grad_batches": 3}),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_replay_equals_the_run(tmp_path: Path, way: str) -> None:
    how, settings = WAYS[way]
    ours, again = callback(), callback()
    live(tmp_path / "live", ours, saving(tmp_path, **how), **settings)
    found = replay(
        TinyModule(),
        tmp_path / "ckpt",
        again,
        val_loader(),
        tmp_path / "replay" / "run",
        validate=True,
        **CPU,
    )
    assert len(found.explained) >= 2
    assert not found.skipped
    assert_equal(tmp_path / "live", tmp_path / "replay", is_validated=True)
    assert torch.equal(ours.filmstrip(), again.filmstrip())


def test_both_leave_out_the_same_epochs(tmp_path: Path) -> None:
    live(tmp_path / "live", callback(every_n_epochs=2), saving(tmp_path))
    again = callback(every_n_epochs=2)
    replay(TinyModule(), tmp_path / "ckpt", again, val_loader(), _out(tmp_path), **CPU)
    assert load_maps(tmp_path / "live", "rise").epochs.tolist() == [0, 2]
    assert_equal(tmp_path / "live", tmp_path / "replay")


@needs_averaging
@pytest.mark.parametrize("after", ["epoch", "validation"])
def test_averaged_weights_are_replayed(tmp_path: Path, after: str) -> None:
    averaging = lightning_callbacks.EMAWeightAveraging(decay=0.5)
    checkpoints = saving(tmp_path, save_on_train_epoch_end=after == "epoch")
    live(tmp_path / "live", callback(), averaging, checkpoints)
    replay(TinyModule(), tmp_path / "ckpt", callback(), val_loader(), _out(tmp_path), **CPU)
    assert_equal(tmp_path / "live", tmp_path / "replay")


def test_samples_by_index_of_a_shuffled_run(tmp_path: Path) -> None:
    shuffled = DataLoader(dataset(12, seed=2), batch_size=4, shuffle=True)
    ours = callback(samples=[7, 2, 11])
    live(tmp_path / "live", ours, saving(tmp_path), val=shuffled)
    again = callback(samples=[7, 2, 11])
    replay(TinyModule(), tmp_path / "ckpt", again, shuffled, _out(tmp_path), **CPU)
    assert_equal(tmp_path / "live", tmp_path / "replay")


def test_given_samples_need_no_data(tmp_path: Path) -> None:
    given = dataset(3).tensors
    live(tmp_path / "live", callback(samples=given), saving(tmp_path))

    class Picky(TinyModule):
        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            images, labels = batch
            return images, labels

    replay(
        Picky(),
        tmp_path / "ckpt",
        callback(samples=given),
        output=_out(tmp_path),
        accelerator="cpu",
    )
    assert_equal(tmp_path / "live", tmp_path / "replay")


def test_the_alarm_sounds_as_in_the_run(tmp_path: Path) -> None:
    def alarm() -> DriftAlarm:
        return DriftAlarm("saliency_region/*", limit=1e-6)

    several = [callback(regions=["border"]), alarm()]
    with pytest.warns(SaliencyWarning, match="saliency_region"):
        live(tmp_path / "live", *several, saving(tmp_path))
    with pytest.warns(SaliencyWarning, match="saliency_region"):
        replay(
            TinyModule(),
            tmp_path / "ckpt",
            [callback(regions=["border"]), alarm()],
            val_loader(),
            _out(tmp_path),
            **CPU,
        )
    assert any(tag.startswith("saliency_alarm") for tag in scalars(tmp_path / "live"))
    assert_equal(tmp_path / "live", tmp_path / "replay")


def test_the_callback_of_the_run_does_not_leak_into_the_replay(tmp_path: Path) -> None:
    # The checkpoints hold the state of a callback with the same tags, at their ends.
    live(tmp_path / "live", callback(), saving(tmp_path))
    again = callback()
    replay(TinyModule(), tmp_path / "ckpt", again, val_loader(), _out(tmp_path), **CPU)
    # There is nothing that the first could be compared with.
    steps = [step for step, _ in scalars(tmp_path / "replay")["saliency_drift/gradient/pinned"]]
    everything = [
        step for step, _ in scalars(tmp_path / "replay")["saliency_target/gradient/empty"]
    ]
    assert steps == everything[1:]


def test_the_module_is_not_validated_unless_asked(tmp_path: Path) -> None:
    live(tmp_path / "live", saving(tmp_path), epochs=2)

    class Counts(TinyModule):
        steps_seen = ends = 0

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.steps_seen += 1
            super().validation_step(batch, batch_idx)

        def on_validation_epoch_end(self) -> None:
            self.ends += 1

    module = Counts()
    replay(module, tmp_path / "ckpt", callback(), val_loader(), tmp_path / "a", **CPU)
    assert module.steps_seen == module.ends == 0
    replay(
        module,
        tmp_path / "ckpt",
        callback(),
        val_loader(),
        tmp_path / "b" / "run",
        True,
        True,
        **CPU,
    )
    assert (module.steps_seen, module.ends) == (6, 2)
    assert "val_loss" in events(tmp_path / "b").Tags()["scalars"]


def test_one_event_file_and_no_more_data_than_needed(tmp_path: Path) -> None:
    live(tmp_path / "live", saving(tmp_path))
    read: list[int] = []

    class Watched(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return 12

        def __getitem__(self, index: int) -> Any:
            read.append(index)
            return dataset(12)[index]

    data = DataLoader(Watched(), batch_size=2)
    replay(TinyModule(), tmp_path / "ckpt", callback(), data, tmp_path / "out", **CPU)
    assert len(list((tmp_path / "out").glob("events*"))) == 1
    # All at the first checkpoint, one batch at the three others.
    assert len(read) == 12 + 3 * 2


# --- a stopped replay -------------------------------------------------------------------------


class Stop(pl.Callback):
    """Ends the replay at an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == self.epoch:
            raise RuntimeError("stopped here")


def test_a_stopped_replay_goes_on(tmp_path: Path) -> None:
    live(tmp_path / "live", callback(), saving(tmp_path))
    out = _out(tmp_path)
    with pytest.raises(RuntimeError, match="stopped here"):
        replay(TinyModule(), tmp_path / "ckpt", [callback(), Stop(2)], val_loader(), out, **CPU)
    assert len(load_maps(out, "gradient")) == 2
    again = callback()
    found = replay(TinyModule(), tmp_path / "ckpt", [again, Stop(9)], val_loader(), out, **CPU)
    assert (found.before, len(found.explained)) == (2, 2)
    assert_equal(tmp_path / "live", tmp_path / "replay", is_resumed=True)
    # And once more: nothing is left to do.
    done = replay(TinyModule(), tmp_path / "ckpt", [callback(), Stop(9)], val_loader(), out, **CPU)
    assert (done.before, len(done.explained)) == (4, 0)


def test_what_another_replay_has_left_is_not_gone_on_with(tmp_path: Path) -> None:
    live(tmp_path / "live", saving(tmp_path), epochs=2)
    out = tmp_path / "out"
    replay(TinyModule(), tmp_path / "ckpt", callback(), val_loader(), out, **CPU)
    later = sorted((tmp_path / "ckpt").iterdir())[1:]
    with pytest.raises(InputError, match=r"but it is of another one\. Give another output folder"):
        replay(TinyModule(), later, callback(), val_loader(), out, **CPU)
    (out / "replay_state.pt").write_bytes(b"no state")
    with pytest.raises(InputError, match=r"cannot be read.*Remove it"):
        replay(TinyModule(), tmp_path / "ckpt", callback(), val_loader(), out, **CPU)


# --- bad input, before any work ---------------------------------------------------------------


def refused(tmp_path: Path, match: str, *arguments: Any, **settings: Any) -> None:
    out = tmp_path / "never"
    with pytest.raises(InputError, match=match):
        replay(*arguments, output=out, accelerator="cpu", **settings)
    assert not out.exists()


def test_there_are_no_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "ckpt").mkdir()
    match = r"Expected checkpoints \(\*.ckpt\) in .*ckpt, found none"
    refused(tmp_path, match, TinyModule(), tmp_path / "ckpt", callback(), val_loader())
    refused(tmp_path, "there is no such file", TinyModule(), tmp_path / "x.ckpt", callback())


def test_they_are_of_another_module(tmp_path: Path) -> None:
    live(tmp_path / "live", saving(tmp_path), epochs=1)

    class Wider(TinyModule):
        def __init__(self) -> None:
            super().__init__()
            self.net.head = torch.nn.Linear(12, 9)
            self.more = torch.nn.Linear(2, 2)

    match = r"another module than Wider: it has no more.bias, more.weight; of other shapes are net"
    refused(tmp_path, match, Wider(), tmp_path / "ckpt", callback(), val_loader())


def test_hyperparameters_are_missing(tmp_path: Path) -> None:
    live(tmp_path / "live", saving(tmp_path), epochs=1, module=Unsaved(3))
    match = r"Expected the hyperparameters of Unsaved in .*, but width of them is missing"
    refused(tmp_path, match, Unsaved, tmp_path / "ckpt", callback(), val_loader())


def test_a_class_is_made_with_the_hyperparameters(tmp_path: Path) -> None:
    live(tmp_path / "live", saving(tmp_path), epochs=1, module=Named(7))
    found = replay(Named, tmp_path / "ckpt", callback(), val_loader(), tmp_path / "out", **CPU)
    assert isinstance(found.module, Named)
    assert dict(found.module.hparams) == {"width": 7, "depth": 2}


class Surprise:
    """Something that a checkpoint may hold, and that is no tensor."""


def test_a_checkpoint_that_could_run_a_program(tmp_path: Path) -> None:
    live(tmp_path / "live", saving(tmp_path), epochs=2)
    one = min((tmp_path / "ckpt").iterdir())
    content = torch.load(one, weights_only=False)
    torch.save({**content, "surprise": Surprise()}, one)
    match = r"holds \S*Surprise: to load that is to run a program .*weights_only=False"
    refused(tmp_path, match, TinyModule(), tmp_path / "ckpt", callback(), val_loader())
    out = tmp_path / "out"
    found = replay(TinyModule(), tmp_path / "ckpt", callback(), val_loader(), out, False, **CPU)
    assert len(found.explained) == 2


def test_there_is_no_data_and_no_callback(tmp_path: Path) -> None:
    live(tmp_path / "live", saving(tmp_path), epochs=1)
    where = tmp_path / "ckpt"
    refused(tmp_path, "Expected validation data .* got none", TinyModule(), where, callback())
    refused(tmp_path, "at least one saliency callback", TinyModule(), where, [], val_loader())
    match = "other than barebones, inference_mode"
    more = {"inference_mode": True, "barebones": True}
    refused(tmp_path, match, TinyModule(), where, callback(), val_loader(), **more)


def test_broken_and_missing_checkpoints_are_skipped_and_listed(tmp_path: Path) -> None:
    live(tmp_path / "live", callback(), saving(tmp_path))
    first, second, third, last = sorted((tmp_path / "ckpt").iterdir())
    second.write_bytes(second.read_bytes()[: second.stat().st_size // 2])
    torch.save({"weights": torch.zeros(2)}, third)
    named = [last, first, second, third, tmp_path / "gone.ckpt"]
    again = callback()
    with pytest.warns(SaliencyWarning, match="3 checkpoints were skipped"):
        found = replay(TinyModule(), named, again, val_loader(), tmp_path / "out", **CPU)
    assert [each.epoch for each in found.explained] == [0, 3]
    reasons = {each.path.name: each.reason for each in found.skipped}
    assert reasons.keys() == {second.name, third.name, "gone.ckpt"}
    assert "cannot be read" in reasons[second.name] or "damaged" in reasons[second.name]
    assert "no checkpoint of Lightning" in reasons[third.name]
    assert reasons["gone.ckpt"] == "there is no such file"
    maps = [load_maps(tmp_path / each, "grad_cam") for each in ("live", "out")]
    assert maps[1].epochs.tolist() == [0, 3]
    assert torch.equal(maps[0].maps[[0, 3]], maps[1].maps)


def test_one_that_fails_only_when_it_is_loaded_is_skipped_too(tmp_path: Path) -> None:
    live(tmp_path / "live", saving(tmp_path), epochs=3)

    class Refuses(TinyModule):
        def on_load_checkpoint(self, checkpoint: Any) -> None:
            if checkpoint["epoch"] == 1:
                raise KeyError("not this one")

    with pytest.warns(SaliencyWarning, match="it cannot be loaded: 'not this one'"):
        found = replay(
            Refuses(), tmp_path / "ckpt", callback(), val_loader(), tmp_path / "out", **CPU
        )
    assert [each.epoch for each in found.explained] == [0, 2]


def test_module_and_trainer_are_left_as_they_were(tmp_path: Path) -> None:
    live(tmp_path / "live", saving(tmp_path), epochs=1)
    module = TinyModule()
    before = set(vars(module))
    replay(module, tmp_path / "ckpt", callback(), val_loader(), tmp_path / "out", **CPU)
    assert not {"validation_step", "on_validation_end"} & (set(vars(module)) - before)


def _out(folder: Path) -> Path:
    return folder / "replay" / "run"


def test_maps_are_of_the_checkpoint_and_not_of_the_module(tmp_path: Path) -> None:
    live(tmp_path / "live", callback(), saving(tmp_path), epochs=1)
    torch.manual_seed(99)
    replay(TinyModule(), tmp_path / "ckpt", callback(), val_loader(), _out(tmp_path), **CPU)
    maps: list[Tensor] = [
        load_maps(tmp_path / each, "gradient").maps for each in ("live", "replay")
    ]
    assert torch.equal(*maps)


def test_the_best_checkpoint_cannot_be_followed(tmp_path: Path) -> None:
    live(tmp_path / "live", saving(tmp_path), epochs=1)
    match = "pinned to be 'first' or an epoch in a replay, got 'best'"
    ours, out = callback(pinned="best"), tmp_path / "out"
    with pytest.raises(InputError, match=match):
        replay(TinyModule(), tmp_path / "ckpt", ours, val_loader(), out, **CPU)
    assert not list(out.rglob("*.npz"))
    assert not (out / "replay_state.pt").exists()


def test_a_stopped_replay_goes_on_after_one_that_could_not_be_loaded(tmp_path: Path) -> None:
    live(tmp_path / "live", saving(tmp_path), epochs=3)

    class Refuses(TinyModule):
        def on_load_checkpoint(self, checkpoint: Any) -> None:
            if checkpoint["epoch"] == 0:
                raise KeyError("not this one")

    given, where, out = dataset(2).tensors, tmp_path / "ckpt", tmp_path / "out"
    with pytest.raises(RuntimeError, match="stopped here"):
        replay(Refuses(), where, [callback(samples=given), Stop(2)], output=out, **CPU)
    found = replay(Refuses(), where, [callback(samples=given), Stop(9)], output=out, **CPU)
    assert (found.before, [each.epoch for each in found.explained]) == (2, [2])
