"""What the evidence costs beside an epoch of training: ResNet-18, 64 pixels, 16 samples.

python tests/performance/bench.py evidence_cost
"""

from __future__ import annotations

import statistics
from typing import Any

import torch
from bench_epoch import BATCH, PICTURES, SAMPLES, SIDE, _train_step
from digit_networks import NETWORKS
from timing import alternate, table, verdict

from lightning_saliency.trust import measure_evidence

WANTED = {"fill": 0.02, "both": 0.05}


def main(quick: bool = False) -> dict[str, Any]:
    """Measure; print and return the table."""
    torch.manual_seed(0)
    model = NETWORKS["resnet18"][0]()
    images, labels = torch.randn(SAMPLES, 3, SIDE, SIDE), torch.arange(SAMPLES) % 10
    rivals = {
        name: lambda name=name: measure_evidence(model.eval(), images, labels, probes=name)
        for name in WANTED
    }
    steps = {"train": lambda: [_train_step(model) for _ in range(3)]}
    seconds = alternate({**rivals, **steps}, 2 if quick else 5)
    epoch = statistics.median(seconds["train"]) / 3 * PICTURES / BATCH
    rows = [
        verdict(
            f"evidence, {name} ({statistics.median(seconds[name]):.1f} s)",
            statistics.median(seconds[name]) / epoch,
            wanted,
            unit="%",
        )
        for name, wanted in WANTED.items()
    ]
    title = f"share of an epoch of {PICTURES:,} pictures ({epoch:.0f} CPU s), measured once"
    print(table(title, rows))
    return {"epoch_seconds": epoch, "rows": rows}
