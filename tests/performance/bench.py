"""Run every measurement, print the tables, write them as JSON.

make bench
python tests/performance/bench.py callback_cost
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import time
import warnings
from importlib import import_module
from pathlib import Path

# Before torch is imported: ratios of single threads are what can be compared.
os.environ.setdefault("OMP_NUM_THREADS", "1")

MEASUREMENTS = ["callback_cost", "pointing_cost"]


def main() -> None:
    """Run the measurements that were named, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"some of: {', '.join(MEASUREMENTS)}")
    parser.add_argument("--output", type=Path, default=Path("build/bench.json"))
    options = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    results = {}
    for name in options.names or MEASUREMENTS:
        results[name] = import_module(name).main()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    machine = {"date": time.strftime("%Y-%m-%d"), "processor": platform.machine()}
    options.output.write_text(json.dumps({"machine": machine, **results}, indent=2))
    print(f"\nWritten to {options.output}.")


if __name__ == "__main__":
    main()
