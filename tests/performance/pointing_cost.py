"""What the pointing game costs beside the explanations: reading, resizing, metrics, results."""

from __future__ import annotations

import logging
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torchvision
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
from small_datasets import write_voc

from lightning_saliency.attribution import AttributionMethod
from lightning_saliency.benchmark import (
    PointingModel,
    VOCPointing,
    fully_convolutional,
    pointing_recipe,
)
from lightning_saliency.benchmark.pointing_models import MODELS
from lightning_saliency.evaluation import run_pointing_game

BATCH = 16
PICTURES = 2 * BATCH
ROUNDS = 3
LIMIT = 0.05


@dataclass(frozen=True)
class Timed(AttributionMethod):
    """Another method, of which the CPU seconds are added up."""

    method: AttributionMethod
    seconds: list[float]

    def __call__(self, model: Any, image: Tensor, target: Any) -> Tensor:
        """Explain, and look at the clock before and after."""
        start = time.process_time()
        maps = self.method(model, image, target)
        self.seconds.append(time.process_time() - start)
        return maps

    def attribute(self, model: Any, image: Tensor, target: Any) -> Tensor:
        """Never called: the other method is called as a whole."""
        return self(model, image, target)

    def __repr__(self) -> str:
        """Leave the seconds out: they are no setting."""
        return repr(self.method)


def main() -> dict[str, Any]:
    """Play with Grad-CAM on VGG16 and ResNet50; print and return the shares of the rest."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    print(f"\nPointing game, Grad-CAM, 500 x 375 pixels, batches of {BATCH}, CPU seconds")
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        write_voc(Path(folder), PICTURES + BATCH, classes=20, sizes=[(500, 375)])
        data = VOCPointing(folder)
        for name in ("vgg16", "resnet50"):
            network = getattr(torchvision.models, name)(num_classes=20).eval()
            model = PointingModel(name, fully_convolutional(network), layers=MODELS[name])
            shares = [share_of_the_rest(model, data, Path(folder, str(i))) for i in range(ROUNDS)]
            share = statistics.median(shares)
            print(f"{name}: all but the explanations is {100 * share:.1f} % of them", end="")
            print(f" ({100 * min(shares):.1f} to {100 * max(shares):.1f})")
            results[name] = {"share": share, "shares": shares}
    return {**results, "limit": LIMIT}


def share_of_the_rest(model: PointingModel, data: VOCPointing, folder: Path) -> float:
    """Return the CPU seconds of everything else, as a share of those of the explanations."""
    # What is done once for the whole dataset is the same for few pictures and for many.
    few, many = (
        play(model, data, folder / f"{model.name}-{pictures}.sqlite", pictures)
        for pictures in (BATCH, PICTURES + BATCH)
    )
    total, explaining = (more - less for more, less in zip(many, few, strict=True))
    return (total - explaining) / explaining


def play(model: PointingModel, data: VOCPointing, file: Path, pictures: int) -> tuple[float, float]:
    """Return the CPU seconds of a run, and those of its explanations."""
    seconds: list[float] = []
    recipe = pointing_recipe("grad_cam", model, data)
    timed = replace(recipe, method=Timed(recipe.method, seconds))
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    start = time.process_time()
    run_pointing_game([timed], model, data, file, trainer, limit=pictures, batch_size=BATCH)
    return time.process_time() - start, sum(seconds)


if __name__ == "__main__":
    main()
