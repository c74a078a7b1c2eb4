"""Training is untouched on one device, with DDP and with sharded weights, eager and compiled."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from subprocess import TimeoutExpired

import pytest
from cells import Cell, cells
from processes import run_together

pytestmark = pytest.mark.slow

WORLD = {"single": 1, "ddp": 2, "ddp static": 2, "ddp unused": 2, "fsdp2": 2}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[dict[str, str]]]:
    """Return what each process of a strategy has found; the runs are made once."""

    @lru_cache
    def run(strategy: str) -> list[dict[str, str]] | str:
        script = Path(__file__).with_name("cells.py")
        try:
            return run_together(
                script, tmp_path_factory.mktemp(strategy), WORLD[strategy], strategy
            )
        except (AssertionError, TimeoutExpired) as error:
            # Kept too: one failure is not run once more for every cell.
            return f"{type(error).__name__}: {error}"

    def found(strategy: str) -> list[dict[str, str]]:
        outcome = run(strategy)
        if isinstance(outcome, str):
            pytest.fail(outcome)
        return outcome

    return found


@pytest.mark.parametrize("cell", [cell for strategy in WORLD for cell in cells(strategy)], ids=str)
def test_training_is_untouched(found: Callable[[str], list[dict[str, str]]], cell: Cell) -> None:
    assert [differences[str(cell)] for differences in found(cell.strategy)] == [""] * WORLD[
        cell.strategy
    ]
