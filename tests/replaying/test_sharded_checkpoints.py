"""Checkpoints in several files, of a run on several processes that shared its weights."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "callbacks"))

from processes import run_together
from sharded_run import EPOCHS, Maps, Plain, callback
from small_runs import QUIET, val_loader

from lightning_saliency import replay
from lightning_saliency.errors import InputError

pytestmark = [*QUIET, pytest.mark.slow]
SCRIPT = Path(__file__).with_name("sharded_run.py")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """The folder of a run on two processes, and what each has found."""
    folder = tmp_path_factory.mktemp("sharded")
    return folder, run_together(SCRIPT, folder, 2, str(folder))


def assert_alike(one: list[Any], other: list[Any]) -> None:
    assert [each["epoch"] for each in one] == list(range(EPOCHS))
    for first, second in zip(one, other, strict=True):
        assert (first["epoch"], first["step"]) == (second["epoch"], second["step"])
        for name, maps in first["maps"].items():
            wanted, came = torch.tensor(maps), torch.tensor(second["maps"][name])
            # Some CPUs sum a batch of another size in another order.
            assert (came - wanted).abs().max() <= 1e-5 * wanted.abs().max(), name


def test_the_checkpoints_are_folders(run: tuple[Path, list[Any]]) -> None:
    folder, _ = run
    for epoch in range(EPOCHS):
        parts = {path.name for path in (folder / "ckpt" / f"epoch={epoch}.ckpt").iterdir()}
        assert {"meta.pt", ".metadata", "__0_0.distcp", "__1_0.distcp"} <= parts


def test_they_are_replayed_on_as_many_processes(run: tuple[Path, list[Any]]) -> None:
    for process in run[1]:
        assert_alike(process["live"], process["again"])


def test_they_are_replayed_on_one_process(run: tuple[Path, list[Any]], tmp_path: Path) -> None:
    folder, (first, _) = run
    maps = Maps()
    replay(
        Plain(),
        folder / "ckpt",
        [callback(), maps],
        val_loader(),
        tmp_path,
        weights_only=False,
        accelerator="cpu",
    )
    assert_alike(first["live"], maps.found)


def test_what_loading_them_may_run_is_said(run: tuple[Path, list[Any]], tmp_path: Path) -> None:
    folder, found = run
    for process in found:
        assert "the index of its files as a pickle" in process["said"]
    with pytest.raises(InputError, match=r"index of its files as a pickle.*weights_only=False"):
        replay(Plain(), folder / "ckpt", callback(), val_loader(), tmp_path, accelerator="cpu")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_which_a_file_is_missing_is_skipped(
    run: tuple[Path, list[Any]], tmp_path: Path
) -> None:
    import shutil

    shutil.copytree(run[0] / "ckpt", tmp_path / "ckpt")
    (tmp_path / "ckpt" / "epoch=1.ckpt" / "__1_0.distcp").unlink()
    with pytest.warns(UserWarning, match="1 checkpoints were skipped"):
        found = replay(
            Plain(),
            tmp_path / "ckpt",
            callback(),
            val_loader(),
            tmp_path / "out",
            weights_only=False,
            accelerator="cpu",
        )
    assert [each.epoch for each in found.explained] == [0, 2]
