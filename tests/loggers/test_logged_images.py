"""TensorBoard for real, read back with its own reader; the others by what they document."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.loggers.logger import DummyLogger, rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only
from logger_doubles import (
    CometExperiment,
    MlflowClient,
    MlflowLogger,
    OldMlflowClient,
    WeightsAndBiases,
    WithExperiment,
)
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from lightning_saliency.errors import InputError
from lightning_saliency.loggers import NullAdapter, adapter_for

TAG = "saliency/samples/grad_cam/0"


def picture() -> torch.Tensor:
    return torch.rand(3, 5, 7, generator=torch.Generator().manual_seed(0))


def as_png(image: torch.Tensor) -> np.ndarray:
    return np.rint(image.double().numpy() * 255).astype(np.uint8).transpose(1, 2, 0)


def read_back(folder: str) -> EventAccumulator:
    reader = EventAccumulator(folder, size_guidance={"images": 0})
    reader.Reload()
    return reader


@pytest.mark.parametrize("kind", [TensorBoardLogger, pytorch_lightning.loggers.TensorBoardLogger])
def test_tensorboard_shows_the_image_to_the_last_bit(kind: Any, tmp_path: Path) -> None:
    logger = kind(tmp_path)
    assert adapter_for(logger).takes_images
    images = {step: picture() * (step / 7) for step in (3, 7)}
    for step, image in images.items():
        assert adapter_for(logger).image(TAG, image, step)
    logger.experiment.close()
    reader = read_back(logger.log_dir)
    assert reader.Tags()["images"] == [TAG]
    events = reader.Images(TAG)
    assert [event.step for event in events] == [3, 7]
    for event in events:
        assert (event.height, event.width) == (5, 7)
        shown = np.array(Image.open(BytesIO(event.encoded_image_string)))
        assert np.array_equal(shown, as_png(images[event.step]))


def test_the_same_as_add_image_of_the_rounded_picture(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    adapter_for(logger).image("ours", picture(), 1)
    logger.experiment.add_image("theirs", torch.from_numpy(as_png(picture())), 1, dataformats="HWC")
    logger.experiment.close()
    reader = read_back(logger.log_dir)
    ours, theirs = reader.Images("ours")[0], reader.Images("theirs")[0]
    decoded = [np.array(Image.open(BytesIO(e.encoded_image_string))) for e in (ours, theirs)]
    assert np.array_equal(*decoded)
    assert (ours.step, ours.height, ours.width) == (theirs.step, theirs.height, theirs.width)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, torch.uint8])
def test_any_dtype_and_memory_layout(dtype: torch.dtype, tmp_path: Path) -> None:
    steps = torch.tensor([0, 64, 255], dtype=torch.uint8).view(3, 1, 1).expand(3, 2, 4)
    image = steps if dtype == torch.uint8 else (steps.double() / 255).to(dtype)
    logger = TensorBoardLogger(tmp_path)
    assert adapter_for(logger).image(TAG, image, 0)
    logger.experiment.close()
    event = read_back(logger.log_dir).Images(TAG)[0]
    shown = np.array(Image.open(BytesIO(event.encoded_image_string)))
    assert (shown == [0, 64, 255]).all()


def test_values_outside_the_range_are_clipped_and_nan_is_black(tmp_path: Path) -> None:
    image = torch.tensor([-1.0, 2.0, float("nan")]).view(3, 1, 1)
    logger = TensorBoardLogger(tmp_path)
    adapter_for(logger).image(TAG, image.requires_grad_(), 0)
    logger.experiment.close()
    event = read_back(logger.log_dir).Images(TAG)[0]
    assert np.array(Image.open(BytesIO(event.encoded_image_string))).tolist() == [[[0, 255, 0]]]


def test_a_palette_is_smaller_and_nearly_the_same(tmp_path: Path) -> None:
    # Smooth and noisy parts in many colors, and one small patch in a color of its own.
    generator = torch.Generator().manual_seed(0)
    rows, columns = torch.meshgrid(
        torch.linspace(0, 1, 96), torch.linspace(0, 1, 96), indexing="ij"
    )
    image = torch.stack([rows, columns, 0.5 * rows])
    image[:, :32] = torch.rand(1, 32, 96, generator=generator) * 0.5
    image[:, 50:53, 50:53] = torch.tensor([0.0, 1.0, 0.0]).view(3, 1, 1)
    logger = TensorBoardLogger(tmp_path)
    adapter_for(logger).image("all", image, 0)
    adapter_for(logger).image("few", image, 0, palette=True)
    logger.experiment.close()
    reader = read_back(logger.log_dir)
    files = [reader.Images(tag)[0].encoded_image_string for tag in ("all", "few")]
    assert len(files[1]) < 0.7 * len(files[0])
    every, few = (np.array(Image.open(BytesIO(file)).convert("RGB")).astype(int) for file in files)
    assert np.array_equal(every, as_png(image))
    assert len(np.unique(few.reshape(-1, 3), axis=0)) <= 256
    assert np.abs(few - every).mean() < 6
    # A rare color stays what it is: it may say that a pixel is not finite.
    red, green, blue = few[51, 51]
    assert green > 220 > 40 > max(red, blue)


class OtherWriter:
    """What tensorboardX has."""

    def __init__(self) -> None:
        self.images: list[tuple[Any, ...]] = []

    def add_image(
        self,
        tag: str,
        img_tensor: Any,
        global_step: int | None = None,
        walltime: float | None = None,
        dataformats: str = "CHW",
    ) -> None:
        self.images.append((tag, img_tensor, global_step, dataformats))


class OwnWriter(SummaryWriter):
    """A user's own, which must be asked and not passed by."""

    def add_image(self, tag: str, *args: Any, **kwargs: Any) -> None:
        super().add_image("own/" + tag, *args, **kwargs)


def test_another_writer_with_the_same_method() -> None:
    logger = WithExperiment(OtherWriter())
    assert adapter_for(logger).takes_images
    assert adapter_for(logger).image(TAG, picture(), 3)
    [(tag, pixels, step, formats)] = logger.experiment.images
    assert (tag, step, formats) == (TAG, 3, "HWC")
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, as_png(picture()))


def test_a_writer_that_overrides_add_image(tmp_path: Path) -> None:
    writer = OwnWriter(str(tmp_path))
    assert adapter_for(WithExperiment(writer)).image(TAG, picture(), 3)
    writer.close()
    assert read_back(str(tmp_path)).Tags()["images"] == ["own/" + TAG]


def test_weights_and_biases() -> None:
    logger = WeightsAndBiases()
    assert adapter_for(logger).takes_images
    assert adapter_for(logger).image(TAG, picture(), 3)
    [(key, [image], step)] = logger.calls
    assert (key, step) == (TAG, 3)
    assert np.array_equal(np.asarray(image), as_png(picture()))


def test_mlflow() -> None:
    logger = MlflowLogger(MlflowClient())
    assert adapter_for(logger).takes_images
    assert adapter_for(logger).image("saliency/samples/grad_cam/0:é", picture(), 3)
    [(run, image, file, key, step)] = logger.experiment.calls
    assert (run, file, key, step) == ("abc", None, "saliency/samples/grad_cam/0__", 3)
    assert np.array_equal(np.asarray(image), as_png(picture()))


def test_mlflow_before_images_had_steps() -> None:
    logger = MlflowLogger(OldMlflowClient())
    assert adapter_for(logger).image(TAG, picture(), 3)
    [(run, _, file)] = logger.experiment.calls
    assert (run, file) == ("abc", "saliency/samples/grad_cam/0/00000003.png")


def test_comet() -> None:
    logger = WithExperiment(CometExperiment())
    assert adapter_for(logger).takes_images
    assert adapter_for(logger).image(TAG, picture(), 3)
    [(image, name, step)] = logger.experiment.calls
    assert (name, step) == (TAG, 3)
    assert np.array_equal(np.asarray(image), as_png(picture()))


def test_loggers_without_images_are_left_alone(tmp_path: Path) -> None:
    for logger in (None, DummyLogger(), CSVLogger(tmp_path), object()):
        assert not adapter_for(logger).takes_images
        assert not adapter_for(logger).image(TAG, picture(), 0)


def test_above_rank_zero_there_is_nothing_to_write_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Logger:
        @property
        @rank_zero_experiment
        def experiment(self) -> Any:
            return OtherWriter()

    assert adapter_for(Logger()).takes_images
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    assert type(adapter_for(Logger())) is NullAdapter
    assert not adapter_for(Logger()).takes_images
    assert not adapter_for(Logger()).image(TAG, picture(), 0)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(5, 7), r"\(3, H, W\)"),
        (torch.zeros(1, 3, 5, 7), r"\(3, H, W\)"),
        (torch.zeros(1, 5, 7), r"\(3, H, W\)"),
        (torch.zeros(3, 0, 7), r"\(3, H, W\)"),
        (torch.zeros(3, 5, 7, dtype=torch.int64), "int64"),
    ],
)
def test_other_shapes_and_types_are_errors(image: torch.Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        adapter_for(None).image(TAG, image, 0)
