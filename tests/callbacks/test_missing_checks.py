"""Settings that once were taken without a word, and advice that was wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from small_runs import QUIET, TinyModule, dataset, fit, make_trainer, train_loader, val_loader
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_saliency import SaliencyCallback
from lightning_saliency.attribution import Gradient
from lightning_saliency.callbacks.samples import batch as batch_file
from lightning_saliency.errors import InputError, SaliencyWarning

pytestmark = QUIET


@pytest.mark.parametrize("count", [2, 6])
def test_there_is_a_name_for_each_class(tmp_path: Path, count: int) -> None:
    names = [f"name {i}" for i in range(count)]
    module = TinyModule()
    callback = SaliencyCallback(Gradient(), samples=2, class_names=names)
    with pytest.raises(InputError, match=f"each of the model's 5 classes.*got {count}"):
        make_trainer(tmp_path, callback).fit(module, train_loader(), val_loader())
    assert module.steps == 0


@pytest.mark.parametrize(
    ("boxes", "says"),
    [
        ((0, 0, 17, 8), r"'corner' inside the images.*0 to 16 across.*got \[0, 0, 17, 8\]"),
        ((-1, 0, 8, 8), "inside the images"),
        ((0, 0, 8, 40), "0 to 16 down"),
        (torch.tensor([[0, 0, 8, 8], [0, 0, 224, 8]]), "box 1 of the region 'corner'"),
    ],
)
def test_boxes_lie_inside_the_pictures(tmp_path: Path, boxes: Any, says: str) -> None:
    module = TinyModule()
    callback = SaliencyCallback(Gradient(), samples=2, regions={"corner": boxes})
    with pytest.raises(InputError, match=says):
        make_trainer(tmp_path, callback).fit(module, train_loader(), val_loader())
    assert module.steps == 0


def normalised(mean: float, std: float) -> DataLoader[Any]:
    images = torch.rand(12, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset((images - mean) / std, dataset(12).tensors[1]), batch_size=4)


@pytest.mark.parametrize(
    ("mean", "std", "warns"),
    [
        (0.485, 0.229, False),
        # The same for images of 0 to 255.
        (123.675, 58.395, False),
        (123.675, 0.229, True),
        (0.485, 58.395, True),
        # Those of another data set are not far off.
        (0.45, 0.225, False),
    ],
)
def test_mean_and_std_of_two_scales_are_noticed(
    tmp_path: Path, mean: float, std: float, warns: bool
) -> None:
    callback = SaliencyCallback(Gradient(), samples=2, mean=[mean] * 3, std=[std] * 3)
    trainer = make_trainer(tmp_path, callback, max_epochs=1)
    loader = normalised(0.485, 0.229)
    if warns:
        with pytest.warns(SaliencyWarning, match="colors in the pictures will be wrong"):
            trainer.fit(TinyModule(), train_loader(), loader)
    else:
        trainer.fit(TinyModule(), train_loader(), loader)


class ThreeEntries(TinyModule):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return super().training_step(batch[:2], batch_idx)


@pytest.mark.parametrize(
    ("shape", "is_said"), [((16, 16), True), ((1, 16, 16), True), ((7,), False), ((3, 8, 8), False)]
)
def test_a_third_entry_that_looks_like_masks_is_mentioned(
    tmp_path: Path, shape: tuple[int, ...], is_said: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    batch_file._say_once.cache_clear()
    monkeypatch.setattr(batch_file, "rank_zero_info", said.append)
    images, labels = dataset(12).tensors
    third = torch.zeros(12, *shape)
    loader = DataLoader(TensorDataset(images, labels, third), batch_size=4)
    trainer = make_trainer(tmp_path, SaliencyCallback(Gradient(), samples=2), max_epochs=1)
    trainer.fit(ThreeEntries(), train_loader(), loader)
    assert [("looks like masks" in text and "batch[:3]" in text) for text in said] == [
        True
    ] * is_said


class TakesBytes(TinyModule):
    def forward(self, images: Tensor) -> Tensor:
        return self.net(images.float() / 255)


def test_advice_for_bytes_does_not_scale_them_twice(tmp_path: Path) -> None:
    images = torch.randint(0, 256, (12, 3, 16, 16), dtype=torch.uint8)
    loader = DataLoader(TensorDataset(images, dataset(12).tensors[1]), batch_size=4)
    trainer = make_trainer(tmp_path, SaliencyCallback(Gradient(), samples=2))
    with pytest.raises(InputError, match=r"image\.float\(\) if it scales them itself") as caught:
        trainer.fit(TakesBytes(), loader, loader)
    # As it advises.
    assert "unpack=lambda batch: (batch[0].float(), batch[1])" in str(caught.value)
    advised = SaliencyCallback(
        Gradient(),
        samples=2,
        unpack=lambda batch: (batch[0].float(), batch[1]),
        on_error="raise",
    )
    make_trainer(tmp_path, advised, max_epochs=1).fit(TakesBytes(), loader, loader)
    assert advised.filmstrip().shape[2] == 700


@pytest.mark.parametrize(
    ("logger", "says"),
    [(False, "^The run has no logger: "), ("csv", r"^Of the run's loggers \(CSVLogger\) none")],
)
def test_without_a_logger_for_pictures_they_are_files(
    tmp_path: Path, logger: Any, says: str
) -> None:
    chosen = CSVLogger(tmp_path, name="run", version="") if logger == "csv" else False
    callback = SaliencyCallback([Gradient()], samples=2, name="mine")
    with pytest.warns(SaliencyWarning, match=says):
        fit(tmp_path, callback, logger=chosen)
    folder = tmp_path / "run" if logger == "csv" else tmp_path
    assert (folder / "mine" / "saliency" / "filmstrip" / "gradient.png").exists()
    assert {path.relative_to(folder).parts[0] for path in tmp_path.rglob("*.png")} == {"mine"}


def test_outside_of_training_no_files_are_written(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, SaliencyCallback(Gradient(), samples=2), logger=False)
    with pytest.warns(SaliencyWarning, match="no logger"):
        trainer.validate(TinyModule(), val_loader(), verbose=False)
    assert list(tmp_path.rglob("*.png")) == []


def test_a_notebook_shows_the_filmstrips(tmp_path: Path) -> None:
    callback = SaliencyCallback([Gradient()], samples=2)
    assert callback._repr_html_().startswith("<pre>")
    fit(tmp_path, callback)
    shown = callback._repr_html_()
    assert shown.count("<img") == 1
    assert 'src="data:image/png;base64,iVBORw0KGgo' in shown
    picture: Any = callback.filmstrip()
    assert picture._repr_png_().startswith(b"\x89PNG")
    # A part of it is a tensor as any other.
    assert picture[0]._repr_png_() is None
    assert isinstance(picture, Tensor)
