"""How far the colors of maps stand out from the gray images beneath, on three networks.

python tests/performance/what_is_seen.py
python tests/performance/what_is_seen.py --seeds 8 resnet18                # how much is chance
python tests/performance/what_is_seen.py --folder runs/seen resnet18   # to look at in TensorBoard
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from color_differences import Difference
from watched_runs import RUNS, alarmed, seen, watch

HEADER = (
    f"{'':28s}{'brightest tenth':>16s}{'lower half':>12s}{'full color':>12s}{'in one map':>12s}"
    f"{'empty':>8s}"
)


def main() -> None:
    """Train the networks that were named, or all, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"some of: {', '.join(RUNS)}")
    parser.add_argument("--seeds", type=int, default=1, help="how often each is trained")
    parser.add_argument("--folder", type=Path, help="where the runs are kept")
    options = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print("CIELAB differences from the gray image, medians over the maps of all epochs")
    print(HEADER)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        for name in options.names or RUNS:
            found: dict[str, list[Difference]] = {}
            for seed in range(options.seeds):
                part = folder / f"seed_{seed}" if options.seeds > 1 else folder
                callbacks = alarmed() if name == "resnet18" else []
                watch(name, part, callbacks, seed=seed, custom_scalars=True)
                for method, one in seen(part / name).items():
                    found.setdefault(method, []).append(one)
                    print(_row(f"{name} {seed}, {method}", one), flush=True)
            for method, each in found.items():
                if len(each) > 1:
                    print(f"{name}, {method}, mean and spread: {_spread(each)}", flush=True)


def _row(name: str, found: Difference) -> str:
    return (
        f"{name:28s}{found.tenth:16.1f}{found.haze:12.1f}{found.full:12.2%}{found.fullest:12.2%}"
        f"{found.empty:8.0%}"
    )


def _spread(each: Sequence[Difference]) -> str:
    """Return the means over the seeds, and the standard deviations."""
    tenths, full = [one.tenth for one in each], [one.full for one in each]
    return (
        f"brightest tenth {statistics.fmean(tenths):.1f} +- {statistics.stdev(tenths):.1f} "
        f"({min(tenths):.1f} to {max(tenths):.1f}), "
        f"full color {statistics.fmean(full):.2%} (at most {max(full):.2%})"
    )


if __name__ == "__main__":
    main()
