"""The metrics give the same numbers on two processes as on one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lightning_saliency.metrics import Faithfulness, PointingGame, SaliencyDrift

COUNT = 7


def drift_maps() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    current, reference = torch.rand(2, COUNT, 1, 12, 12, generator=generator)
    current[3] = 0.0
    return current, reference


def game_data() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    maps, masks = torch.rand(2, COUNT, 1, 12, 12, generator=generator)
    return maps, masks > 0.98, torch.arange(COUNT) % 3


def faithfulness_values() -> dict[str, Tensor]:
    deletion, road = torch.rand(2, COUNT, generator=torch.Generator().manual_seed(2))
    road[5] = torch.nan
    return {"deletion": deletion, "road": road}


def results(shares: list[slice]) -> dict[str, float]:
    """Feed the metrics with some of the samples and bring all processes together."""
    drift, game = SaliencyDrift(), PointingGame(4, tolerance=3)
    faithful = Faithfulness(["deletion", "road"])
    for share in shares:
        drift.update(*(part[share] for part in drift_maps()))
        game.update(*(part[share] for part in game_data()))
        faithful.update({name: part[share] for name, part in faithfulness_values().items()})
    found = {name: float(value) for name, value in drift.compute().items()}
    found |= {f"{name} of all": float(value) for name, value in faithful.compute().items()}
    return {**found, "pointing_game": float(game.compute())}


def run_rank(rank: int, folder: str, uneven: bool) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    if uneven:
        # One process has no sample at all, the other two batches.
        shares = [slice(0, 0)] if rank == 0 else [slice(0, 3), slice(3, COUNT)]
    else:
        shares = [slice(rank, COUNT, 2)]
    torch.save(results(shares), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("uneven", [False, True])
def test_two_processes_give_what_one_gives(tmp_path: Path, uneven: bool) -> None:
    command = [sys.executable, "-W", "error", __file__, str(tmp_path), str(int(uneven))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ranks = [subprocess.Popen([*command, str(rank)], env=environment) for rank in range(2)]
    assert [process.wait(timeout=120) for process in ranks] == [0, 0]
    expected = results([slice(0, COUNT)])
    for rank in range(2):
        assert torch.load(tmp_path / f"{rank}.pt") == pytest.approx(expected, rel=1e-6)


if __name__ == "__main__":
    run_rank(int(sys.argv[3]), sys.argv[1], sys.argv[2] == "1")
