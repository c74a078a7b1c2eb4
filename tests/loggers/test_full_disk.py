"""A disk that fills costs pictures, never the run nor its numbers."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_saliency import SaliencyCallback
from lightning_saliency.attribution import Gradient
from lightning_saliency.loggers.event_file import check_room, length_of_whole_records
from lightning_saliency.loggers.tensorboard import TensorBoardAdapter

HERE = Path(__file__).parent
TESTS = [str(HERE.parent), str(HERE.parent / "callbacks")]
EPOCHS = 6


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def train(folder: Path, **settings: Any) -> None:
    """Train, in a process of its own; print what the run ended with."""
    from small_runs import TinyModule, make_trainer, train_loader, val_loader

    from lightning_saliency.loggers import event_file

    # As much as this small disk can spare.
    event_file.LEAST_RESERVE = settings.pop("reserve")
    limit = settings.pop("limit", None)
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    torch.manual_seed(0)
    module = TinyModule()
    callback = SaliencyCallback(Gradient(), samples=8, save_maps=settings.pop("maps", False))
    trainer = make_trainer(folder, callback, max_epochs=EPOCHS, **settings)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        trainer.fit(module, train_loader(), val_loader(8))
    kinds = [type(w.message).__name__ for w in said]
    print("warned", "SaliencyWarning" in kinds, "steps", trainer.global_step)


def run(code: str, folder: Path) -> str:
    """Run :func:`train` in another process; return what it printed at last."""
    program = f"import sys; sys.path[:0] = {[*TESTS, str(HERE)]!r}\n{code}"
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)],
        capture_output=True, text=True, check=False, env=environment, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip().splitlines()[-1]


START = "from pathlib import Path\nfrom test_full_disk import train\n"


def losses(folder: Path) -> list[float]:
    found = EventAccumulator(str(folder / "run"), {"scalars": 0, "images": 0}).Reload()
    return [event.value for event in found.Scalars("val_loss")]


@pytest.mark.slow
@pytest.mark.parametrize("maps", [False, True])
def test_a_file_system_that_fills(maps: bool, small_disk: Path, tmp_path: Path) -> None:
    call = f"train(Path(sys.argv[1]), reserve=2**20, maps={maps})"
    with (small_disk / "others.bin").open("wb") as file:
        # Pictures of two explanations fit beside it.
        file.write(bytes(2_300_000))
    assert run(START + call, small_disk) == "warned True steps 24"
    assert run(START + "train(Path(sys.argv[1]), reserve=0)", tmp_path) == "warned False steps 24"
    assert len(losses(small_disk)) == EPOCHS
    assert losses(small_disk) == losses(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("limit", [150_000, 300_000])
def test_files_that_may_not_grow(limit: int, tmp_path: Path) -> None:
    call = f"train(Path(sys.argv[1]), reserve=0, limit={limit})"
    assert run(START + call, tmp_path / "limited") == "warned True steps 24"
    run(START + "train(Path(sys.argv[1]), reserve=0)", tmp_path / "free")
    assert losses(tmp_path / "limited") == losses(tmp_path / "free")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_writer_whose_thread_has_died_goes_on_in_another_file(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, name="run", version="")
    adapter = TensorBoardAdapter(logger)
    logger.log_metrics({"loss": 1.0}, 0)
    events = logger.experiment._get_file_writer().event_writer
    first = Path(events._file_name)

    def full(data: bytes) -> None:
        # Half a record, as a full disk leaves it.
        events._general_file_writer.write(data[:20])
        raise OSError(28, "No space left on device")

    writer = events._async_writer._writer
    adapter.flush()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "write", full)
        with pytest.raises(OSError, match="No space left"):  # noqa: PT012 (one of the two)
            adapter.image("picture", torch.rand(3, 8, 8), 0)
            adapter.flush()
    logger.log_metrics({"loss": 2.0}, 1)
    assert adapter.image("picture", torch.rand(3, 8, 8), 1)
    adapter.flush()
    assert length_of_whole_records(first) == first.stat().st_size
    assert len(list((tmp_path / "run").glob("events*"))) == 2
    found = EventAccumulator(str(tmp_path / "run"), {"scalars": 0, "images": 0}).Reload()
    assert [event.value for event in found.Scalars("loss")] == [1.0, 2.0]
    assert [event.step for event in found.Images("picture")] == [1]


def test_room_is_looked_for_where_there_is_a_disk(tmp_path: Path) -> None:
    check_room(tmp_path, 1, 0)
    check_room("s3://bucket/run", 2**60, 0)
    with pytest.raises(OSError, match="to leave room for checkpoints"):
        check_room(tmp_path, 2**60, 0)


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="no limits of file sizes")
def test_records_that_are_cut_off_are_not_counted(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, name="run", version="")
    for step in range(5):
        logger.log_metrics({"loss": 1.0}, step)
    logger.experiment.close()
    (file,) = (tmp_path / "run").glob("events*")
    whole = file.read_bytes()
    lengths = set()
    for cut in range(len(whole) - 60, len(whole) + 1):
        file.write_bytes(whole[:cut])
        lengths.add(length_of_whole_records(file))
    assert max(lengths) == len(whole)
    assert all(EventAccumulatorReads(whole[:length], tmp_path) for length in lengths)


def EventAccumulatorReads(data: bytes, folder: Path) -> bool:  # noqa: N802
    """Whether TensorBoard reads a file to its end."""
    file = folder / "cut" / f"events.out.tfevents.{len(data)}"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(data)
    found = EventAccumulator(str(file), {"scalars": 0}).Reload()
    return len(found.Scalars("loss")) > 0
