"""Maps on disk: what a run writes, what is read back, and what happens when the disk says no."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from small_runs import QUIET, TinyModule, dataset, fit, make_trainer, train_loader, val_loader
from torch import Tensor

from lightning_saliency import SaliencyCallback, compare, load_maps
from lightning_saliency.attribution import GradCAM, Gradient
from lightning_saliency.callbacks.run_context import RunContext
from lightning_saliency.callbacks.stages.map_saver import MapSaver
from lightning_saliency.errors import InputError, SaliencyWarning
from lightning_saliency.history import map_files
from lightning_saliency.history.map_files import MapFile, read_maps, write_maps

pytestmark = QUIET


class Noted(Gradient):
    """The gradient, and what it gave each time."""

    def attribute(self, model: Any, image: Tensor, target: Tensor) -> Tensor:
        maps = super().attribute(model, image, target)
        NOTED.append(maps.clone())
        return maps


NOTED: list[Tensor] = []


def entry(epoch: int = 0, count: int = 2, mark: str = "a") -> MapFile:
    zeros = torch.zeros(count, dtype=torch.int64)
    return MapFile(
        torch.rand(count, 1, 4, 4),
        zeros,
        zeros + 1,
        torch.rand(count),
        tuple(range(count)),
        tuple(f"{mark}{index}" for index in range(count)),
        {"method": "Gradient", "layer": None},
        epoch,
        7 * epoch,
    )


def test_a_file_holds_what_was_written_and_numpy_reads_it(tmp_path: Path) -> None:
    written = entry(3)
    path = write_maps(tmp_path / "new" / "gradient", written)
    assert path.name == "epoch=00003-step=000000021.npz"
    found = read_maps(path)
    for name in ("maps", "target", "predicted", "probability"):
        assert torch.equal(getattr(found, name), getattr(written, name))
    for name in ("sample_ids", "digests", "settings", "epoch", "step"):
        assert getattr(found, name) == getattr(written, name)
    assert np.array_equal(np.load(path)["maps"], written.maps.numpy())


def test_a_run_is_read_back_as_one_array(tmp_path: Path) -> None:
    NOTED.clear()
    callback = SaliencyCallback([Noted(), GradCAM()], samples=[5, 0, 9], save_maps=True)
    fit(tmp_path, callback, max_epochs=3, val_check_interval=0.5)
    found = load_maps(tmp_path / "run", "gradient")
    assert found.maps.shape == (6, 3, 1, 16, 16)
    # The first is of the try before training.
    assert torch.equal(found.maps, torch.stack(NOTED[1:]))
    assert found.epochs.tolist() == [0, 0, 1, 1, 2, 2]
    assert found.steps.tolist() == [1, 3, 5, 7, 9, 11]
    assert found.sample_ids == (5, 0, 9)
    assert found.target.tolist() == [[0, 0, 4]] * 6
    assert found.settings["method"] == "Noted"
    assert found.series == "gradient"
    assert len(found) == 6
    assert found.pictures is not None
    assert found.pictures.shape == (3, 3, 16, 16)
    assert load_maps(tmp_path, "grad_cam").settings["saliency_layer"] == "net.features"


def test_names_and_targets_have_folders_of_their_own(tmp_path: Path) -> None:
    first = SaliencyCallback(Gradient(), samples=2, target=("label", "predicted"), save_maps=True)
    second = SaliencyCallback(Gradient(), samples=1, name="second", save_maps=True)
    fit(tmp_path, first, second, max_epochs=1)
    for series in ("gradient/label", "gradient/predicted", "second/gradient"):
        assert len(load_maps(tmp_path, series)) == 1
    with pytest.raises(InputError, match=r"'gradient/label', 'gradient/predicted', 'second/grad"):
        load_maps(tmp_path)


def test_without_the_setting_nothing_is_written(tmp_path: Path) -> None:
    fit(tmp_path, SaliencyCallback(Gradient(), samples=2))
    assert list(tmp_path.rglob("*.npz")) == []


@pytest.mark.parametrize("logger", ["csv", "none"])
@pytest.mark.filterwarnings("ignore:.*pictures and tables of the saliency maps are files")
def test_any_logger_has_a_folder(tmp_path: Path, logger: str) -> None:
    chosen = CSVLogger(tmp_path) if logger == "csv" else False
    fit(tmp_path, SaliencyCallback(Gradient(), samples=2, save_maps=True), logger=chosen)
    inside = "lightning_logs/version_0/saliency_maps" if logger == "csv" else "saliency_maps"
    assert load_maps(tmp_path / inside).maps.shape == (2, 2, 1, 16, 16)


def test_a_second_run_in_the_same_folder_loses_nothing(tmp_path: Path) -> None:
    fit(tmp_path, SaliencyCallback(Gradient(), samples=2, save_maps=True), max_epochs=1)
    before = load_maps(tmp_path).maps
    with pytest.warns(SaliencyWarning, match=r"holds the maps of another run.*saliency_maps_1"):
        fit(tmp_path, SaliencyCallback(Gradient(), samples=3, save_maps=True))
    assert torch.equal(load_maps(tmp_path / "run" / "saliency_maps").maps, before)
    assert load_maps(tmp_path / "run" / "saliency_maps_1").maps.shape == (2, 3, 1, 16, 16)
    with pytest.raises(InputError, match=r"found 2: .*Give one of these folders"):
        load_maps(tmp_path)


def test_a_resumed_run_goes_on_in_the_folder(tmp_path: Path) -> None:
    def run(epochs: int, start: Path | None = None) -> None:
        saver = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
        callback = SaliencyCallback(Gradient(), samples=dataset(2).tensors, save_maps=True)
        trainer = make_trainer(
            tmp_path, callback, saver, enable_checkpointing=True, max_epochs=epochs
        )
        trainer.fit(TinyModule(), train_loader(), val_loader(), ckpt_path=start)

    run(3)
    killed = load_maps(tmp_path).maps
    # Killed after epoch 2, resumed from the checkpoint of epoch 0.
    run(4, tmp_path / "epoch=0.ckpt")
    found = load_maps(tmp_path)
    assert found.epochs.tolist() == [0, 1, 2, 3]
    assert torch.equal(found.maps[0], killed[0])
    aside = sorted((tmp_path / "run").rglob("*.replaced"))
    assert [path.name[:11] for path in aside] == ["epoch=00001", "epoch=00002"]
    with np.load(aside[0]) as old:
        assert np.array_equal(old["maps"], killed[1].numpy())


def test_runs_that_begin_at_the_same_time_have_folders_of_their_own(tmp_path: Path) -> None:
    def begin() -> tuple[Any, MapSaver]:
        trainer = make_trainer(tmp_path)
        saver = MapSaver()
        saver.begin(RunContext(trainer, TinyModule()))
        return trainer, saver

    (_, first), (_, second), (_, third) = begin(), begin(), begin()
    # Nobody has written yet, so that all have the same in mind; one that died has left a folder.
    (tmp_path / "run" / "saliency_maps_1").mkdir()
    folders = [saver._folder for saver in (first, second, third)]
    assert [folder.path.name for folder in folders if folder] == ["saliency_maps"] * 3
    with pytest.warns(SaliencyWarning, match=r"holds the maps of another run"):
        claimed = [folder.claim().name for folder in folders if folder]
    assert claimed == ["saliency_maps", "saliency_maps_2", "saliency_maps_3"]
    assert [folder.claim().name for folder in folders if folder] == claimed


def test_other_methods_do_not_share_a_folder_with_another_run(tmp_path: Path) -> None:
    fit(tmp_path, SaliencyCallback(Gradient(), samples=2, save_maps=True), max_epochs=1)
    with pytest.warns(SaliencyWarning, match=r"holds the maps of another run.*saliency_maps_1"):
        fit(tmp_path, SaliencyCallback(GradCAM(), samples=2, save_maps=True), max_epochs=1)
    assert load_maps(tmp_path / "run" / "saliency_maps_1").series == "grad_cam"


def test_a_resumed_run_finds_its_own_folder_among_others(tmp_path: Path) -> None:
    def run(epochs: int, start: Path | None = None) -> None:
        callback = SaliencyCallback(Gradient(), samples=2, save_maps=True)
        trainer = fit(tmp_path, callback, ckpt_path=start, max_epochs=epochs)
        trainer.save_checkpoint(tmp_path / f"{epochs}.ckpt")

    run(1)
    with pytest.warns(SaliencyWarning, match=r"saliency_maps_1"):
        run(2)
    run(4, tmp_path / "2.ckpt")
    assert load_maps(tmp_path / "run" / "saliency_maps").epochs.tolist() == [0]
    assert load_maps(tmp_path / "run" / "saliency_maps_1").epochs.tolist() == [0, 1, 2, 3]
    # Its folder is gone: that of the other run is not touched.
    (tmp_path / "run" / "saliency_maps_1").rename(tmp_path / "elsewhere")
    with pytest.warns(SaliencyWarning, match=r"saliency_maps_1"):
        run(5, tmp_path / "4.ckpt")
    assert load_maps(tmp_path / "run" / "saliency_maps").epochs.tolist() == [0]
    assert load_maps(tmp_path / "run" / "saliency_maps_1").epochs.tolist() == [4]


class Locked:
    """A callable that cannot be copied, and has no words for itself."""

    __name__ = "locked"

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __repr__(self) -> str:
        raise ValueError("no words")

    def __call__(self, model: Any, image: Tensor, target: Any) -> Tensor:
        with self.lock:
            return image.abs().sum(1, keepdim=True)


class Explaining(TinyModule):
    def method(self, model: Any, image: Tensor, target: Any) -> Tensor:
        return image.abs().sum(1, keepdim=True)

    def __deepcopy__(self, memo: Any) -> Any:
        raise AssertionError("a module is not copied for its settings")


@pytest.mark.parametrize(
    ("function", "words"),
    [(Locked(), "Locked"), (Explaining().method, "Explaining.method")],
    ids=["a lock", "a module"],
)
def test_a_callable_that_holds_more_than_settings(
    tmp_path: Path, function: Any, words: str
) -> None:
    callback = SaliencyCallback(function, samples=2, save_maps=True, on_error="raise")
    fit(tmp_path, callback)
    found = load_maps(tmp_path)
    assert len(found) == 2
    assert found.settings["function"] == words


def test_a_folder_that_cannot_be_made_is_said_before_training_which_goes_on(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "saliency_maps").write_text("a file")
    with pytest.warns(SaliencyWarning) as said:
        trainer = fit(tmp_path, SaliencyCallback(Gradient(), samples=2, save_maps=True))
    lines = [str(w.message) for w in said if "training goes on" in str(w.message)]
    assert lines[0].startswith("Maps cannot be written to")
    assert trainer.current_epoch == 2
    assert "saliency_drift/gradient/previous/ssim" in trainer.callback_metrics


def test_a_full_disk_is_said_three_times_and_leaves_no_part_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: Any, **arrays: Any) -> None:
        if "maps" in arrays:
            file.write(b"the first half")
            raise OSError(28, "No space left on device")
        real(file, **arrays)

    real = np.savez
    monkeypatch.setattr(map_files.np, "savez", full)
    with pytest.warns(SaliencyWarning, match=r"could not be saved.*No space left") as said:
        trainer = fit(
            tmp_path, SaliencyCallback(Gradient(), samples=2, save_maps=True), max_epochs=5
        )
    lines = [str(w.message) for w in said if "could not be saved" in str(w.message)]
    assert len(lines) == 3
    assert "no more are tried" in lines[-1]
    assert trainer.current_epoch == 5
    assert [path.name for path in (tmp_path / "run").rglob("*np*")] == ["samples.npz"]


def test_a_map_that_is_saved_ends_a_row_of_failures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_but_once(file: Any, **arrays: Any) -> None:
        tried.extend(["maps"] * ("maps" in arrays))
        if "maps" in arrays and len(tried) != 3:
            raise OSError(28, "No space left on device")
        real(file, **arrays)

    tried: list[str] = []
    real = np.savez
    monkeypatch.setattr(map_files.np, "savez", full_but_once)
    with pytest.warns(SaliencyWarning, match="could not be saved") as said:
        fit(tmp_path, SaliencyCallback(Gradient(), samples=2, save_maps=True), max_epochs=5)
    assert sum("could not be saved" in str(w.message) for w in said) == 4


def test_fast_dev_run_writes_nothing(tmp_path: Path) -> None:
    fit(tmp_path, SaliencyCallback(Gradient(), samples=2, save_maps=True), fast_dev_run=True)
    assert list(tmp_path.rglob("*.npz")) == []


# --- two runs ---------------------------------------------------------------------------------


def test_real_runs_with_other_seeds(tmp_path: Path) -> None:
    for seed in (1, 2):
        torch.manual_seed(seed)
        callback = SaliencyCallback([Gradient(), GradCAM()], samples=4, save_maps=True)
        trainer = make_trainer(tmp_path / str(seed), callback)
        trainer.fit(TinyModule(), train_loader(), val_loader())
    found = compare(tmp_path / "1", tmp_path / "2", "gradient")
    assert found.names == ("1", "2")
    assert found.epochs.tolist() == [0, 1]
    assert float(found.table["top10_iou"].max()) < 0.9
    figure = found.figure()
    figure.savefig(tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as picture:
        assert len(picture.convert("RGB").getcolors(1_000_000)) > 50
    titles = " ".join(axes.get_title() for axes in figure.axes)
    assert [f"sample {index}" in titles for index in range(4)] == [True] * 4


def test_the_same_run_twice_is_the_same(tmp_path: Path) -> None:
    for name in ("a", "b"):
        fit(tmp_path / name, SaliencyCallback(GradCAM(), samples=3, save_maps=True))
    found = compare(tmp_path / "a", tmp_path / "b")
    assert found.table["ssim"].tolist() == [1.0, 1.0]


# --- reading ----------------------------------------------------------------------------------


def test_folders_without_maps_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"folder of a run, got .*nowhere"):
        load_maps(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"'saliency_maps' in .*save_maps=True"):
        load_maps(tmp_path)
    (tmp_path / "saliency_maps").mkdir()
    with pytest.raises(InputError, match=r"found none. They are written with save_maps=True"):
        load_maps(tmp_path)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "saliency_maps" / "gradient"
    write_maps(folder, entry())
    path = write_maps(folder, entry(1))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match=r"epoch=00001.*Remove it if it is damaged"):
        load_maps(tmp_path)


@pytest.mark.parametrize("other", [entry(1, count=3), entry(1, mark="b")])
def test_explanations_of_other_samples_are_not_mixed(tmp_path: Path, other: MapFile) -> None:
    folder = tmp_path / "saliency_maps" / "gradient"
    write_maps(folder, entry())
    write_maps(folder, other)
    with pytest.raises(InputError, match=r"of different runs"):
        load_maps(tmp_path)
