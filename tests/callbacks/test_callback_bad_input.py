"""Everything that can be wrong with the settings ends before the first training step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from small_runs import QUIET, TinyModule, dataset, make_trainer, train_loader, val_loader
from tiny_models import CLASSES
from torch import nn
from torch.utils.data import DataLoader

from lightning_saliency import SaliencyCallback
from lightning_saliency.attribution import GradCAM, Gradient
from lightning_saliency.errors import InputError, LayerError, SaliencyError, SaliencyWarning

pytestmark = QUIET


class DictBatches(torch.utils.data.Dataset[Any]):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, Any]:
        image, label = dataset(8)[index]
        return {"pixels": image, "category": label}


class FloatLabels(DictBatches):
    def __getitem__(self, index: int) -> Any:
        return dataset(8)[index][0], 0.5


class LooseModule(TinyModule):
    """Validates whatever comes."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", 0.0)


class NoForward(LooseModule):
    forward = pl.LightningModule.forward

    def __init__(self) -> None:
        super().__init__()
        self.encoder = self.net
        self.decoder = torch.nn.Linear(CLASSES, CLASSES)
        del self.net

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.steps += 1
        return self.decoder(self.encoder(batch[0])).sum()


class NoValidation(TinyModule):
    validation_step = pl.LightningModule.validation_step


class Flat(TinyModule):
    """A network without any spatial layer."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Flatten(), nn.Linear(3 * 16 * 16, 8), nn.ReLU(), nn.Linear(8, 5)
        )


Make = Callable[[], SaliencyCallback]

# What is given; the words of the message: what was expected, what came, what to do.
CASES: dict[str, tuple[Make, type[TinyModule], Any, dict[str, Any], type[Exception], list[str]]] = {
    "unknown layer": (
        lambda: SaliencyCallback(GradCAM("net.featuers")), TinyModule, val_loader, {},
        LayerError, ["no 'net.featuers'", "Did you mean 'net.features'"],
    ),
    "no layer is spatial": (
        lambda: SaliencyCallback(GradCAM()), Flat, val_loader, {},
        LayerError, ["(N, K, h, w)", "Grad-CAM", "gradient method or RISE"],
    ),
    "the layer is not spatial": (
        lambda: SaliencyCallback(GradCAM("net.head")), TinyModule, val_loader, {},
        LayerError, ["(N, K, h, w)", "(1, 5)", "before the pooling"],
    ),
    "index out of range": (
        lambda: SaliencyCallback(Gradient(), samples=[0, 12]), TinyModule, val_loader, {},
        InputError, ["12 items (0 to 11)", "got 12"],
    ),
    "index out of range, no sanity check": (
        lambda: SaliencyCallback(Gradient(), samples=[0, 12]), TinyModule, val_loader,
        {"num_sanity_val_steps": 0}, InputError, ["12 items (0 to 11)", "got 12"],
    ),
    "no such loader": (
        lambda: SaliencyCallback(Gradient(), samples=[0], dataloader_idx=3), TinyModule,
        val_loader, {}, InputError, ["one of the 1 validation loaders", "got 3"],
    ),
    "no such loader for the first samples": (
        lambda: SaliencyCallback(Gradient(), samples=2, dataloader_idx=3), TinyModule,
        val_loader, {}, InputError, ["one of the 1 validation loaders", "got 3"],
    ),
    "no validation loader": (
        lambda: SaliencyCallback(Gradient()), TinyModule, lambda: None, {},
        InputError, ["no validation", "samples=(images, labels)"],
    ),
    "no validation step": (
        lambda: SaliencyCallback(Gradient()), NoValidation, val_loader, {},
        InputError, ["no validation", "samples=(images, labels)"],
    ),
    "validation switched off": (
        lambda: SaliencyCallback(Gradient()), TinyModule, val_loader, {"limit_val_batches": 0},
        InputError, ["limit_val_batches=0", "samples=(images, labels)"],
    ),
    "a batch that cannot be unpacked": (
        lambda: SaliencyCallback(Gradient()), LooseModule,
        lambda: DataLoader(DictBatches(), batch_size=4), {},
        InputError, ["'pixels', 'category'", "unpack="],
    ),
    "labels that are no classes": (
        lambda: SaliencyCallback(Gradient()), LooseModule,
        lambda: DataLoader(FloatLabels(), batch_size=4), {},
        InputError, ["class indices", "float", "target='predicted'"],
    ),
    "labels beyond the model's classes": (
        lambda: SaliencyCallback(Gradient(), samples=(dataset(1).tensors[0], torch.tensor([7]))),
        TinyModule, val_loader, {}, InputError, ["from 0 to 4", "got 7"],
    ),
    "a target beyond the model's classes": (
        lambda: SaliencyCallback(Gradient(), target=5), TinyModule, val_loader, {},
        InputError, ["from 0 to 4", "got 5"],
    ),
    "nothing to call": (
        lambda: SaliencyCallback(Gradient()), NoForward, val_loader, {},
        InputError, ["NoForward", "forward=lambda"],
    ),
    "mean of another number of channels": (
        lambda: SaliencyCallback(Gradient(), mean=[0.5, 0.5], std=[1, 1]), TinyModule, val_loader,
        {}, InputError, ["std", "3 values", "got 2"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_it_ends_before_the_first_training_step(case: str, tmp_path: Path) -> None:
    make, module_class, loader, settings, error, words = CASES[case]
    module = module_class()
    trainer = make_trainer(tmp_path, make(), **settings)
    with pytest.raises(error) as caught:
        trainer.fit(module, train_loader(), loader())
    assert isinstance(caught.value, SaliencyError)
    for word in ["Expected", *words]:
        assert word in str(caught.value)
    assert module.steps == 0


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"method": []}, "at least one"),
        ({"method": GradCAM}, r"Add parentheses: GradCAM\(\)"),
        ({"method": "grad_cam"}, "GradCAM()"),
        ({"method": [GradCAM("a"), GradCAM("b")]}, "'grad_cam' twice.*name="),
        ({"samples": 0}, "at least 1"),
        ({"samples": -1}, "at least 1"),
        ({"samples": [1, 1]}, "more than once"),
        ({"samples": (torch.zeros(2, 3, 4, 4), torch.zeros(3).long())}, "2 images in samples"),
        ({"target": "labels"}, "'label', 'predicted'"),
        ({"target": -1}, "'label', 'predicted'"),
        ({"target": ()}, "different targets"),
        ({"target": ("label", "label")}, "different targets"),
        ({"every_n_epochs": 0}, "at least 1, got 0"),
        ({"every_n_epochs": 1.5}, "an integer, got 1.5"),
        ({"dataloader_idx": -1}, ">= 0"),
        ({"max_overhead": 0}, r"\(0, 1\]"),
        ({"max_overhead": 5}, r"\(0, 1\]"),
        ({"on_error": "ignore"}, "'warn' or 'raise'"),
        ({"name": ""}, "front of a tag"),
        ({"name": "a/"}, "front of a tag"),
        ({"mean": [0.5]}, "both mean and std"),
    ],
    ids=str,
)
def test_settings_are_checked_at_once(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        SaliencyCallback(**{"method": Gradient(), **settings})


@pytest.mark.parametrize(
    "second",
    [
        lambda: SaliencyCallback(Gradient("net.features")),
        lambda: SaliencyCallback([Gradient()], samples=1),
        lambda: SaliencyCallback([GradCAM(), Gradient()]),
    ],
)
def test_two_callbacks_of_the_same_tags_are_refused(second: Make, tmp_path: Path) -> None:
    module = TinyModule()
    trainer = make_trainer(tmp_path, SaliencyCallback([Gradient()], samples=1), second())
    with pytest.raises(InputError, match=r"'saliency/samples/gradient'.*name='second'"):
        trainer.fit(module, train_loader(), val_loader())
    assert module.steps == 0


def test_two_side_by_side_panels_are_refused_too(tmp_path: Path) -> None:
    def another(model: Any, image: torch.Tensor, target: Any) -> torch.Tensor:
        return image[:, :1]

    def third(model: Any, image: torch.Tensor, target: Any) -> torch.Tensor:
        return image[:, :1]

    first = SaliencyCallback([Gradient(), GradCAM()])
    trainer = make_trainer(tmp_path, first, SaliencyCallback([another, third]))
    with pytest.raises(InputError, match="'saliency/methods'"):
        trainer.fit(TinyModule(), train_loader(), val_loader())


@pytest.mark.parametrize("logger", [False, "csv"])
def test_without_a_logger_for_images_one_warning_is_given_and_training_goes_on(
    tmp_path: Path, logger: Any
) -> None:
    module = TinyModule()
    chosen = CSVLogger(tmp_path) if logger == "csv" else False
    trainer = make_trainer(tmp_path, SaliencyCallback(Gradient(), samples=2), logger=chosen)
    with pytest.warns(
        SaliencyWarning,
        match="pictures and tables of the saliency maps are files in .*TensorBoardLogger",
    ) as said:
        trainer.fit(module, train_loader(), val_loader())
    assert len([w for w in said if issubclass(w.category, SaliencyWarning)]) == 1
    assert module.steps == 8
    assert "saliency_drift/gradient/previous/ssim" in trainer.callback_metrics


def test_fast_dev_run_works_without_a_word(tmp_path: Path) -> None:
    module = TinyModule()
    trainer = make_trainer(tmp_path, SaliencyCallback(Gradient()), fast_dev_run=True)
    with pytest.warns(SaliencyWarning, match="Expected 8 samples"):
        trainer.fit(module, train_loader(), val_loader())
    assert module.steps == 1
