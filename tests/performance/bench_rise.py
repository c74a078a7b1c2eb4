"""How many masks RISE needs, and what a mask costs: ours against the plain estimator and TorchRay.

Run ``python tests/performance/bench_rise.py --help``. One thread, CPU time of the process. The
networks are trained here, on pictures of digits over clutter, 64 x 64 pixels.
"""

import argparse
import importlib.util
import json
import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from timing import alternate
from torch import Tensor, nn
from torchvision.models import resnet18

from lightning_saliency.attribution import RISE
from lightning_saliency.attribution.mask_average import MaskAverage, rank_correlation
from lightning_saliency.attribution.rise_estimator import ESTIMATORS
from lightning_saliency.benchmark.cluttered_digits import ClutteredDigits
from lightning_saliency.image.random_mask import MaskBlock
from lightning_saliency.network.batching import Batches
from lightning_saliency.network.masked_scores import masked_scores
from lightning_saliency.network.score import all_class_scores

KINDS = ("probability", "sigmoid", "log_probability", "logit")
GOAL = 0.95


# --- networks and pictures --------------------------------------------------------------------


def small_cnn() -> nn.Module:
    """Four convolutions of 16 to 64 channels with BatchNorm, and one linear layer."""
    layers: list[nn.Module] = []
    channels = 3
    for i, width in enumerate((16, 32, 64, 64)):
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if i < 3 else [nn.AdaptiveAvgPool2d(1)]
        channels = width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels, 10))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, float]] = {
    # What makes it, epochs, largest learning rate.
    "small": (small_cnn, 5, 4e-3),
    "resnet18": (partial(resnet18, num_classes=10), 4, 2e-3),
}


def pictures(split: str, count: int) -> tuple[Tensor, Tensor]:
    """Return normalised images and labels."""
    data = ClutteredDigits(split, count, with_mask=False)
    items = [data[i] for i in range(count)]
    images = torch.stack([image for image, _ in items])
    return (images - 0.5) / 0.25, torch.tensor([label for _, label in items])


def trained(name: str) -> tuple[nn.Module, float]:
    """Return a network after its training, in eval mode, and its accuracy on other pictures."""
    make, epochs, rate = NETWORKS[name]
    torch.manual_seed(0)
    model = make()
    images, labels = pictures("train", 4000)
    steps = epochs * (len(images) // 64)
    optimizer = torch.optim.AdamW(model.parameters(), rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    for _ in range(epochs):
        for batch in torch.randperm(len(images))[: len(images) // 64 * 64].split(64):
            loss = F.cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()
    images, labels = pictures("val", 350)
    with torch.no_grad():
        right = torch.cat([model(some).argmax(1) for some in images.split(50)]) == labels
    return model, float(right.float().mean())


# --- how many masks ---------------------------------------------------------------------------


@torch.no_grad()
def all_scores(
    model: nn.Module, images: Tensor, labels: Tensor, blocks: Iterator[MaskBlock]
) -> Iterator[tuple[MaskBlock, Tensor]]:
    """Yield blocks with the score of each kind for each image's label, (N, kinds, M)."""

    def kinds(output: object, owner: Tensor) -> Tensor:
        scores = [all_class_scores(output, kind, len(owner)) for kind in KINDS]
        return torch.stack([s.gather(1, labels[owner][:, None])[:, 0] for s in scores], 1)

    batches = Batches("auto", images.device)
    for block in blocks:
        yield block, masked_scores(model, images, block.masks, kinds, batches)


def blocks_of(preset: str | None, images: Tensor, count: int, seed: int) -> Iterator[MaskBlock]:
    estimator = ESTIMATORS[preset]  # type: ignore[index]
    return estimator.masks(estimator.upsampling(images, 7), count, 0.5, seed)


def curves(
    scored: Iterator[tuple[MaskBlock, Tensor]], reference: Tensor, numbers: list[int]
) -> dict[bool, dict[int, tuple[Tensor, Tensor]]]:
    """Return the correlation with the reference, true and foretold, for each number of masks.

    Both for the plain mean (False) and for the centred one (True).
    """
    average = MaskAverage()
    found: dict[bool, dict[int, tuple[Tensor, Tensor]]] = {False: {}, True: {}}
    for block, scores in scored:
        average.add(scores, block)
        if average.num_masks not in numbers:
            continue
        for centred in (False, True):
            true = rank_correlation(average.mean(centred).flatten(2), reference)
            half = average.split_half(centred).clamp(min=0)
            found[centred][average.num_masks] = (true, (2 * half / (1 + half)).sqrt())
    return found


def needed(curve: dict[int, float]) -> float:
    """Return how many masks reach the goal, between the measured numbers along log N."""
    numbers = sorted(curve)
    for low, high in pairwise(numbers):
        if curve[low] < GOAL <= curve[high]:
            share = (GOAL - curve[low]) / (curve[high] - curve[low])
            return math.exp(math.log(low) + share * math.log(high / low))
    return float(numbers[0]) if curve[numbers[0]] >= GOAL else math.inf


def bench_masks(
    network: str, num_images: int, num_reference: int, largest: int, seeds: int
) -> list[dict[str, object]]:
    """Compare estimators at equal numbers of masks with one of very many masks."""
    model, accuracy = trained(network)
    images, labels = pictures("val", num_images)
    average = MaskAverage()
    for block, scores in all_scores(
        model, images, labels, blocks_of(None, images, num_reference, 10_000)
    ):
        average.add(scores, block)
    reference = average.mean(True).flatten(2)
    halves = average.split_half(True).mean(0).tolist()
    print(
        f"\n{network}: accuracy {accuracy:.3f}, {num_images} images, reference of {num_reference} "
        "masks; mean Spearman correlation with it (in brackets: foretold by the split half)"
    )
    print(
        "its own halves: " + ", ".join(f"{k} {h:.3f}" for k, h in zip(KINDS, halves, strict=True))
    )
    numbers = [n for n in (128 * 2**i for i in range(12)) if n <= largest]
    rows: list[dict[str, object]] = []
    found = {
        preset: [
            curves(
                all_scores(model, images, labels, blocks_of(preset, images, largest, seed)),
                reference,
                numbers,
            )
            for seed in range(seeds)
        ]
        for preset in ("paper", None)
    }
    for title, preset, centred in (
        ("plain", "paper", False),
        ("centred", "paper", True),
        ("ours", None, True),
    ):
        for k, kind in enumerate(KINDS):
            true, told = (
                {
                    n: float(torch.stack([c[centred][n][i][:, k] for c in found[preset]]).mean())
                    for n in numbers
                }
                for i in (0, 1)
            )
            rows.append(
                {
                    "network": network,
                    "score": kind,
                    "estimator": title,
                    "correlation": true,
                    "foretold": told,
                    "masks_to_goal": needed(true),
                }
            )
    for kind in KINDS:
        some = [row for row in rows if row["score"] == kind]
        for row in some:
            print(f"{kind:16s}{row['estimator']:8s}", end="")
            for n in numbers:
                print(f" {n}: {row['correlation'][n]:.3f} ({row['foretold'][n]:.2f})", end="")  # type: ignore[index]
            print(f"  to {GOAL}: {row['masks_to_goal']:.0f}")
    return rows


# --- what a mask costs ------------------------------------------------------------------------


def bench_cost(repeats: int) -> list[dict[str, object]]:
    """Compare the time for a number of masks with TorchRay's and with bare forward passes."""
    torchray = None
    if importlib.util.find_spec("torchray"):
        import torchray.attribution.rise as torchray

    rows: list[dict[str, object]] = []
    print("\ncost for the same masks, CPU time, median; bare = forward passes in batches of 32")
    for title, make, size, count, masks, every_class in (
        ("small @64, 1 image", small_cnn, 64, 1, 512, False),
        ("small @64, 16 images", small_cnn, 64, 16, 128, False),
        ("resnet18 @64, 16 images", partial(resnet18, num_classes=10), 64, 16, 128, False),
        ("resnet18 @224, 1,000 classes, one", resnet18, 224, 1, 128, False),
        ("resnet18 @224, 1,000 classes, all", resnet18, 224, 1, 128, True),
    ):
        torch.manual_seed(0)
        model, images = make().eval(), torch.rand(count, 3, size, size)
        target = [i % 10 for i in range(count)]
        works = _works(model, images, target, masks, every_class, torchray)
        spent = {name: median(times) for name, times in alternate(works, repeats).items()}
        row: dict[str, object] = {"setting": title, "masks": masks, "seconds": spent}
        row["ours_to_bare"] = spent["ours"] / spent["bare"]
        print(f"{title:36s} {masks} masks: ours/bare {row['ours_to_bare']:.2f}", end="")
        if "torchray" in spent:
            row["torchray_to_ours"] = spent["torchray"] / spent["ours"]
            print(f", TorchRay/ours {row['torchray_to_ours']:.2f}", end="")
        print()
        rows.append(row)
    return rows


def _works(
    model: nn.Module,
    images: Tensor,
    target: list[int],
    masks: int,
    every_class: bool,
    torchray: object,
) -> dict[str, Callable[[], object]]:
    method = RISE(masks)
    batch = torch.rand(32, *images.shape[1:])

    @torch.inference_mode()
    def bare() -> None:
        for _ in range(masks * len(images) // len(batch)):
            model(batch)

    def ours() -> Tensor:
        return method.all_classes(model, images) if every_class else method(model, images, target)

    works: dict[str, Callable[[], object]] = {"bare": bare, "ours": ours}
    if torchray is not None:
        works["torchray"] = partial(
            torchray.rise_class,  # type: ignore[attr-defined]
            model,
            images,
            target=target,
            num_masks=masks,
        )
    return works


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", nargs="*", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--reference", type=int, default=32768, help="masks of the reference")
    parser.add_argument(
        "--largest", type=int, default=8192, help="masks of the estimators, at most"
    )
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures there")
    given = parser.parse_args()
    torch.set_num_threads(1)
    cost = bench_cost(given.repeats) if given.repeats else []
    masks = [
        row
        for network in given.network
        for row in bench_masks(network, given.images, given.reference, given.largest, given.seeds)
    ]
    if given.json:
        given.json.write_text(json.dumps({"rise_cost": cost, "rise_masks": masks}, indent=1))


if __name__ == "__main__":
    main()
