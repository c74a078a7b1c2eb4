"""Whether the alarm of examples/shortcut.py is in time, and silent without a mark, for some seeds.

python tests/performance/shortcut_seeds.py --seeds 0 1 2 3 4
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import runpy
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

# Before torch is imported: runs of single threads can stand beside each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

EXAMPLE = Path(__file__).parents[2] / "examples" / "shortcut.py"
JOINS = 8
FALL = 0.05


def run(seed: int, mark: bool, more: list[str]) -> dict[str, dict[int, float]]:
    """Run the example and return its scalars by tag and epoch."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with TemporaryDirectory() as folder:
        arguments = ["--seed", str(seed), "--folder", f"{folder}/shortcut", "--device", "cpu"]
        sys.argv = [str(EXAMPLE), *arguments, *([] if mark else ["--no-mark"]), *more]
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
    gauges = {tag: values for tag, values in scalars.items() if tag.startswith("saliency_alarm/")}
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


def main() -> dict[str, Any]:
    """Print a line for each run and return what they are made of."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument("--output", type=Path, default=Path("build/shortcut_seeds.json"))
    options, more = parser.parse_known_args()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {}
    for seed in options.seeds:
        for mark in (True, False):
            result = judge(run(seed, mark, more))
            results[f"{seed} {'mark' if mark else 'no mark'}"] = result
            shares = " ".join(f"{share:.2f}" for share in result["shares"].values())
            print(
                f"seed {seed}, {'   mark' if mark else 'no mark'}: "
                f"alarm in epochs {result['sounded']}, "
                f"accuracy down by 5 points in {result['fell']}, shares on the mark {shares}",
                flush=True,
            )
            options.output.write_text(json.dumps(results, indent=2))
    return results


if __name__ == "__main__":
    main()
