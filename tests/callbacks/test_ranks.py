"""Two processes explain what one would."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from contract import METHODS, make_method
from PIL import Image
from quiet import SEVERAL_PROCESSES
from small_runs import QUIET, TinyModule, events, make_trainer, train_loader, val_loader
from torch import Tensor, nn

from lightning_saliency import DriftAlarm, SaliencyCallback
from lightning_saliency.attribution import ExtremalPerturbation, GradCAM, Gradient, LinearApprox
from lightning_saliency.metrics import FAITHFULNESS
from lightning_saliency.trust import TrustChecks

pytestmark = [
    *QUIET,
    pytest.mark.slow,
    *SEVERAL_PROCESSES,
]


class Still(TinyModule):
    """Trains without changing, so that runs of any number of processes have one model."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)

    def on_train_start(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.0


def run(folder: Path, processes: int, *callbacks: Any, **settings: Any) -> None:
    torch.manual_seed(0)
    several = {"strategy": "ddp_fork", "devices": processes} if processes > 1 else {}
    trainer = make_trainer(folder, *callbacks, **several, **settings)
    trainer.fit(Still(), train_loader(), val_loader())


def pictures(folder: Path) -> dict[tuple[str, int], np.ndarray[Any, Any]]:
    found = events(folder)
    return {
        (tag, number): np.asarray(Image.open(io.BytesIO(event.encoded_image_string))).astype(int)
        for tag in found.Tags()["images"]
        for number, event in enumerate(found.Images(tag))
    }


def numbers(folder: Path, *starts: str) -> dict[str, list[float]]:
    found = events(folder)
    # What depends on the clock is not compared.
    starts = starts or ("saliency_d", "saliency_si", "saliency_t")
    tags = [tag for tag in found.Tags()["scalars"] if tag.startswith(starts)]
    return {tag: [event.value for event in found.Scalars(tag)] for tag in tags}


@pytest.mark.parametrize("samples", [[4, 1, 9], 5], ids=["by index", "the first"])
def test_two_processes_log_what_one_logs(tmp_path: Path, samples: Any) -> None:
    for processes in (1, 2):
        callback = SaliencyCallback(
            [Gradient(), GradCAM()], samples=samples, on_error="raise", log="full"
        )
        run(tmp_path / str(processes), processes, callback, precision="64-true")
    one, two = (pictures(tmp_path / str(processes)) for processes in (1, 2))
    assert one.keys() == two.keys()
    for key, picture in one.items():
        # One step of 256: a batch of another size is summed in another order.
        assert np.abs(picture - two[key]).max() <= 1, key
    alone, shared = (numbers(tmp_path / str(processes)) for processes in (1, 2))
    assert alone.keys() == shared.keys()
    for tag, values in alone.items():
        assert shared[tag] == pytest.approx(values, abs=1e-6), tag


class KeptMaps(pl.Callback):
    """Writes the maps as they are, before anything is drawn or measured."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_explained(self, trainer: Any, pl_module: Any, source: Any, explained: Any) -> None:
        if trainer.is_global_zero:
            maps = {name: found.saliency for name, found in explained.explanations.items()}
            torch.save(maps, self.path)


# Some CPUs sum a batch of another size in another order. In float64 nothing is seen of that; in
# float32 a search of many steps lets it grow.
@pytest.mark.parametrize(
    ("precision", "tolerance", "of_search"), [("64-true", 1e-10, 1e-10), ("32-true", 1e-5, 1e-4)]
)
def test_two_processes_make_the_maps_that_one_makes(
    tmp_path: Path, precision: str, tolerance: float, of_search: float
) -> None:
    # One more than comes out even.
    samples = [4, 1, 9, 7, 2]
    kept = []
    for processes in (1, 2):
        callback = SaliencyCallback(
            [make_method(name) for name in METHODS], samples=samples, on_error="raise"
        )
        kept.append(tmp_path / f"{processes}.pt")
        keep = KeptMaps(kept[-1])
        settings = {"precision": precision, "max_epochs": 1}
        run(tmp_path / str(processes), processes, callback, keep, **settings)
    one, two = map(torch.load, kept)
    assert one.keys() == two.keys() == {method.name for method in METHODS.values()}
    for name, maps in one.items():
        assert maps.shape == (5, 1, 16, 16)
        assert maps.std() > 0
        difference = (two[name] - maps).abs().max() / maps.abs().max()
        assert difference <= (of_search if name == ExtremalPerturbation.name else tolerance), name


def with_objects(batch: Any) -> Any:
    """Each picture's object is as many rows as its label, and one more."""
    images, labels = batch
    rows = torch.arange(16, device=labels.device)[None, :, None]
    return images, labels, (rows <= labels[:, None, None]).expand(-1, 16, 16)


@pytest.mark.parametrize("samples", [[4, 1, 9], 5], ids=["by index", "the first"])
def test_two_processes_share_out_masks_and_objects(tmp_path: Path, samples: Any) -> None:
    for processes in (1, 2):
        callback = SaliencyCallback(
            [Gradient(), ExtremalPerturbation(max_iter=4, areas=(0.1, 0.3))],
            samples=samples,
            unpack=with_objects,
            regions=["border"],
            noise_every=1,
            on_error="raise",
            log="full",
        )
        run(tmp_path / str(processes), processes, callback)
    one, two = (events(tmp_path / str(processes)) for processes in (1, 2))
    tags = {
        tag for tag in one.Tags()["scalars"] if tag.startswith("saliency") and "over" not in tag
    }
    assert {f"saliency_{kind}" for kind in ("object", "region", "area", "similarity_level")} <= {
        tag.partition("/")[0] for tag in tags
    }
    assert tags <= set(two.Tags()["scalars"])
    for tag in tags:
        # A search for masks goes its own way after a rounding.
        close = 0.1 if "extremal" in tag else 1e-5
        values = [event.value for event in one.Scalars(tag)]
        found = [event.value for event in two.Scalars(tag)]
        assert found == pytest.approx(values, abs=close, nan_ok=True), tag


class Jumpy:
    """A method whose maps move to the other side in the sixth epoch."""

    __name__ = "jumpy"

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, model: nn.Module, image: Tensor, target: Any) -> Tensor:
        self.calls += 1
        maps = torch.arange(256.0).view(1, 1, 16, 16).expand(len(image), 1, 16, 16)
        return maps.flip(3) if self.calls > 5 else maps.clone()


@pytest.mark.filterwarnings("ignore:Epoch 5")
def test_an_alarm_stops_and_saves_on_all_processes_at_once(tmp_path: Path) -> None:
    # The ranks of these maps hardly change: only one measure jumps.
    alarm = DriftAlarm(warmup=0, window=4, agree=1, stop=True, save_checkpoint=True)
    run(tmp_path, 2, alarm, SaliencyCallback(Jumpy(), samples=3, on_error="raise"), max_epochs=9)
    found = events(tmp_path)
    scores = [event.value for event in found.Scalars("saliency_alarm/jumpy/previous")]
    assert [score > 1 for score in scores] == [True]
    # Two processes take two batches each of an epoch.
    saved = tmp_path / "run" / "checkpoints" / "saliency_alarm-epoch=5-step=12.ckpt"
    assert list(saved.parent.iterdir()) == [saved]


def test_two_processes_find_the_trust_that_one_finds(tmp_path: Path) -> None:
    checks = TrustChecks(tuple(FAITHFULNESS), sanity_check=True)
    for processes in (1, 2):
        callback = SaliencyCallback(
            [Gradient(), LinearApprox()], samples=5, trust=checks, on_error="raise"
        )
        run(tmp_path / str(processes), processes, callback)
    alone, shared = (
        numbers(tmp_path / str(processes), "saliency_faithfulness", "saliency_sanity")
        for processes in (1, 2)
    )
    assert alone.keys() == shared.keys()
    assert len(alone) == 2 * 5 + 3 * 3 + 3 * 6
    assert "saliency_sanity/linear_approx/all_random/spearman_abs" in alone
    for tag, values in alone.items():
        assert shared[tag] == pytest.approx(values, abs=1e-4), tag
    for method in ("gradient", "linear_approx"):
        assert f"saliency/sanity/{method}" in events(tmp_path / "2").Tags()["images"]


def fails_on_the_second_process(model: nn.Module, image: Tensor, target: Any) -> Tensor:
    if torch.distributed.is_initialized() and torch.distributed.get_rank() == 1:
        raise ZeroDivisionError("only here")
    return image.abs().sum(1, keepdim=True)


# The warning is given in the processes; that the run goes on to its end is seen from here.
@pytest.mark.filterwarnings("ignore:The explanation of epoch")
@pytest.mark.filterwarnings("ignore:Expected fails_on_the_second_process to explain a sample")
def test_a_failure_on_one_process_is_skipped_by_all(tmp_path: Path) -> None:
    run(tmp_path, 2, SaliencyCallback(fails_on_the_second_process, samples=4), max_epochs=5)
    assert [event.step for event in events(tmp_path).Scalars("val_loss")] == [1, 3, 5, 7, 9]
    assert numbers(tmp_path) == {}
