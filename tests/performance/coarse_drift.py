"""How similar maps of the same, changed and other evidence seem, by the size of the pictures.

python tests/performance/coarse_drift.py
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_saliency.metrics import coarse, spearman, top10_iou
from lightning_saliency.metrics.map_statistics import canonical

COUNT = 40


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    print(f"{'side':>6}{'measure':>12}{'same':>8}{'changed':>9}{'other':>8}")
    for side in (28, 64, 112, 224, 512):

        def evidence(side: int = side) -> Tensor:
            cells = torch.randn(COUNT, 1, 7, 7, generator=generator)
            return F.interpolate(cells, size=(side, side), mode="bicubic")

        def seen(maps: Tensor, side: int = side) -> Tensor:
            return canonical(maps + torch.randn(COUNT, 1, side, side, generator=generator))

        base, new = evidence(), evidence()
        reference = seen(base)
        others = [seen(base), seen(0.7**0.5 * base + 0.3**0.5 * new), seen(new)]
        for measure in (top10_iou, spearman, coarse):
            values = [float(measure(maps, reference).nanmean()) for maps in others]
            print(f"{side:>6}{measure.name:>12}" + "".join(f"{v:>8.2f}" for v in values))


if __name__ == "__main__":
    main()
