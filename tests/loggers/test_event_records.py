"""Compared with TensorBoard's own checksum and writer, and read back with its reader."""

from collections.abc import Iterator
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from torch.utils.tensorboard import SummaryWriter

from lightning_saliency.loggers import event_records
from lightning_saliency.loggers.event_records import masked_crc32c, quicken

RECORD_WRITER = import_module("tensorboard.summary.writer.record_writer")


def some_bytes(count: int) -> bytes:
    return np.random.default_rng(count).bytes(count)


class Chain:
    """The parts of TensorBoard's writer down to the one that writes records."""

    def __init__(self, records: Any) -> None:
        self.event_writer = self
        self._async_writer = self
        self._writer = records


@pytest.fixture
def nothing_known() -> Iterator[None]:
    """Forget what is known of TensorBoard's format, before and after."""
    event_records._known_writer.cache_clear()
    yield
    event_records._known_writer.cache_clear()


def test_the_check_value_of_the_standard() -> None:
    unmasked = (masked_crc32c(b"123456789") - 0xA282EAD8) & 0xFFFFFFFF
    assert (unmasked >> 17 | unmasked << 15) & 0xFFFFFFFF == 0xE3069283


@pytest.mark.parametrize(
    "count", [0, 1, 3, 4, 5, 255, 256, 257, 259, 511, 512, 513, 1000, 4096, 40_001]
)
def test_the_checksum_is_that_of_tensorboard(count: int) -> None:
    for data in (some_bytes(count), bytes(count), b"\xff" * count):
        assert masked_crc32c(data) == RECORD_WRITER.masked_crc32c(data)


def test_the_file_is_the_same_to_the_last_bit() -> None:
    files = BytesIO(), BytesIO()
    usual, quick = (RECORD_WRITER.RecordWriter(file) for file in files)
    assert quicken(Chain(quick))
    for count in (10, 3000, 2047, 2048, 2049, 1, 30_000):
        usual.write(some_bytes(count))
        quick.write(some_bytes(count))
    assert files[0].getvalue() == files[1].getvalue()


def test_only_long_records_go_another_way_and_only_once(monkeypatch: pytest.MonkeyPatch) -> None:
    records = RECORD_WRITER.RecordWriter(BytesIO())
    lengths: list[int] = []
    quick = event_records._write_quickly
    assert quicken(Chain(records))
    assert quicken(Chain(records))
    monkeypatch.setattr(
        event_records,
        "_write_quickly",
        lambda to, data: (lengths.append(len(data)), quick(to, data)),
    )
    records.write(some_bytes(100))
    records.write(some_bytes(5000))
    assert lengths == [5000]


def test_everything_is_read_back(tmp_path: Path) -> None:
    writer = SummaryWriter(str(tmp_path))
    image = torch.rand(3, 60, 60, generator=torch.Generator().manual_seed(0))
    writer.add_scalar("before", 1.0, 0)
    assert quicken(writer._get_file_writer())
    for step in range(30):
        writer.add_scalar("loss", step / 4, step)
        writer.add_image("image", image, step)
    writer.close()
    reader = EventAccumulator(str(tmp_path), size_guidance={"images": 0, "scalars": 0})
    reader.Reload()
    assert [event.value for event in reader.Scalars("loss")] == [step / 4 for step in range(30)]
    assert [event.step for event in reader.Images("image")] == list(range(30))
    # This one looks at the checksums.
    [file] = tmp_path.iterdir()
    assert len(list(RawEventFileLoader(str(file)).Load())) == 1 + 1 + 60


def test_a_writer_that_was_closed_and_opened_again(tmp_path: Path) -> None:
    writer = SummaryWriter(str(tmp_path))
    assert quicken(writer._get_file_writer())
    writer.close()
    assert quicken(writer._get_file_writer())
    writer.close()


class OtherRecords:
    def write(self, data: bytes) -> None:
        raise NotImplementedError


@pytest.mark.parametrize("unknown", [None, object(), Chain(None), Chain(OtherRecords())])
def test_an_unknown_writer_is_left_alone(unknown: object) -> None:
    assert not quicken(unknown)


@pytest.mark.usefixtures("nothing_known")
def test_another_format_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        RECORD_WRITER.RecordWriter, "write", lambda self, data: self._writer.write(data + b"!")
    )
    records = RECORD_WRITER.RecordWriter(BytesIO())
    assert not quicken(Chain(records))
    assert "write" not in vars(records)


@pytest.mark.usefixtures("nothing_known")
def test_a_class_put_together_otherwise_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Renamed(RECORD_WRITER.RecordWriter):
        def __init__(self, file: Any) -> None:
            self.file = file

        def write(self, data: bytes) -> None:
            self.file.write(data)

    monkeypatch.setattr(RECORD_WRITER, "RecordWriter", Renamed)
    assert not quicken(Chain(Renamed(BytesIO())))
