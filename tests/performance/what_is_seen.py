"""How far the colors of maps stand out from the gray images beneath, on three networks.

python tests/performance/what_is_seen.py
python tests/performance/what_is_seen.py --folder runs/seen resnet18   # to look at in TensorBoard
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import warnings
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from watched_runs import RUNS, alarmed, seen, watch


def main() -> None:
    """Train the networks that were named, or all, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"some of: {', '.join(RUNS)}")
    parser.add_argument("--folder", type=Path, help="where the runs are kept")
    options = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print("CIELAB differences from the gray image, medians over the maps of all epochs")
    print(f"{'':22s}{'brightest tenth':>16s}{'lower half':>12s}{'full color':>12s}{'empty':>8s}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        for name in options.names or RUNS:
            watch(name, folder, alarmed() if name == "resnet18" else [], custom_scalars=True)
            for method, found in seen(folder / name).items():
                print(
                    f"{name + ', ' + method:22s}{found.tenth:16.0f}{found.haze:12.1f}"
                    f"{found.full:12.2%}{found.empty:8.0%}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
