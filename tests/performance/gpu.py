"""What can only be seen on a GPU, in less than ten minutes; ``make gpu`` runs it.

On CUDA, and on MPS as far as that goes: maps against the CPU's, recurrent layers in eval mode,
autocast to bfloat16, prices against the bare passes, peak memory against a training step, what
makes the host wait for the device, and the share of an epoch that explanations take. Prints tables
in Markdown. Without a GPU it says so and ends with status 1; ``--device cpu`` tries the script
itself, for which its figures mean nothing.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet18

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent.parent), str(HERE.parent), str(HERE)]

from contract import METHODS, make_method  # noqa: E402
from whole import explain_all  # noqa: E402

from lightning_saliency.attribution import GradCAM, Gradient  # noqa: E402
from lightning_saliency.callbacks.samples.sample_set import SampleSet  # noqa: E402
from lightning_saliency.callbacks.settings import methods_of  # noqa: E402
from lightning_saliency.errors import SaliencyError  # noqa: E402

CLASSES, BATCH, SIDE = 10, 16, 64
# Of the maps' largest value. The iterations of a search for masks enlarge rounding.
TOLERANCE = {"ExtremalPerturbation": 2e-2}
USUAL_TOLERANCE = 1e-4
# Single pixels of a gradient round most: by 0.23 under the CPU's autocast, layers by 0.02.
BF16_BOUND = {"Gradient": 0.4, "GradCAM": 0.05, "LinearApprox": 0.05}


class Recurrent(nn.Module):
    """Reads the rows of an image one after another; cuDNN refuses its backward in eval mode."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.rows = kind(3 * SIDE, 32, batch_first=True)
        self.head = nn.Linear(32, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        out, _ = self.rows(images.permute(0, 2, 1, 3).flatten(2))
        return self.head(out.mean(1))


def network() -> nn.Module:
    torch.manual_seed(0)
    return resnet18(num_classes=CLASSES).eval()


def images() -> Tensor:
    return torch.rand(BATCH, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
    elif device.type == "mps":
        torch.mps.synchronize()


def seconds(device: torch.device, act: Callable[[], object], rounds: int = 7) -> float:
    """Return the median wall time of ``act``, the device's work included."""
    act()
    taken = []
    for _ in range(rounds):
        finish(device)
        start = time.perf_counter()
        act()
        finish(device)
        taken.append(time.perf_counter() - start)
    return sorted(taken)[len(taken) // 2]


def table(title: str, head: list[str], rows: list[list[object]]) -> None:
    print(f"\n### {title}\n\n| {' | '.join(head)} |\n|{' --- |' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(f'{x:.3g}' if isinstance(x, float) else str(x) for x in row)} |")
    sys.stdout.flush()


def difference(device: torch.device, name: str, model: nn.Module, autocast: bool = False) -> float:
    """Return how far a method's maps are from the CPU's, of their largest value."""
    batch, target = images()[:4], [0, 1, 2, 3]
    wanted = make_method(name)(model.cpu(), batch, target)
    method, moved = make_method(name), model.to(device)
    if autocast:

        class Cast(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                with torch.autocast(device.type, torch.bfloat16):
                    out: Tensor = moved(x)
                return out.float()

        holder = Cast()
        holder.inner = moved
        found = method(holder, batch.to(device), target)
    else:
        found = method(moved, batch.to(device), target)
    return float((found.cpu() - wanted).abs().max() / wanted.abs().max())


def compare(device: torch.device) -> bool:
    """Print how far the maps are from the CPU's; return whether all are within their bounds."""
    rows: list[list[object]] = []
    right = True
    for name in METHODS:
        bound = TOLERANCE.get(name, USUAL_TOLERANCE)
        try:
            apart = difference(device, name, network())
        except SaliencyError as error:
            rows.append([name, "does not apply", str(error)[:60], ""])
            continue
        right &= apart <= bound
        rows.append([name, apart, bound, "yes" if apart <= bound else "**no**"])
    table("Maps against the CPU's, TF32 off", ["method", "largest difference", "bound", ""], rows)
    rows = []
    for kind in (nn.LSTM, nn.GRU, nn.RNN):
        torch.manual_seed(0)
        model = Recurrent(kind).eval()
        try:
            apart = difference(device, "Gradient", model)
        except (SaliencyError, RuntimeError) as error:
            right = False
            rows.append([kind.__name__, f"{type(error).__name__}: {str(error)[:80]}"])
            continue
        right &= apart <= USUAL_TOLERANCE
        rows.append([kind.__name__, apart])
    table("Gradient through recurrent layers in eval mode", ["layer", "difference"], rows)
    rows = []
    for name, bound in BF16_BOUND.items():
        apart = difference(device, name, network(), autocast=True)
        right &= apart <= bound
        rows.append([name, apart, bound])
    table("Under autocast to bfloat16", ["method", "difference from float32", "bound"], rows)
    return right


def prices(device: torch.device) -> None:
    """Print what methods cost, against the model's own passes, and their memory."""
    model, batch = network().to(device), images().to(device)
    target = torch.arange(BATCH, device=device) % CLASSES

    def bare() -> None:
        image = batch.clone().requires_grad_()
        score = model(image).gather(1, target[:, None]).sum()
        torch.autograd.grad(score, image)

    def forward() -> None:
        with torch.no_grad():
            model(batch)

    def step() -> None:
        training = network().train().to(device)
        F.cross_entropy(training(batch), target).backward()

    whole, half = seconds(device, bare), seconds(device, forward)
    peak = peak_of(device, step)
    rows: list[list[object]] = []
    for name in METHODS:
        method = make_method(name)
        run = lambda method=method: method(model, batch, target)  # noqa: E731
        try:
            taken = seconds(device, run, rounds=5)
        except SaliencyError:
            continue
        memory = peak_of(device, run)
        share = memory / peak if peak else float("nan")
        rows.append([name, 1000 * taken, taken / whole, taken / half, share])
    head = ["method", "ms", "of forward + backward", "of a forward", "memory, of a training step"]
    table(f"Prices, ResNet-18, {BATCH} images of {SIDE} pixels", head, rows)


def peak_of(device: torch.device, act: Callable[[], object]) -> float:
    if device.type != "cuda":
        return 0.0
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    act()
    torch.cuda.synchronize()
    return float(torch.cuda.max_memory_allocated() - before)


@contextmanager
def noting_waits(device: torch.device, found: list[str]) -> Any:
    if device.type != "cuda":
        yield
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")
    found += [f"{Path(w.filename).name}:{w.lineno}" for w in caught]


def waits(device: torch.device) -> None:
    """Print how often the host waits for the device in a call, for a few and for more samples."""
    model = network().to(device)
    rows: list[list[object]] = []
    for name in METHODS:
        method, counts, where = make_method(name), [], ""
        for count in (2, 16):
            batch, found = images()[:count].to(device), []
            try:
                method(model, batch, 0)
                with noting_waits(device, found):
                    method(model, batch, 0)
            except SaliencyError:
                break
            counts.append(len(found))
            where = ", ".join(sorted(set(found))[:3])
        if counts:
            rows.append([name, *counts, where])
    table("Waits of the host", ["method", "2 images", "16 images", "for instance at"], rows)


def shares(device: torch.device) -> None:
    """Print the share of an epoch of 10,000 pictures that an explanation of 16 samples takes."""
    model, batch = network().to(device), images().to(device)
    training = network().train().to(device)
    large = torch.rand(128, 3, SIDE, SIDE, device=device)
    labels = torch.arange(128, device=device) % CLASSES
    optimizer = torch.optim.SGD(training.parameters(), lr=0.01)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(training(large), labels).backward()
        optimizer.step()

    epoch = seconds(device, step) * 10_000 / 128
    samples = SampleSet(batch, torch.arange(BATCH, device=device) % CLASSES)
    sets: dict[str, list[Any]] = {
        "gradient, Grad-CAM": [Gradient(), GradCAM()],
        "RISE": [METHODS["RISE"]()],
        "extremal perturbation, 4 areas": [
            METHODS["ExtremalPerturbation"](areas=(0.05, 0.1, 0.2, 0.4))
        ],
    }
    rows: list[list[object]] = [
        [name, seconds(device, lambda m=methods: explain_all(model, methods_of(m), samples), 3)]
        for name, methods in sets.items()
    ]
    rows = [[name, 1000 * float(taken), 100 * float(taken) / epoch] for name, taken in rows]
    table("Shares of an epoch of 10,000 pictures", ["methods", "ms", "%"], rows)


def main() -> int:
    """Run all on the device."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", help="default: cuda, or mps, whichever is there")
    options = parser.parse_args()
    there = "cuda" if torch.cuda.is_available() else ""
    there = there or ("mps" if torch.backends.mps.is_available() else "")
    name = options.device or there
    if not name:
        print("There is no GPU here: torch sees neither CUDA nor MPS.")
        return 1
    device = torch.device(name)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    warnings.simplefilter("ignore")
    what = torch.cuda.get_device_name() if device.type == "cuda" else str(device)
    print(f"torch {torch.__version__} on {what}")
    right = compare(device)
    prices(device)
    waits(device)
    shares(device)
    print("\nall within their bounds" if right else "\n**some maps are out of their bounds**")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
