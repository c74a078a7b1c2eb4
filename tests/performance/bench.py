"""Run every measurement in one process, print the tables, write them as JSON.

make bench
python tests/performance/bench.py --quick
python tests/performance/bench.py gradient epoch
python tests/performance/bench.py --keep-memory rise
"""

from __future__ import annotations

import argparse
import inspect
import json
import logging
import os
import platform
import time
import warnings
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# Before torch is imported: ratios of single threads are what can be compared.
os.environ.setdefault("OMP_NUM_THREADS", "1")

MEASUREMENTS = {
    "gradient": "bench_gradient",
    "attn_lrp": "bench_attn_lrp",
    "rise": "bench_rise",
    "known_maps": "bench_known_maps",
    "extremal": "bench_extremal",
    "known_optimum": "bench_known_optimum",
    "epoch": "bench_epoch",
    "callback_cost": "callback_cost",
    "budget_share": "budget_share",
    "drift_cost": "drift_cost",
    "evidence_cost": "evidence_cost",
    "snapshot_cost": "snapshot_cost",
    "pointing_cost": "pointing_cost",
    "two_processes": "two_processes",
}
# Runs of half an hour, for whoever changes what they measure.
BY_NAME_ONLY = {
    "alarm_rates": "alarm_rates",
    "evidence_runs": "evidence_runs",
    "pointing_networks": "bench_pointing_networks",
    "shortcut_seeds": "shortcut_seeds",
    "tetrominoes": "bench_tetrominoes",
}
EVERY = MEASUREMENTS | BY_NAME_ONLY


def main() -> None:
    """Run the measurements that were named, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"some of: {', '.join(EVERY)}")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, smaller references")
    parser.add_argument(
        "--keep-memory",
        action="store_true",
        help="do not give freed memory back to the system: ratios of the computations alone",
    )
    parser.add_argument("--output", type=Path, default=Path("build/bench.json"))
    options = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    results: dict[str, Any] = {
        "machine": machine(options.keep_memory),
        "quick": options.quick,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    for name in options.names or MEASUREMENTS:
        start = time.process_time()
        results[name] = measure(EVERY[name], options.quick)
        minutes = (time.process_time() - start) / 60
        # After each, so that an interrupted run has something to show.
        options.output.write_text(json.dumps(results, indent=2))
        print(f"\n{name}: {minutes:.1f} CPU minutes; written to {options.output}", flush=True)


def measure(module: str, quick: bool) -> Any:
    """Return what a module's ``main`` measures; None if there is no such module."""
    if find_spec(module) is None:
        return None
    run = import_module(module).main
    return run(quick=quick) if "quick" in inspect.signature(run).parameters else run()


def machine(keep_memory: bool) -> dict[str, str]:
    """Return what the figures depend on.

    Args:
        keep_memory: see ``timing.keep_memory``.
    """
    import timing
    import torch

    kept = keep_memory and timing.keep_memory()
    processors = [
        line.partition(":")[2].strip()
        for path in [Path("/proc/cpuinfo")]
        if path.exists()
        for line in path.read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": f"{platform.machine()} {processors[0] if processors else ''}".strip(),
        "torch": torch.__version__,
        "threads": "1",
        "memory": "kept" if kept else "given back",
    }


if __name__ == "__main__":
    main()
