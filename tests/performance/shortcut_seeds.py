"""Whether the alarm of examples/shortcut.py is in time, and silent without a mark, for some seeds.

python tests/performance/bench.py shortcut_seeds
"""

from __future__ import annotations

import contextlib
import io
import os
import runpy
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

# Before torch is imported: runs of single threads can stand beside each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

EXAMPLE = Path(__file__).parents[2] / "examples" / "shortcut.py"
JOINS = 8
FALL = 0.05


def run(seed: int, mark: bool) -> dict[str, dict[int, float]]:
    """Run the example and return its scalars by tag and epoch."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with TemporaryDirectory() as folder:
        arguments = ["--seed", str(seed), "--folder", f"{folder}/shortcut", "--device", "cpu"]
        sys.argv = [str(EXAMPLE), *arguments, *([] if mark else ["--no-mark"])]
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            runpy.run_path(str(EXAMPLE), run_name="__main__")
        (version,) = Path(folder, "shortcut").glob("version_*")
        events = EventAccumulator(str(version), {"scalars": 0}).Reload()
        found = {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}
    epoch = {event.step: round(event.value) for event in found["epoch"]}
    return {
        tag: {epoch[event.step]: event.value for event in values}
        for tag, values in found.items()
        if tag != "epoch"
    }


def judge(scalars: dict[str, dict[int, float]]) -> dict[str, Any]:
    """Return when the alarm sounded, when the accuracy fell, and where the maps ended."""
    regions = "saliency_alarm/region/"
    gauges = {tag: values for tag, values in scalars.items() if tag.startswith(regions)}
    sounded = sorted(
        {epoch for values in gauges.values() for epoch, score in values.items() if score > 1}
    )
    accuracy = scalars["accuracy_conflict"]
    bound = accuracy[JOINS - 1] - FALL
    low = [epoch for epoch in sorted(accuracy) if epoch >= JOINS and accuracy[epoch] < bound]
    shares = {
        tag.split("/")[1]: values[max(values)]
        for tag, values in scalars.items()
        if tag.startswith("saliency_region/") and tag.endswith("/predicted/mark")
    }
    return {
        "sounded": sounded,
        "fell": low[0] if low else None,
        "shares": shares,
        "accuracy": accuracy,
    }


def main(seeds: Sequence[int] = range(5)) -> dict[str, Any]:
    """Print a line for each run and return what they are made of."""
    results: dict[str, Any] = {}
    for seed, mark in product(seeds, (True, False)):
        result = judge(run(seed, mark))
        results[f"{seed} {'mark' if mark else 'no mark'}"] = result
        shares = " ".join(f"{share:.2f}" for share in result["shares"].values())
        print(
            f"seed {seed}, {'   mark' if mark else 'no mark'}: "
            f"alarm in epochs {result['sounded']}, "
            f"accuracy down by 5 points in {result['fell']}, shares on the mark {shares}",
            flush=True,
        )
    return results


if __name__ == "__main__":
    main()
