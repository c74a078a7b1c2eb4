"""How many masks RISE needs, and what a mask costs: ours, the plain estimator, TorchRay."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from digit_networks import NETWORKS, small_cnn
from rise_masks import Options, bench_masks
from timing import Verdict, alternate, ratio, table, verdict
from torch import Tensor, nn
from torchvision.models import mobilenet_v2, resnet18

from lightning_saliency.attribution import RISE
from lightning_saliency.network.batching import batches_for

SETTINGS = (
    # Network, side, images, masks, whether all classes are explained; how many times the rounds,
    # because the quickest are the least certain.
    ("small @64, 1 image", small_cnn, 64, 1, 256, False, 5),
    ("small @64, 16 images", small_cnn, 64, 16, 256, False, 1),
    ("resnet18 @64, 16 images", NETWORKS["resnet18"][0], 64, 16, 128, False, 1),
    ("resnet18 @224, 1,000 classes, one", resnet18, 224, 1, 128, False, 1),
    ("resnet18 @224, 1,000 classes, all", resnet18, 224, 1, 128, True, 1),
)


def bench_cost(rounds: int) -> dict[str, Any]:
    """Compare the time for a number of masks with TorchRay's and with bare forward passes."""
    rows: list[Verdict] = []
    seconds = {}
    for title, make, side, count, masks, every_class, more in SETTINGS:
        torch.manual_seed(0)
        model, images = make().eval(), torch.rand(count, 3, side, side)
        target = [i % 10 for i in range(count)]
        spent = alternate(_works(model, images, target, masks, every_class), more * rounds)
        seconds[title] = spent
        rows.append(verdict(f"{title} / bare forwards", ratio(spent, "ours", "bare"), 1.08))
        if "torchray" in spent:
            times = ratio(spent, "torchray", "ours")
            wanted = 1.25 if "1,000" in title else 1.0
            rows.append(verdict(f"TorchRay / {title}", times, wanted, at_least=True))
    print(table(f"RISE: CPU time for the same masks, median of {rounds} rounds or more", rows))
    return {"rows": rows, "seconds": seconds}


# Not a small vision transformer: two halves of its reference agree to 0.87 only.
TRIED = ("small", "gated", "resnet18")

BATCH_SIZES = (4, 8, 16, 32, 64)


def bench_batches(rounds: int) -> dict[str, Any]:
    """Compare the batch size that is taken by default with others, by bare forward passes."""
    rows: list[Verdict] = []
    seconds = {}
    for title, make, side in (
        ("small @64", small_cnn, 64),
        ("resnet18 @64", NETWORKS["resnet18"][0], 64),
        ("resnet18 @128", resnet18, 128),
        ("resnet18 @224", resnet18, 224),
        ("mobilenet_v2 @224", mobilenet_v2, 224),
    ):
        torch.manual_seed(0)
        model, images = make().eval(), torch.rand(BATCH_SIZES[-1], 3, side, side)
        works = {str(size): partial(_in_batches, model, images, size) for size in BATCH_SIZES}
        spent = alternate(works, rounds)
        seconds[title] = spent
        auto = str(batches_for("auto", images).size)
        for size in works:
            times = ratio(spent, auto, size)
            rows.append(verdict(f"{title}: {auto} at once / {size} at once", times, 1.10))
    print(table(f"batch size by default: CPU time, median of {rounds} rounds", rows))
    return {"rows": rows, "seconds": seconds}


@torch.inference_mode()
def _in_batches(model: nn.Module, images: Tensor, size: int) -> None:
    for some in images.split(size):
        model(some)


def _works(
    model: nn.Module,
    images: Tensor,
    target: list[int],
    masks: int,
    every_class: bool,
) -> dict[str, Callable[[], object]]:
    method = RISE(masks)
    # As many at once as RISE takes: that alone is a gain for large images.
    size = batches_for("auto", images).size
    batch = torch.rand(size, *images.shape[1:])

    @torch.inference_mode()
    def bare() -> None:
        for _ in range(masks * len(images) // len(batch)):
            model(batch)

    def ours() -> Tensor:
        return method.all_classes(model, images) if every_class else method(model, images, target)

    works: dict[str, Callable[[], object]] = {"bare": bare, "ours": ours}
    if importlib.util.find_spec("torchray"):
        from torchray.attribution.rise import rise_class

        works["torchray"] = partial(
            rise_class,
            model,
            images,
            target=target,
            num_masks=masks,
        )
    return works


def main(quick: bool = False, networks: Sequence[str] = TRIED) -> dict[str, Any]:
    """Measure; print and return the tables."""
    torch.set_num_threads(1)
    options = Options(reference=8192, largest=2048, seeds=1) if quick else Options()
    cost, batches = bench_cost(2 if quick else 3), bench_batches(2 if quick else 5)
    # The large network takes a quarter of an hour for 32,768 masks of eight images.
    chosen = [name for name in networks if not quick or name == "small"]
    masks = {name: bench_masks(name, options) for name in chosen}
    return {"cost": cost, "batches": batches, "masks": masks}


if __name__ == "__main__":
    main()
