"""Extremal perturbation against the installed TorchRay: an iteration, and whole searches.

python tests/performance/bench_extremal.py --help

The whole runs of TorchRay take hours; they are kept in build/bench with their CPU seconds
(``torchray_masks.py`` makes them), and run again with ``--again``. One thread, CPU time of the
process.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from digit_networks import CACHE, digits, small_cnn, trained
from timing import alternate
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torchray_masks import AREAS, ITERATIONS, SETTINGS, run, torchray, torchray_masks
from torchvision.models import resnet18

from lightning_saliency.attribution import ExtremalPerturbation
from lightning_saliency.image.perturbation import blend, perturbation_levels
from lightning_saliency.image.smooth_mask import SmoothMask


def main(seeds: int = 3, samples: int = 16, again: bool = False) -> dict[str, Any]:
    """Measure everything; print and return the tables."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    return {
        "iteration": iterations(),
        "growth": growth(),
        "largest_tensor": largest_tensor(),
        "whole": whole(seeds, samples, again),
    }


# --- one iteration ----------------------------------------------------------------------------


def iterations() -> list[dict[str, Any]]:
    """Compare one iteration for random networks, 4 areas, with bare passes and with TorchRay."""
    print("\none iteration, 4 areas, CPU milliseconds; bare = the model forward and backward")
    rows = []
    ten = partial(resnet18, num_classes=10)
    for name, make, size, count in (
        ("ResNet-18 @64, 16 samples", ten, 64, 16),
        ("ResNet-18 @224, 1 sample", ten, 224, 1),
        ("small CNN @64, 16 samples", small_cnn, 64, 16),
    ):
        default = ExtremalPerturbation()._search(torch.zeros(1, 3, size, size))
        for step in sorted({7, default.smooth_mask.step}):
            row = _iteration(make, size, count, step)
            print(
                f"  {name:26s} step {step}: bare {row['bare'] * 1e3:5.0f}, ours "
                f"{row['ours'] * 1e3:5.0f}, TorchRay {row['torchray'] * 1e3:5.0f}; ours/bare "
                f"{row['ours'] / row['bare']:.2f}, TorchRay/ours "
                f"{row['torchray'] / row['ours']:.2f}",
                flush=True,
            )
            rows.append({"setting": name, "step": step, **row})
    return rows


def _iteration(make: Callable[[], nn.Module], size: int, count: int, step: int) -> dict[str, Any]:
    torch.manual_seed(0)
    model, images = make().eval().requires_grad_(False), torch.rand(count, 3, size, size)
    areas = (0.05, 0.1, 0.2, 0.3)
    search = ExtremalPerturbation(areas, step=step)._search(images)
    rewards = ExtremalPerturbation(areas)._rewards(model, images, 0)
    grid = torch.rand(count * 4, *search.smooth_mask.grid_size).requires_grad_()
    pictures = images.repeat(4, 1, 1, 1)

    def bare() -> None:
        for some in pictures.split(32):
            leaf = some.clone().requires_grad_()
            torch.autograd.grad(model(leaf)[:, 0].sum(), leaf)

    # TorchRay takes the images one at a time; a few of them stand for all.
    few = min(count, 4)

    def theirs(max_iter: int) -> None:
        for image in images[:few].split(1):
            torchray.extremal_perturbation(
                model, image, 0, list(areas), max_iter=max_iter, step=step, sigma=3 * step
            )

    spent = alternate(
        {
            "bare": bare,
            "ours": lambda: search.slope(grid, 12, rewards),
            "once": lambda: theirs(1),
            "thrice": lambda: theirs(3),
        },
        3,
    )
    middle = {name: statistics.median(seconds) for name, seconds in spent.items()}
    # The difference leaves out what is done once for each image.
    per_iteration = (middle["thrice"] - middle["once"]) / 2 * count / few
    return {"bare": middle["bare"], "ours": middle["ours"], "torchray": per_iteration}


def growth() -> dict[str, dict[int, float]]:
    """Time the search for 1 to 64 samples, and for 1 to 4 areas."""
    model = small_cnn().eval().requires_grad_(False)
    images = torch.rand(64, 3, 64, 64)

    def search(count: int, areas: int) -> None:
        # The model's weights are random, so most masks of larger areas are also grown.
        method = ExtremalPerturbation((0.05, 0.1, 0.2, 0.3)[:areas], max_iter=4)
        search = method._search(images[:count])
        search.run(method._rewards(model, images[:count], 0))

    found: dict[str, dict[int, float]] = {}
    for title, runs in (
        ("samples", {n: partial(search, n, 1) for n in (1, 4, 16, 64)}),
        ("areas", {a: partial(search, 16, a) for a in (1, 2, 4)}),
    ):
        spent = alternate({str(n): work for n, work in runs.items()}, 3)
        found[title] = {n: statistics.median(spent[str(n)]) / n for n in runs}
        listed = ", ".join(f"{n}: {1e3 * each:.0f} ms" for n, each in found[title].items())
        print(f"CPU time for each of the {title}, small CNN, 4 iterations: {listed}", flush=True)
    return found


class _Largest(TorchDispatchMode):
    """Notes the number of elements of the largest tensor that an operation returns."""

    elements = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        result = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self.elements = max([self.elements, *sizes])
        return result


def largest_tensor() -> dict[str, float]:
    """Return the largest tensor of the mask generator, forward and backward, in masks' sizes."""
    found = {}
    for size, step in ((64, 2), (64, 7), (224, 7)):
        smooth = SmoothMask((size, size), step, 3.0 * step)
        grid = torch.rand(4, *smooth.grid_size, requires_grad=True)
        with _Largest() as largest:
            smooth(grid).sum().backward()
        found[f"{size} px, step {step}"] = largest.elements / (4 * size * size)
    listed = ", ".join(f"{name}: {share:.2f}" for name, share in found.items())
    print(f"largest tensor of the mask generator, in sizes of the masks: {listed}")
    return found


# --- whole searches ---------------------------------------------------------------------------

TRIED = ("small", "resnet18")


def whole(seeds: int, samples: int, again: bool) -> list[dict[str, Any]]:
    """Compare whole searches on trained networks."""
    print(
        f"\nwhole searches on trained networks, areas {AREAS}; gain = logit of the label with the "
        "mask's area kept, less\nthat of the fully blurred picture; masks binarised to exactly "
        "their areas; inside = share of the mask on the digit"
    )
    rows = []
    for setting in SETTINGS:
        for network in TRIED:
            for seed in range(seeds):
                count = samples if again else min(samples, _kept(setting, network, seed))
                if not count:
                    print(f"  {network}, seed {seed}: no runs of TorchRay ({setting}) are kept")
                    continue
                rows.append(_compare(setting, network, seed, count, again))
            _summary(setting, network, [r for r in rows if r["of"] == (setting, network)])
    return rows


def _kept(setting: str, network: str, seed: int) -> int:
    path = CACHE / f"torchray_{setting}_{network}_{seed}.pt"
    kept = torch.load(path, weights_only=True) if path.exists() else {}
    return next(i for i in range(len(kept) + 1) if i not in kept)


def _compare(setting: str, network: str, seed: int, count: int, again: bool) -> dict[str, Any]:
    model, accuracy = trained(network, seed)
    images, labels, strokes = digits("val", count, seed)
    theirs = torchray_masks(setting, network, seed, count, again)

    def short() -> None:
        run(setting, model, images[:1], int(labels[0]), 20)

    def ours() -> Tensor:
        return ExtremalPerturbation(AREAS).masks(model, images, labels).masks

    # TorchRay's speed at this moment, beside the seconds that were kept.
    spent = alternate({"ours": ours, "torchray": short}, 2)
    seconds = statistics.median(spent["ours"]) / count
    now = statistics.median(spent["torchray"]) * ITERATIONS / 20
    masks = {"ours": ours(), "torchray": theirs.masks}
    blurs = {
        "ours": perturbation_levels(images, "blur", 8, 20 * 64 / 224),
        "torchray": torch.stack(
            [
                torchray.Perturbation(image, max_blur=SETTINGS[setting][2]).pyramid
                for image in images.split(1)
            ]
        ),
    }
    gain = {
        (whose, blur): _gain(model, labels, levels, mask)
        for whose, mask in masks.items()
        for blur, levels in blurs.items()
    }
    on_digit = F.max_pool2d(strokes[:, None].float(), 5, 1, 2)
    inside = {
        whose: float(((m * on_digit).sum((2, 3)) / m.sum((2, 3))).mean())
        for whose, m in masks.items()
    }
    error = {
        whose: float((m.mean((2, 3)) - torch.tensor(AREAS)).abs().mean())
        for whose, m in masks.items()
    }
    kept = float(theirs.seconds.mean())
    date = time.strftime("%Y-%m-%d") if again else theirs.date
    means = {f"{w} by the blur of {b}": g.mean().item() for (w, b), g in gain.items()}
    print(
        f"  {network}, seed {seed} (accuracy {accuracy:.2f}), {count} samples, TorchRay "
        f"'{setting}' of {date}\n"
        f"    CPU seconds a sample: ours {seconds:.2f}; TorchRay {kept:.1f} (kept), {now:.1f} "
        f"(20 iterations now x {ITERATIONS // 20}); {kept / seconds:.0f} and "
        f"{now / seconds:.0f} times\n"
        f"    mean gain: {', '.join(f'{name} {value:.2f}' for name, value in means.items())}\n"
        f"    inside: ours {inside['ours']:.2f}, TorchRay {inside['torchray']:.2f}; mean error of "
        f"the area: ours {error['ours']:.5f}, TorchRay {error['torchray']:.5f}",
        flush=True,
    )
    return {
        "of": (setting, network),
        "seed": seed,
        "samples": count,
        "seconds": {"ours": seconds, "torchray_kept": kept, "torchray_now": now},
        "gain": means,
        "inside": inside,
        "area_error": error,
        "gains": {
            "ours": gain["ours", "ours"].tolist(),
            "torchray": gain["torchray", "ours"].tolist(),
        },
    }


@torch.no_grad()
def _gain(model: nn.Module, labels: Tensor, levels: Tensor, masks: Tensor) -> Tensor:
    """Return (N, A) of masks that are on at their largest pixels, as many as their area has."""
    on = torch.zeros_like(masks)
    for a, area in enumerate(AREAS):
        flat = masks[:, a].flatten(1)
        chosen = flat.topk(round(area * flat.shape[1])).indices
        on[:, a] = torch.zeros_like(flat).scatter(1, chosen, 1.0).view_as(on[:, a])
    shown = torch.cat([levels[:, :1], blend(levels, on)], 1)
    logits = model(shown.flatten(0, 1)).view(*shown.shape[:2], -1)
    scores = logits.gather(2, labels[:, None, None].expand(-1, shown.shape[1], 1))[..., 0]
    return scores[:, 1:] - scores[:, :1]


def _summary(setting: str, network: str, rows: list[dict[str, Any]]) -> None:
    if not rows:
        return
    ours, theirs = (
        torch.cat([torch.tensor(row["gains"][whose]) for row in rows])
        for whose in ("ours", "torchray")
    )
    enough = ours >= 0.9 * theirs
    rises = (ours[:, 1:] >= ours[:, :-1]).all(1)
    rises_there = (theirs[:, 1:] >= theirs[:, :-1]).all(1)
    print(
        f"  all of {network} against '{setting}': {len(ours)} samples, mean gain "
        f"{float(ours.mean()):.2f} against {float(theirs.mean()):.2f}\n"
        f"    masks with at least 0.9 of TorchRay's gain: {float(enough.float().mean()):.1%}; "
        f"samples with a gain at the larger area at least\n    that at the smaller: "
        f"{float(rises.float().mean()):.1%} (TorchRay {float(rises_there.float().mean()):.1%}); "
        f"samples with both: {float((rises & enough.all(1)).float().mean()):.1%}",
        flush=True,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=16, help="of each network and seed")
    parser.add_argument("--again", action="store_true", help="run TorchRay again; takes hours")
    given = parser.parse_args()
    main(given.seeds, given.samples, given.again)
