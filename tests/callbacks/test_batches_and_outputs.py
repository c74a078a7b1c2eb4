"""Modules that we have never seen: what their batches, forwards and outputs look like."""

from __future__ import annotations

from collections import UserDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from small_runs import QUIET, dataset, events, make_trainer
from tiny_models import CLASSES, VGGLike
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_saliency import GradCAMCallback, SaliencyCallback
from lightning_saliency.attribution import GradCAM, Gradient
from lightning_saliency.callbacks.forward import explained_model
from lightning_saliency.errors import ModelError

pytestmark = QUIET

IMAGES, LABELS = dataset(8, seed=2).tensors


class Base(pl.LightningModule):
    """What all have in common: each says how it gets its loss from a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.net = VGGLike()

    def loss(self, batch: Any) -> Tensor:
        raise NotImplementedError

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch), batch_size=4)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


Take = Callable[[Any], tuple[Tensor, Tensor]]
Collate = Callable[[list[tuple[Tensor, Tensor]]], Any]


def loader(collate: Collate | None = None, labels: Tensor = LABELS) -> DataLoader[Any]:
    data = torch.utils.data.TensorDataset(IMAGES, labels)
    return DataLoader(data, batch_size=4, collate_fn=collate)


def stacked(items: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return torch.stack([item[0] for item in items]), torch.stack([item[1] for item in items])


class Spy:
    """A method that notes the images and classes, and asks the model as other methods do."""

    __name__ = "spy"

    def __init__(self) -> None:
        self.images: list[Tensor] = []
        self.targets: list[list[int]] = []

    def __call__(self, model: nn.Module, image: Tensor, target: Any) -> Tensor:
        self.images.append(image.clone())
        self.targets.append(target.tolist())
        return image.abs().mean(1, keepdim=True)


def run(
    folder: Path,
    module: pl.LightningModule,
    data: Any = None,
    *,
    trainer: Any = None,
    **settings: Any,
) -> Spy:
    """Train for one epoch with a callback whose settings are the defaults but for ``settings``."""
    torch.manual_seed(0)
    spy = Spy()
    callback = SaliencyCallback(
        [spy, Gradient(), GradCAM()], **{"samples": 3, "on_error": "raise", **settings}
    )
    with_callback = make_trainer(folder, callback, max_epochs=1, **(trainer or {}))
    with_callback.fit(
        module, loader() if data is None else data, loader() if data is None else data
    )
    found = set(events(folder).Tags()["images"])
    assert {f"saliency/samples/{name}/2" for name in ("gradient", "grad_cam", "spy")} <= found
    return spy


# --- batches ----------------------------------------------------------------------------------


@dataclass
class Item:
    image: Tensor
    label: Tensor


Pair = namedtuple("Pair", ["image", "label"])


class Encoding(UserDict):  # type: ignore[type-arg]
    """As Hugging Face's BatchEncoding and BatchFeature: not a dict, but moves to devices."""

    def to(self, device: Any, **_: Any) -> Encoding:
        self.data = {key: value.to(device) for key, value in self.data.items()}
        return self


# How a batch is made, and how a module takes it apart.
BATCHES: dict[str, tuple[Callable[[Tensor, Tensor], Any], Take]] = {
    "tuple": (lambda x, y: (x, y), lambda b: b),
    "list": (lambda x, y: [x, y], lambda b: b),
    "three": (lambda x, y: (x, y, torch.arange(len(x))), lambda b: b[:2]),
    "dict": (lambda x, y: {"image": x, "label": y}, lambda b: (b["image"], b["label"])),
    "dict of Hugging Face": (
        lambda x, y: {"labels": y, "pixel_values": x},
        lambda b: (b["pixel_values"], b["labels"]),
    ),
    "dict with more": (
        lambda x, y: {"index": torch.arange(len(x)), "path": ["a"] * len(x), "img": x, "target": y},
        lambda b: (b["img"], b["target"]),
    ),
    "dataclass": (Item, lambda b: (b.image, b.label)),
    "named tuple": (Pair, lambda b: (b.image, b.label)),
    "BatchEncoding": (
        lambda x, y: Encoding({"pixel_values": x, "labels": y}),
        lambda b: (b["pixel_values"], b["labels"]),
    ),
}


class OfBatches(Base):
    def __init__(self, take: Take) -> None:
        super().__init__()
        self.take = take

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def loss(self, batch: Any) -> Tensor:
        images, labels = self.take(batch)
        return F.cross_entropy(self(images), labels)


@pytest.mark.parametrize("form", BATCHES)
@pytest.mark.parametrize("samples", [3, [0, 1, 2]], ids=["first", "by index"])
def test_batches(form: str, samples: Any, tmp_path: Path) -> None:
    make, take = BATCHES[form]
    data = loader(lambda items: make(*stacked(items)))
    spy = run(tmp_path, OfBatches(take), data, samples=samples)
    assert torch.equal(spy.images[-1], IMAGES[:3])
    assert spy.targets[-1] == LABELS[:3].tolist()


def test_a_batch_of_another_form_asks_for_unpack(tmp_path: Path) -> None:
    data = loader(lambda items: {"scan": stacked(items)[0], "finding": stacked(items)[1]})

    def module() -> OfBatches:
        return OfBatches(lambda batch: (batch["scan"], batch["finding"]))

    with pytest.raises(ValueError, match=r"keys 'scan', 'finding'.*unpack=lambda batch"):
        run(tmp_path / "without", module(), data)
    spy = run(tmp_path, module(), data, unpack=lambda batch: (batch["scan"], batch["finding"]))
    assert torch.equal(spy.images[-1], IMAGES[:3])


# --- forwards ---------------------------------------------------------------------------------


class WithMask(OfBatches):
    """Wants more than images."""

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        return self.net(image * mask)

    def loss(self, batch: Any) -> Tensor:
        return F.cross_entropy(self(batch[0], torch.ones_like(batch[0])), batch[1])


def test_a_forward_that_wants_more_asks_for_forward(tmp_path: Path) -> None:
    module = WithMask(lambda batch: batch)
    says = r"WithMask.forward\(image, mask\).*forward=lambda module, images: module\(images, "
    with pytest.raises(ValueError, match=says):
        run(tmp_path / "without", module)
    run(tmp_path, module, forward=lambda module, images: module(images, torch.ones_like(images)))


class WithDefaults(OfBatches):
    def forward(self, image: Tensor, mask: Tensor | None = None, scale: float = 1.0) -> Tensor:
        return self.net(image * scale)


class OfKeywords(Base):
    """As in the tutorials of Hugging Face."""

    def forward(self, **inputs: Any) -> Any:
        logits = self.net(inputs["pixel_values"])
        loss = F.cross_entropy(logits, inputs["labels"]) if "labels" in inputs else None
        return SimpleNamespace(loss=loss, logits=logits)

    def loss(self, batch: Any) -> Tensor:
        return self(**batch).loss


class OfKeywordOnly(OfKeywords):
    def forward(self, *, labels: Tensor | None = None, pixel_values: Tensor) -> Any:  # type: ignore[override]
        given = {} if labels is None else {"labels": labels}
        return super().forward(pixel_values=pixel_values, **given)


class OfWholeBatch(Base):
    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.net(batch["pixel_values"])

    def loss(self, batch: Any) -> Tensor:
        return F.cross_entropy(self(batch), batch["labels"])


class ReturnsLossAndLogits(OfKeywords):
    """The name of the images is not the first."""

    def forward(  # type: ignore[override]
        self, input_ids: Tensor | None = None, pixel_values: Tensor | None = None, **more: Any
    ) -> Any:
        if pixel_values is None:
            raise ValueError("You have to specify pixel_values")
        return super().forward(pixel_values=pixel_values, **more)


@pytest.mark.parametrize("module", [OfKeywords, OfKeywordOnly, OfWholeBatch, ReturnsLossAndLogits])
@pytest.mark.parametrize("trainer", [{}, {"num_sanity_val_steps": 0}], ids=str)
def test_a_forward_of_the_batch_gets_the_images_by_their_name(
    module: type[Base], trainer: dict[str, Any], tmp_path: Path
) -> None:
    data = loader(lambda items: dict(zip(("pixel_values", "labels"), stacked(items), strict=True)))
    spy = run(tmp_path, module(), data, trainer=trainer)
    assert torch.equal(spy.images[-1], IMAGES[:3])


def test_a_forward_with_defaults_needs_nothing(tmp_path: Path) -> None:
    run(tmp_path, WithDefaults(lambda batch: batch))


class TwoImages(Base):
    """Compares two views; the second is not explained."""

    def __init__(self) -> None:
        super().__init__()
        self.other = VGGLike()

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.net(left) - self.other(right)

    def loss(self, batch: Any) -> Tensor:
        (left, right), labels = batch
        return F.cross_entropy(self(left, right), labels)


def test_one_of_several_inputs_is_explained_with_the_others_fixed(tmp_path: Path) -> None:
    data = loader(lambda items: ((stacked(items)[0], stacked(items)[0].flip(3)), stacked(items)[1]))
    with pytest.raises(ValueError, match="unpack="):
        run(tmp_path / "without", TwoImages(), data)
    spy = run(
        tmp_path,
        TwoImages(),
        data,
        unpack=lambda batch: (batch[0][0], batch[1]),
        forward=lambda module, images: module(images, torch.zeros_like(images)),
    )
    assert torch.equal(spy.images[-1], IMAGES[:3])


class BrokenForward(OfBatches):
    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) if self.training or len(x) > 1 else self.net(x.squeeze(0).mean(0))


def test_what_goes_wrong_in_the_forward_is_said(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="Expected 3D"):
        run(tmp_path, BrokenForward(lambda batch: batch))


# --- networks that are attributes -------------------------------------------------------------


class WithoutForward(Base):
    def __init__(self, name: str) -> None:
        super().__init__()
        del self.net
        setattr(self, name, VGGLike())
        self.name = name
        self.criterion = nn.CrossEntropyLoss()

    def loss(self, batch: Any) -> Tensor:
        return self.criterion(getattr(self, self.name)(batch[0]), batch[1])


@pytest.mark.parametrize("name", ["model", "net", "backbone", "my_own_name"])
def test_the_network_is_an_attribute(name: str, tmp_path: Path) -> None:
    run(tmp_path, WithoutForward(name))


class Parts(WithoutForward):
    def __init__(self) -> None:
        super().__init__("encoder_of_mine")
        self.decoder_of_mine = nn.Linear(CLASSES, CLASSES)

    def loss(self, batch: Any) -> Tensor:
        return self.criterion(self.decoder_of_mine(self.encoder_of_mine(batch[0])), batch[1])


def test_without_forward_and_with_several_parts_forward_is_asked_for(tmp_path: Path) -> None:
    says = r"Parts to have a forward.*encoder_of_mine.*forward=lambda module, images:"
    with pytest.raises(ValueError, match=says):
        run(tmp_path / "without", Parts())
    run(tmp_path, Parts(), forward=lambda m, images: m.decoder_of_mine(m.encoder_of_mine(images)))


class MadeInSetup(OfBatches):
    def __init__(self) -> None:
        super().__init__(lambda batch: batch)
        del self.net

    def setup(self, stage: str) -> None:
        self.net = VGGLike()


class MadeInSetupWithoutForward(WithoutForward):
    def __init__(self) -> None:
        super().__init__("model")
        del self.model

    def setup(self, stage: str) -> None:
        self.model = VGGLike()


@pytest.mark.parametrize("module", [MadeInSetup, MadeInSetupWithoutForward])
def test_the_network_is_made_in_setup(module: Any, tmp_path: Path) -> None:
    run(tmp_path, module())
    layer = "model.features" if module is MadeInSetupWithoutForward else "net.features"
    trainer = make_trainer(tmp_path, GradCAMCallback(layer, samples=1), max_epochs=1)
    trainer.fit(module(), loader(), loader())
    wrong = make_trainer(tmp_path, GradCAMCallback("net.faetures", samples=1), max_epochs=1)
    with pytest.raises(LookupError, match="faetures"):
        wrong.fit(module(), loader(), loader())


class Lazy(OfBatches):
    def __init__(self) -> None:
        super().__init__(lambda batch: batch)
        self.net = nn.Sequential(  # type: ignore[assignment]
            nn.LazyConv2d(4, 3),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.LazyLinear(CLASSES),
        )


@pytest.mark.parametrize("trainer", [{}, {"num_sanity_val_steps": 0}], ids=str)
def test_layers_that_their_first_input_shapes(trainer: Any, tmp_path: Path) -> None:
    run(tmp_path, Lazy(), trainer=trainer)


# --- outputs ----------------------------------------------------------------------------------


class Puts(OfBatches):
    """Puts out its logits in some form."""

    def __init__(self, form: Callable[[Tensor], Any]) -> None:
        super().__init__(lambda batch: batch)
        self.form = form

    def forward(self, x: Tensor) -> Any:
        return self.form(self.net(x))

    def loss(self, batch: Any) -> Tensor:
        return F.cross_entropy(self.net(batch[0]), batch[1])


OUTPUTS: dict[str, Callable[[Tensor], Any]] = {
    "logits": lambda z: z,
    ".logits": lambda z: SimpleNamespace(logits=z, hidden_states=None),
    "dict": lambda z: {"logits": z, "features": z},
    "tuple": lambda z: (z, None),
    "list of heads": lambda z: [z, z],
    "squeezed, of one image too": lambda z: z.squeeze(),
    "score maps": lambda z: z[:, :, None, None].expand(-1, -1, 4, 4),
}


@pytest.mark.parametrize("form", OUTPUTS)
def test_outputs(form: str, tmp_path: Path) -> None:
    spy = run(tmp_path, Puts(OUTPUTS[form]))
    assert spy.targets[-1] == LABELS[:3].tolist()


class OneUnit(OfBatches):
    """Regression, or two classes by one unit."""

    def __init__(self, squeeze: str) -> None:
        super().__init__(lambda batch: batch)
        self.net.head = nn.Linear(12, 1)
        self.squeeze = squeeze

    def forward(self, x: Tensor) -> Tensor:
        # Of one image this leaves no dimension at all.
        everything = self.net(x).squeeze() if self.squeeze == "everything" else self.net(x)
        return everything.squeeze(1) if self.squeeze == "units" else everything

    def loss(self, batch: Any) -> Tensor:
        return F.mse_loss(self(batch[0]).flatten(), batch[1].flatten().float())


@pytest.mark.parametrize("squeeze", ["", "units", "everything"])
@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.bool])
def test_one_unit_for_two_classes(squeeze: str, dtype: torch.dtype, tmp_path: Path) -> None:
    data = loader(labels=(LABELS % 2).to(dtype))
    assert run(tmp_path, OneUnit(squeeze), data).targets[-1] == [0, 1, 0]


def test_regression_asks_what_to_explain(tmp_path: Path) -> None:
    data = loader(labels=LABELS / 3)
    with pytest.raises(ValueError, match=r"numbers of a regression.*target=1"):
        run(tmp_path / "without", OneUnit("units"), data)
    assert run(tmp_path, OneUnit("units"), data, target=1).targets[-1] == [1, 1, 1]


def test_classes_before_images_are_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"one row of logits for each of 1 images"):
        run(tmp_path, Puts(lambda z: z.T))


class Segmentation(OfBatches):
    def __init__(self) -> None:
        super().__init__(lambda batch: batch)
        self.net = nn.Sequential(  # type: ignore[assignment]
            nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, CLASSES, 1)
        )


def test_segmentation_asks_for_a_class(tmp_path: Path) -> None:
    masks = (IMAGES[:, 0] > 0).long()
    with pytest.raises(ValueError, match=r"a class for each pixel.*target=1"):
        run(tmp_path / "without", Segmentation(), loader(labels=masks))
    spy = run(tmp_path, Segmentation(), loader(labels=masks), target=1)
    assert spy.targets[-1] == [1, 1, 1]
    run(tmp_path / "predicted", Segmentation(), loader(labels=masks), target="predicted")


class MultiLabel(OfBatches):
    def __init__(self) -> None:
        super().__init__(lambda batch: batch)

    def loss(self, batch: Any) -> Tensor:
        return F.binary_cross_entropy_with_logits(self(batch[0]), batch[1].float())


def test_several_labels_ask_for_a_class_and_one_hot_labels_do_not(tmp_path: Path) -> None:
    one_hot = F.one_hot(LABELS, CLASSES)
    several = one_hot | one_hot.roll(1, 1)
    with pytest.raises(ValueError, match=r"several classes for each image.*target=1"):
        run(tmp_path / "without", MultiLabel(), loader(labels=several))
    assert run(tmp_path / "fixed", MultiLabel(), loader(labels=several), target=1).targets
    for dtype in (torch.int64, torch.float32, torch.bool):
        spy = run(tmp_path / str(dtype), MultiLabel(), loader(labels=one_hot.to(dtype)))
        assert spy.targets[-1] == LABELS[:3].tolist()


@pytest.mark.parametrize("own", [{}, {"forward": len}])
def test_a_wrapper_that_fails_leaves_the_forward_that_was_there(own: dict[str, Any]) -> None:
    class Fails(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            raise ZeroDivisionError

    module, wrapper = Base(), Fails()
    module.__dict__.update(own)
    module._trainer = SimpleNamespace(strategy=SimpleNamespace(model=wrapper))  # type: ignore[assignment]
    Fails.__name__ = "FullyShardedDataParallel"
    before = dict(module.__dict__)
    with pytest.raises(ZeroDivisionError):
        explained_model(module, lambda module, images: module.net(images))(IMAGES)
    assert module.__dict__ == before
