"""Where the samples come from, and that looking at them makes no difference to training."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from quiet import several_processes
from small_runs import QUIET, TinyModule, dataset, make_trainer, train_loader, val_loader
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset
from traces import module_state

from lightning_saliency import SaliencyCallback
from lightning_saliency.attribution import GradCAM, Gradient, GuidedBackprop
from lightning_saliency.errors import InputError, LayerError, ModelError, SaliencyWarning

pytestmark = [
    *QUIET,
    pytest.mark.filterwarnings("ignore:.*use of fork\\(\\) may lead.*"),
    pytest.mark.filterwarnings("ignore:Consider setting `persistent_workers=True`"),
]

SIDE, COUNT = 16, 12


def picture(number: int) -> Tensor:
    return torch.full((3, SIDE, SIDE), float(number)) / 8 + torch.eye(SIDE)


class Items(Dataset[Any]):
    """Item i shows i; notes in which processes it was read."""

    def __init__(self, count: int = COUNT) -> None:
        self.count, self.reads = count, 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        self.reads += 1
        return picture(index), index % 5


class Drawing(Items):
    """Adds noise of a generator of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.random = np.random.default_rng(1)
        self.torch_random = torch.Generator().manual_seed(0)
        self.drawn: list[float] = []

    def __getitem__(self, index: int) -> Any:
        image, label = super().__getitem__(index)
        noise = self.random.normal() + float(torch.randn((), generator=self.torch_random))
        self.drawn.append(noise)
        return image + noise, label


class FromFile(Items):
    """Opens its file at the first item that it is asked for, as HDF5 and LMDB datasets do."""

    def __init__(self, path: Path, count: int = 160) -> None:
        super().__init__(count)
        self.path, self.file = path, None
        values = np.repeat(np.arange(count, dtype=np.float32), 3 * SIDE * SIDE)
        values.tofile(path)

    def __getitem__(self, index: int) -> Any:
        if self.file is None:
            self.file = open(self.path, "rb", buffering=0)  # noqa: SIM115 (kept open)
        size = 3 * SIDE * SIDE * 4
        self.file.seek(index * size)
        # Long enough for another worker to move the place, if the file is shared.
        time.sleep(0.0005)
        image = torch.frombuffer(bytearray(self.file.read(size)), dtype=torch.float32)
        return image.view(3, SIDE, SIDE), index


class Keys(Dataset[Any]):
    """Takes names, not numbers."""

    names = tuple(f"picture{number}" for number in range(8))

    def __len__(self) -> int:
        return 8

    def __getitem__(self, name: str) -> Any:
        number = self.names.index(name)
        return picture(number), number % 5


class Pairs(Keys):
    """Takes a name and a size."""

    def __getitem__(self, key: Any) -> Any:
        name, side = key
        image, label = super().__getitem__(name)
        return image[:, :side, :side], label


class Batches(Dataset[Any]):
    """Its items are batches."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Any:
        return torch.stack([picture(4 * index + row) for row in range(4)]), torch.arange(4)


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return ((picture(number), number % 5) for number in range(8))


class Wrapped:
    """A loader that is none of torch's."""

    def __init__(self, loader: Any) -> None:
        self.loader, self.dataset = loader, loader.dataset

    def __iter__(self) -> Any:
        return iter(self.loader)

    def __len__(self) -> int:
        return len(self.loader)


def explained(callback: SaliencyCallback) -> list[float]:
    """Return what the samples show, by number."""
    known = callback._samples.known
    assert known is not None
    return [float(image[0, 0, 1]) * 8 for image in known.images]


def train(folder: Path, val: Any, *callbacks: Any, train: Any = None, **settings: Any) -> Any:
    torch.manual_seed(0)
    module = settings.pop("module", None) or TinyModule()
    trainer = make_trainer(folder, *callbacks, **{"max_epochs": 2, **settings})
    trainer.fit(module, train or train_loader(), val)
    return module


# --- the right samples ------------------------------------------------------------------------


@pytest.mark.parametrize("sanity", [2, 0])
@pytest.mark.parametrize("indices", [[0, 1], [10, 3], [11]], ids=str)
@pytest.mark.parametrize("workers", [0, 1])
def test_indices_are_rows_of_what_passes(
    sanity: int, indices: list[int], workers: int, tmp_path: Path
) -> None:
    data = Items()
    callback = SaliencyCallback(Gradient(), samples=indices, on_error="raise")
    val = DataLoader(data, batch_size=5, num_workers=workers)
    train(tmp_path, val, callback, num_sanity_val_steps=sanity, max_epochs=1)
    assert explained(callback) == indices
    # Two batches of the sanity check, and the run: nothing else.
    assert data.reads == (0 if workers else COUNT + min(10, 5 * sanity))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("sanity", [2, 0])
def test_indices_of_other_orders_are_read(workers: int, sanity: int, tmp_path: Path) -> None:
    data = Items()
    shuffled = DataLoader(
        data, batch_size=4, shuffle=True, num_workers=workers, generator=torch.Generator()
    )
    callback = SaliencyCallback(Gradient(), samples=[7, 2], on_error="raise")
    train(tmp_path, shuffled, callback, num_sanity_val_steps=sanity, max_epochs=1)
    assert explained(callback) == [7, 2]
    # Also the count of what was read is as without the callback.
    assert data.reads == (0 if workers else COUNT + min(8, 4 * sanity))


def test_an_index_beyond_the_limit_is_read(tmp_path: Path) -> None:
    callback = SaliencyCallback(Gradient(), samples=[11, 0], on_error="raise")
    train(tmp_path, DataLoader(Items(), batch_size=4), callback, limit_val_batches=1)
    assert explained(callback) == [11, 0]


def drop_the_first(items: list[Any]) -> Any:
    return torch.utils.data.default_collate(items[1:])


def test_batches_that_lose_rows_are_not_counted(tmp_path: Path) -> None:
    val = DataLoader(Items(), batch_size=4, collate_fn=drop_the_first)
    callback = SaliencyCallback(Gradient(), samples=[5, 6], target="predicted")
    with pytest.warns(SaliencyWarning, match="1 of .*2 samples|Expected 2 samples"):
        train(tmp_path, val, callback, max_epochs=1)
    # Read by itself, the pair loses its first too: that is how the model would see it.
    assert explained(callback) == [6]


@pytest.mark.slow
@several_processes
def test_indices_are_dealt_out_over_processes(tmp_path: Path) -> None:
    class Checks(pl.Callback):
        def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            assert explained(callback) == [9, 4, 0]

    callback = SaliencyCallback(Gradient(), samples=[9, 4, 0], on_error="raise")
    val = DataLoader(Items(), batch_size=3)
    train(tmp_path, val, callback, Checks(), strategy="ddp_fork", devices=2)


# --- training is as without us ----------------------------------------------------------------


@pytest.mark.parametrize("samples", [[0, 7], [11], 2], ids=str)
@pytest.mark.parametrize("sanity", [2, 0])
@pytest.mark.parametrize("shuffle", [False, True])
def test_a_dataset_with_generators_of_its_own(
    samples: Any, sanity: int, shuffle: bool, tmp_path: Path
) -> None:
    ends = []
    for on in (False, True):
        data = Drawing()
        loader = DataLoader(data, batch_size=4, shuffle=shuffle, generator=torch.Generator())
        callbacks = [SaliencyCallback(Gradient(), samples=samples, on_error="raise")] if on else []
        module = train(
            tmp_path / str(on), loader, *callbacks, train=loader, num_sanity_val_steps=sanity
        )
        ends.append((module_state(module), data.drawn, data.reads, data.random.normal()))
    assert ends[0] == ends[1]


@pytest.mark.parametrize("samples", [[0, 101], 2], ids=str)
@pytest.mark.parametrize("sanity", [2, 0])
def test_a_file_that_is_opened_late_is_not_shared_with_workers(
    samples: Any, sanity: int, tmp_path: Path
) -> None:
    class Look(TinyModule):
        wrong = 0

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            shown = batch[0][:, 0, 0, 0].round().long()
            self.wrong += int((shown != batch[1]).sum())
            return super().training_step((batch[0] / 160, batch[1] % 5), batch_idx)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            return super().validation_step((batch[0] / 160, batch[1] % 5), batch_idx)

    data = FromFile(tmp_path / "data.bin")
    module = Look()
    # Both loaders read the same object, as views of one dataset do.
    loader = DataLoader(data, batch_size=10, shuffle=True, num_workers=2)
    val = DataLoader(Subset(data, range(120)), batch_size=10, num_workers=1)
    callback = SaliencyCallback(Gradient(), samples=samples, target="predicted")
    train(
        tmp_path, val, callback, train=loader, module=module, num_sanity_val_steps=sanity,
        max_epochs=1, limit_val_batches=2,
    )  # fmt: skip
    assert callback._samples.known is not None
    assert data.file is None
    assert module.wrong == 0


def test_a_file_that_was_opened_for_us_is_closed_again(tmp_path: Path) -> None:
    data = FromFile(tmp_path / "data.bin", count=12)

    class Never(TinyModule):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            pass

    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    val = DataLoader(Subset(data, [0, 1, 2, 3, 4]), batch_size=1, shuffle=True)
    callback = SaliencyCallback(Gradient(), samples=[4], target="predicted")
    trainer = make_trainer(tmp_path, callback, max_epochs=1, limit_val_batches=0.0)
    # Without a validation run, nothing but our own reading could have opened it.
    with pytest.raises(InputError, match="validation"):
        trainer.fit(Never(), train_loader(), val)
    assert data.file is None
    assert not before or len(os.listdir("/proc/self/fd")) <= before + 8


# --- every loader -----------------------------------------------------------------------------

LOADERS: dict[str, Any] = {
    "names": lambda: DataLoader(Keys(), 4, sampler=Keys.names),
    "names and sizes": lambda: DataLoader(
        Pairs(), batch_sampler=[[(name, SIDE) for name in Keys.names]]
    ),
    "whole batches": lambda: DataLoader(Batches(), batch_size=None),
    "a stream": lambda: DataLoader(Stream(), batch_size=4),
    "a wrapper": lambda: Wrapped(val_loader()),
    "workers that stay": lambda: DataLoader(Items(), 4, num_workers=1, persistent_workers=True),
    "two loaders": lambda: [val_loader(), val_loader()],
    "loaders by name": lambda: {"first": val_loader(), "second": val_loader()},
}


class ManyLoaders(TinyModule):
    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("val_loss", self(batch[0]).mean())


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("sanity", [2, 0])
def test_every_loader_that_works_without_us_works(loader: str, sanity: int, tmp_path: Path) -> None:
    module = ManyLoaders() if "loaders" in loader else TinyModule()
    callback = SaliencyCallback(Gradient(), samples=3, on_error="raise")
    if loader == "names and sizes":
        try:
            train(tmp_path, LOADERS[loader](), module=module, num_sanity_val_steps=sanity)
        except AttributeError as error:
            pytest.skip(f"this Lightning does not take it: {error}")
    train(tmp_path, LOADERS[loader](), callback, module=module, num_sanity_val_steps=sanity)
    assert callback.filmstrip().shape[0] == 3


@pytest.mark.slow
def test_workers_that_are_spawned(tmp_path: Path) -> None:
    val = DataLoader(
        dataset(12, 2), 4, shuffle=True, num_workers=1, multiprocessing_context="spawn"
    )
    callback = SaliencyCallback(Gradient(), samples=[5, 0], on_error="raise")
    train(tmp_path, val, callback, max_epochs=1, num_sanity_val_steps=0)
    known = callback._samples.known
    assert known is not None
    assert torch.equal(known.images, dataset(12, 2).tensors[0][[5, 0]])


@pytest.mark.parametrize("loader", ["names", "whole batches", "a stream", "a wrapper"])
def test_indices_where_there_are_none(loader: str, tmp_path: Path) -> None:
    callback = SaliencyCallback(Gradient(), samples=[0, 1])
    with pytest.raises(InputError, match=r"\(samples=2\), or give samples=\(images, labels\)"):
        train(tmp_path, LOADERS[loader](), callback)


def test_items_of_different_sizes_by_index(tmp_path: Path) -> None:
    class Sizes(Items):
        def __getitem__(self, index: int) -> Any:
            return torch.rand(3, SIDE + 2 * index, SIDE), 0

    callback = SaliencyCallback(Gradient(), samples=[0, 1])
    with pytest.raises(InputError, match="of one batch must be of one size"):
        train(tmp_path, DataLoader(Sizes(), batch_size=1, shuffle=True), callback)


# --- without a sanity check -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "error"),
    [(lambda: GradCAM("net.pool.0"), LayerError), (GuidedBackprop, ModelError)],
    ids=["a layer", "a method"],
)
def test_methods_are_tried_on_the_first_training_batch(
    method: Any, error: type[Exception], tmp_path: Path
) -> None:
    class Smooth(TinyModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = torch.nn.Sequential(
                torch.nn.Conv2d(3, 8, 3), torch.nn.GELU(), torch.nn.Flatten(),
                torch.nn.LazyLinear(5),
            )  # fmt: skip
            self.net(torch.zeros(1, 3, SIDE, SIDE))

    module = Smooth()
    with pytest.raises(error):
        train(
            tmp_path, val_loader(), SaliencyCallback(method()), module=module,
            num_sanity_val_steps=0,
        )  # fmt: skip
    assert module.steps == 0


def test_what_is_wrong_with_training_batches_alone_is_no_fault(tmp_path: Path) -> None:
    class Mixed(TinyModule):
        """Trains on several crops and on mixed labels, in a form of their own."""

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return super().training_step((batch["crops"][0], batch["mix"].argmax(1)), batch_idx)

    class Crops(Items):
        def __getitem__(self, index: int) -> Any:
            image, label = super().__getitem__(index)
            return {"crops": [image, image[:, :8, :8]], "mix": torch.eye(5)[label] * 0.9}

    callback = SaliencyCallback(GradCAM(), samples=3, on_error="raise")
    train(
        tmp_path, val_loader(), callback, module=Mixed(), num_sanity_val_steps=0,
        train=DataLoader(Crops(), batch_size=4),
    )  # fmt: skip
    assert callback.filmstrip().shape[0] == 3


def test_validation_batches_that_cannot_be_used_cost_the_maps(tmp_path: Path) -> None:
    class Named(Items):
        def __getitem__(self, index: int) -> Any:
            image, label = super().__getitem__(index)
            return {"pixels": image, "category": label}

    class Reads(TinyModule):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            return super().validation_step((batch["pixels"], batch["category"]), batch_idx)

    module = Reads()
    with pytest.warns(SaliencyWarning, match="'pixels', 'category'.*unpack="):
        train(
            tmp_path, DataLoader(Named(), batch_size=4), SaliencyCallback(Gradient()),
            module=module, num_sanity_val_steps=0,
        )  # fmt: skip
    assert module.steps == 8
