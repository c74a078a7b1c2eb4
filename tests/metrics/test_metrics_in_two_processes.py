"""The metrics give the same numbers on two processes as on one."""

import json
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from processes import process_group, run_together

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


def found(rank: int, uneven: bool) -> dict[str, float]:
    if uneven:
        # One process has no sample at all, the other two batches.
        shares = [slice(0, 0)] if rank == 0 else [slice(0, 3), slice(3, COUNT)]
    else:
        shares = [slice(rank, COUNT, 2)]
    return results(shares)


@pytest.mark.slow
@pytest.mark.parametrize("uneven", [False, True])
def test_two_processes_give_what_one_gives(tmp_path: Path, uneven: bool) -> None:
    expected = results([slice(0, COUNT)])
    for each in run_together(Path(__file__), tmp_path, 2, str(int(uneven))):
        assert each == pytest.approx(expected, rel=1e-6)


if __name__ == "__main__":
    _uneven, _rank, _world, _store, _out = sys.argv[1:]
    warnings.simplefilter("error")
    with process_group(_store, int(_rank), int(_world)):
        Path(_out).write_text(json.dumps(found(int(_rank), _uneven == "1")))
