"""A module in FSDPStrategy's wrapper is explained through it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from contract import METHODS
from processes import run_together

from lightning_saliency.attribution import ExtremalPerturbation

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("fsdp_processes.py")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    """Return what each process has found, alone and of two."""
    return {
        world: run_together(SCRIPT, tmp_path_factory.mktemp(str(world)), world) for world in (1, 2)
    }


@pytest.mark.parametrize("run", ["still", "another forward", "no forward"])
def test_maps_are_those_of_the_whole_module(
    found: dict[int, list[dict[str, Any]]], run: str
) -> None:
    (whole,) = (each[run]["maps"] for each in found[1])
    names = set(METHODS) if run == "still" else {"GradCAM", "Gradient"}
    for process in found[2]:
        sharded = process[run]["maps"]
        # Four batches a process in an epoch, eight alone; a validation run after every second.
        assert (len(whole), len(sharded)) == (8, 4)
        assert whole[-1].keys() == sharded[-1].keys() == {METHODS[name].name for name in names}
        for name, maps in whole[-1].items():
            wanted, came = torch.tensor(maps), torch.tensor(sharded[-1][name])
            # Some CPUs sum a batch of another size in another order; a search lets that grow.
            # Lightning's FSDP knows no float64, where nothing would be seen of it.
            tolerance = 1e-4 if name == ExtremalPerturbation.name else 1e-5
            assert (came - wanted).abs().max() <= tolerance * wanted.abs().max(), name


def test_training_is_untouched(found: dict[int, list[dict[str, Any]]]) -> None:
    for process in found[2]:
        assert len(process["alone"]["losses"]) == 8
        assert process["with"]["losses"] == process["alone"]["losses"]
        assert len(process["with"]["maps"]) == 4


def test_what_needs_a_copy_of_the_module_says_so_before_training(
    found: dict[int, list[dict[str, Any]]],
) -> None:
    for process in found[2]:
        assert "those of 'net.features' are sharded. Load a checkpoint" in process["said"]
