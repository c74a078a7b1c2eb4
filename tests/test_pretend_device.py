"""On an accelerator the maps are the CPU's, and the host hardly ever waits for the device.

The accelerator is none, see ``pretend_device.py``; it lives in a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from contract import METHODS
from pretend_device import is_possible

pytestmark = pytest.mark.skipif(not is_possible(), reason="this torch has no backends in Python")

# Its search takes another way over the masks on accelerators.
NOT_TO_THE_BIT = {"ExtremalPerturbation": 1e-3}
MOST_WAITS = 12


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what was found of each method."""

    @lru_cache
    def run() -> str:
        out = tmp_path_factory.mktemp("pretend") / "found"
        script = Path(__file__).with_name("pretend_runs.py")
        ended = subprocess.run(
            [sys.executable, str(script), str(out)], capture_output=True, text=True, timeout=300
        )
        assert ended.returncode == 0, ended.stderr[-3000:]
        return out.read_text()

    return json.loads(run())


@pytest.mark.parametrize("name", METHODS)
def test_maps_are_those_of_the_cpu(found: dict[str, Any], name: str) -> None:
    assert found[name]["device"] == "pretend:0"
    assert found[name]["difference"] <= NOT_TO_THE_BIT.get(name, 0)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    ("few", "more"),
    [("few", "more iterations"), ("few", "more images"), ("few layers", "more layers")],
)
def test_the_host_does_not_wait_more_often(
    found: dict[str, Any], name: str, few: str, more: str
) -> None:
    waits = found[name]["waits"]
    assert sum(waits[more].values()) <= sum(waits[few].values()), (waits[few], waits[more])
    assert sum(waits[more].values()) <= MOST_WAITS, waits[more]


def test_a_callback_in_training(tmp_path: Path) -> None:
    out = tmp_path / "found"
    script = Path(__file__).with_name("pretend_fit.py")
    ended = subprocess.run(
        [sys.executable, str(script), str(out)], capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    found = json.loads(out.read_text())
    assert len(found["cpu"]["numbers"]) > 50
    assert repr(found["6 samples"]["numbers"]) == repr(found["cpu"]["numbers"])
    few, more = (
        [sum(lines.values()) for lines in found[case]["waits"]]
        for case in ("3 samples", "6 samples")
    )
    assert len(few) == 3
    assert more == few
    # Of both methods, their pictures and numbers; the first also checks the samples.
    assert max(few) <= 30, found["3 samples"]["waits"]


def test_the_device_sees_what_it_should_see() -> None:
    script = """
import sys; sys.path.insert(0, sys.argv[1])
import torch
from pretend_device import counted_waits, set_up
set_up()
here, away = torch.arange(6.0).reshape(2, 3), torch.arange(6.0, device="pretend").reshape(2, 3)
assert str(away.device) == "pretend:0" and torch.equal(away.cpu(), here)
for mix in (lambda: away + here, lambda: torch.cat([away, here]), lambda: here.add_(away)):
    try:
        mix()
    except RuntimeError as error:
        assert "one device" in str(error)
    else:
        raise AssertionError("a mixture went through")
assert torch.equal((away + torch.tensor(1.0)).cpu(), here + 1)
waiting = {
    "item": lambda: away.sum().item(), "bool": lambda: bool(away.any()),
    "cpu": lambda: away.cpu(), "to": lambda: away.to("cpu"), "copy_": lambda: here.copy_(away),
    "nonzero": lambda: away.nonzero(), "equal": lambda: torch.equal(away, away),
    "mask": lambda: away[away > 2], "unique": lambda: away.unique(),
    "tolist": lambda: away.tolist(),
    "float": lambda: float(away.max()), "where": lambda: torch.where(away > 1),
}
for name, wait in waiting.items():
    with counted_waits() as waits:
        wait()
    assert waits.total >= 1, name
quiet = [
    lambda: away * 2, lambda: away[0], lambda: away[:, [0, 2]], lambda: away.mul_(1).shape,
    lambda: torch.zeros(3, device="pretend"), lambda: here.to("pretend"), lambda: away.sum(),
]
for run in quiet:
    with counted_waits() as waits:
        run()
    assert waits.total == 0, waits.lines
leaf = away.clone().requires_grad_()
(gradient,) = torch.autograd.grad((leaf**2).sum(), leaf)
assert torch.equal(gradient.cpu(), 2 * here)
view = away[0]
view.add_(1)
assert torch.equal(away.cpu()[0], here[0] + 1)
# Without the end of the interpreter, in which torch's own threads for the device can abort.
import os; os._exit(0)
"""
    here = str(Path(__file__).parent)
    ended = subprocess.run(
        [sys.executable, "-c", script, here], capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
