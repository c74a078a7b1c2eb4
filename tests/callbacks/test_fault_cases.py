"""Whatever fails on one of two processes, training goes on as if nothing had been explained."""

from __future__ import annotations

from pathlib import Path

import pytest
from fault_cases import cases
from processes import run_together

pytestmark = pytest.mark.slow

Found = list[dict[str, tuple[bool, float, float, list[str]]]]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """Run all cases in one pair of processes; return what each has found."""
    script = Path(__file__).with_name("fault_cases.py")
    return run_together(script, tmp_path_factory.mktemp("faults"), 2)


def test_there_are_at_least_forty() -> None:
    assert len(cases()) >= 40


@pytest.mark.parametrize("case", cases())
def test_training_goes_on_as_without_the_callback(found: Found, case: str) -> None:
    failing = cases()[case][1]
    for rank in range(2):
        same_weights, took, usual, _ = found[rank][case]
        assert same_weights
        # Nobody waited for anybody; a process group's own patience is half an hour.
        assert took < usual + 20
    first, second = (found[rank][case][3] for rank in range(2))
    # Rank zero says it, for whichever process it was, and says which.
    assert second == []
    if case.startswith("NaN"):
        assert first == []
        return
    assert 1 <= len(first) <= 3
    for text in first:
        assert f"(on process {failing})" in text
        assert "on purpose" in text or "No space left on device" in text
        if "forward" in case:
            assert f"(sample {2 * failing})" in text
