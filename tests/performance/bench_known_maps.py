"""How near RISE comes to maps that are known: slope, error and bias on six scores of masks.

python tests/performance/bench.py known_maps
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from known_maps import MAPS, slope_error_bias

from lightning_saliency.attribution.rise_estimation.presets import RISEPreset

PRESETS: tuple[RISEPreset | None, ...] = (None, "balanced")


def main(quick: bool = False, num_masks: int = 256) -> dict[str, Any]:
    """Print and return slope, error, bias, and the bias that chance alone would give."""
    torch.set_num_threads(1)
    seeds = 4 if quick else 8
    print(f"\n{num_masks} masks, {seeds} seeds: slope / error of one map / bias (by chance)")
    found = {}
    for known in MAPS:
        for preset in PRESETS:
            row = slope_error_bias(known, num_masks, seeds, preset)
            slope, error, bias, chance = row
            title = preset or "default"
            shown = f"{slope:.2f} / {error:.3f} / {bias:.3f} ({chance:.3f})"
            print(f"  {known.name:20s} {title:9s} {shown}", flush=True)
            found[f"{known.name}, {title}"] = row
    return found


if __name__ == "__main__":
    main("--quick" in sys.argv)
