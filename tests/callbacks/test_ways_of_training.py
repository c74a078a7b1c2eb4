"""Modules that we have never seen: how they get their data, and how they train."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities import CombinedLoader
from small_runs import QUIET, TinyModule, dataset, events, make_trainer, train_loader, val_loader
from tiny_models import VGGLike
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, IterableDataset

from lightning_saliency import SaliencyCallback
from lightning_saliency.attribution import AttributionMethod, GradCAM, Gradient, GuidedBackprop

pytestmark = QUIET

IMAGES, LABELS = dataset(12, seed=2).tensors


class Spy:
    """A method that notes what it is called with."""

    __name__ = "spy"

    def __init__(self) -> None:
        self.images: list[Tensor] = []

    def __call__(self, model: nn.Module, image: Tensor, target: Any) -> Tensor:
        self.images.append(image.clone())
        return image.abs().mean(1, keepdim=True)


def watching(spy: Spy, **settings: Any) -> SaliencyCallback:
    return SaliencyCallback(
        [spy, Gradient(), GradCAM()], **{"samples": 3, "on_error": "raise", **settings}
    )


def steps(folder: Path) -> list[int]:
    return [event.step for event in events(folder).Images("saliency/samples/grad_cam/2")]


# --- data -------------------------------------------------------------------------------------


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(zip(IMAGES, LABELS, strict=True))


@pytest.mark.parametrize("sanity", [0, 2])
def test_a_stream_has_first_samples(sanity: int, tmp_path: Path) -> None:
    spy = Spy()
    trainer = make_trainer(tmp_path, watching(spy), num_sanity_val_steps=sanity)
    stream = DataLoader(Stream(), batch_size=4)
    trainer.fit(TinyModule(), stream, stream)
    assert [torch.equal(images, IMAGES[:3]) for images in spy.images] == [True, True]
    assert steps(tmp_path) == [2, 5]


def test_a_stream_has_no_indices(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, watching(Spy(), samples=[2, 0, 5]))
    with pytest.raises(ValueError, match=r"Stream, which has no indices.*samples=3"):
        trainer.fit(TinyModule(), train_loader(), DataLoader(Stream(), batch_size=4))


class TwoLoaders(TinyModule):
    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        super().validation_step(batch, batch_idx)


def other_loader() -> DataLoader[Any]:
    return DataLoader(dataset(8, seed=9), batch_size=4)


@pytest.mark.parametrize("samples", [3, [0, 1, 2]], ids=["first", "by index"])
@pytest.mark.parametrize("form", ["list", "dict", "sequential"])
def test_several_validation_loaders(form: str, samples: Any, tmp_path: Path) -> None:
    loaders: Any = {
        "list": [val_loader(), other_loader()],
        "dict": {"a": val_loader(), "b": other_loader()},
        "sequential": CombinedLoader([val_loader(), other_loader()], "sequential"),
    }[form]
    first, second = Spy(), Spy()
    trainer = make_trainer(
        tmp_path,
        watching(first, samples=samples),
        watching(second, samples=samples, dataloader_idx=1, name="second"),
    )
    trainer.fit(TwoLoaders(), train_loader(), loaders)
    assert [torch.equal(images, IMAGES[:3]) for images in first.images] == [True, True]
    assert torch.equal(second.images[-1], dataset(8, seed=9).tensors[0][:3])
    assert steps(tmp_path) == [3, 7]


def test_loaders_side_by_side_ask_for_unpack(tmp_path: Path) -> None:
    class SideBySide(TinyModule):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            super().validation_step(batch["b"], batch_idx)

    def both() -> CombinedLoader:
        return CombinedLoader({"a": val_loader(), "b": other_loader()}, "max_size_cycle")

    with pytest.raises(ValueError, match="unpack="):
        make_trainer(tmp_path, watching(Spy())).fit(SideBySide(), train_loader(), both())
    spy = Spy()
    trainer = make_trainer(tmp_path, watching(spy, unpack=lambda batch: batch["b"]))
    trainer.fit(SideBySide(), train_loader(), both())
    assert torch.equal(spy.images[-1], dataset(8, seed=9).tensors[0][:3])


class Augmenting(pl.LightningDataModule):
    """Normalises on the device, and augments while the model trains."""

    def train_dataloader(self) -> DataLoader[Any]:
        return train_loader()

    def val_dataloader(self) -> DataLoader[Any]:
        return val_loader()

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return [batch[0] * 2, batch[1]]

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        assert self.trainer is not None
        images = batch[0] + (torch.rand(1) if self.trainer.training else 1)
        return [images, batch[1]]


@pytest.mark.parametrize("samples", [3, [0, 1, 2]], ids=["first", "by index"])
@pytest.mark.parametrize("sanity", [0, 2])
def test_a_data_module_that_augments_on_the_device(
    samples: Any, sanity: int, tmp_path: Path
) -> None:
    spy = Spy()
    trainer = make_trainer(tmp_path, watching(spy, samples=samples), num_sanity_val_steps=sanity)
    trainer.fit(TinyModule(), datamodule=Augmenting())
    assert [torch.equal(images, IMAGES[:3] * 2 + 1) for images in spy.images] == [True, True]


# --- training ---------------------------------------------------------------------------------


class Manual(TinyModule):
    """Two optimizers by hand: the global step goes twice as fast as the batches."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        for optimizer in self.optimizers():  # type: ignore[union-attr]
            optimizer.zero_grad()
            self.manual_backward(super().training_step(batch, batch_idx))
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [
            torch.optim.SGD(self.net.features.parameters(), lr=0.01),
            torch.optim.SGD(self.net.head.parameters(), lr=0.01),
        ]


def test_several_optimizers_by_hand(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, watching(Spy()))
    trainer.fit(Manual(), train_loader(), val_loader())
    assert trainer.global_step == 16
    assert steps(tmp_path) == [3, 7]
    assert [event.step for event in events(tmp_path).Scalars("val_loss")] == [3, 7]


class Checkpointed(TinyModule):
    """Computes its features again in the backward pass, to save memory."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.reentrant = reentrant

    def forward(self, images: Tensor) -> Tensor:
        features = checkpoint(self.net.features, images, use_reentrant=self.reentrant)
        return self.net.head(self.net.hidden(self.net.pool(features)))


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True")
def test_gradient_checkpointing(reentrant: bool, tmp_path: Path) -> None:
    maps: dict[str, list[Tensor]] = {"plain": [], "checkpointed": []}

    def noting(kind: str, method: AttributionMethod) -> Any:
        def note(model: nn.Module, image: Tensor, target: Any) -> Tensor:
            maps[kind].append(method(model, image, target))
            return maps[kind][-1]

        note.__name__ = method.name
        return note

    for kind in maps:
        methods = [noting(kind, m) for m in (Gradient(), GradCAM("net.pool"), GuidedBackprop())]
        callback = SaliencyCallback(methods, samples=3, on_error="raise")
        torch.manual_seed(0)
        module = Checkpointed(reentrant) if kind == "checkpointed" else TinyModule()
        trainer = make_trainer(tmp_path / kind, callback, max_epochs=1)
        trainer.validate(module, val_loader(), verbose=False)
    for plain, checkpointed in zip(*maps.values(), strict=True):
        assert torch.allclose(plain, checkpointed, atol=1e-6)


def test_the_trainer_of_the_other_package(tmp_path: Path) -> None:
    other = pytest.importorskip("pytorch_lightning")

    class Module(other.LightningModule):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = VGGLike()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", F.cross_entropy(self.net(batch[0]), batch[1]))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.01)

    spy = Spy()
    monitor = "saliency_drift/grad_cam/previous/spearman"
    trainer = other.Trainer(
        max_epochs=2,
        accelerator="cpu",
        callbacks=[
            watching(spy, samples=[0, 1, 2]),
            other.callbacks.EarlyStopping(monitor, mode="max", patience=9),
            other.callbacks.ModelCheckpoint(tmp_path / "saved", monitor=monitor, mode="max"),
        ],
        logger=other.loggers.TensorBoardLogger(tmp_path, name="run", version=""),
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    trainer.fit(Module(), train_loader(), val_loader())
    assert torch.equal(spy.images[-1], IMAGES[:3])
    assert steps(tmp_path) == [3, 7]
    assert len(list((tmp_path / "saved").iterdir())) == 1


class CompilesItself(TinyModule):
    """Notes its losses."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.losses.append(float(outputs["loss"]))


def test_a_module_that_is_compiled_in_place(tmp_path: Path) -> None:
    losses = []
    for name, callbacks in (("without", []), ("with", [watching(Spy())])):
        torch._dynamo.reset()
        torch.manual_seed(0)
        module = CompilesItself()
        module.compile(backend="eager")
        trainer = make_trainer(tmp_path / name, *callbacks)
        trainer.fit(module, train_loader(), val_loader())
        losses.append(module.losses)
    assert len(losses[0]) == 8
    assert losses[0] == losses[1]
    assert steps(tmp_path / "with") == [3, 7]
