"""Faults of every kind in a method: training goes on with the weights of a run without it.

Signals that end a run end it as Lightning does on its own.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from small_runs import QUIET, TinyModule, make_trainer, train_loader, val_loader
from torch import Tensor, nn
from traces import module_state

from lightning_saliency import SaliencyCallback
from lightning_saliency.errors import SaliencyWarning

pytestmark = [
    *QUIET,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
EPOCHS = 3


@dataclasses.dataclass(frozen=True)
class FrozenError(Exception):
    got: int = 3


class SlottedError(Exception):
    __slots__ = ()


class StubbornError(Exception):
    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(name)


class OwnEndError(BaseException):
    pass


class UnspeakableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


class WordlessError(Exception):
    def __str__(self) -> str:
        return None  # type: ignore[return-value]


class EndlessError(Exception):
    def __str__(self) -> str:
        return str(self)


class OddCauseError(Exception):
    @property
    def exceptions(self) -> Any:
        raise OSError("not even this")


class UnhashableError(Exception):
    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        raise TypeError("not comparable")


def from_itself() -> None:
    try:
        raise ZeroDivisionError
    except ZeroDivisionError as error:
        raise error from error


def ring() -> None:
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    raise first


def long_chain() -> None:
    last: BaseException = ValueError("the first")
    for number in range(5_000):
        following = ValueError(number)
        following.__context__, last = last, following
    raise last


def endless() -> None:
    endless()


def group() -> None:
    if sys.version_info >= (3, 11):
        raise BaseExceptionGroup("some", [ValueError("a"), asyncio.CancelledError()])  # noqa: F821
    raise ValueError("a")


def as_error() -> None:
    warnings.simplefilter("error")
    warnings.warn("now an error", UserWarning, stacklevel=1)


def in_no_grad(model: nn.Module) -> None:
    torch.set_grad_enabled(False)
    raise ValueError("left without gradients")


def weights_lost(model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    raise ValueError("on purpose")


def raising(make: Callable[[], BaseException]) -> Callable[[nn.Module], None]:
    def fail(model: nn.Module) -> None:
        raise make()

    return fail


def plainly(act: Callable[[], object]) -> Callable[[nn.Module], None]:
    return lambda model: act() and None


def in_a_hook(model: nn.Module) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("in a hook")

    next(model.children()).register_forward_hook(fail)
    model(torch.zeros(1, 3, 16, 16))


# What the method does in the second explanation.
RAISED: dict[str, Callable[[nn.Module], object]] = {
    "a frozen exception": raising(FrozenError),
    "one with slots": raising(SlottedError),
    "one that cannot be written to": raising(StubbornError),
    "one without words": raising(UnspeakableError),
    "one whose words are None": raising(WordlessError),
    "one whose words never end": raising(EndlessError),
    "one whose parts raise": raising(OddCauseError),
    "one without a hash": raising(UnhashableError),
    "a BaseException": raising(OwnEndError),
    "CancelledError": raising(asyncio.CancelledError),
    "GeneratorExit": raising(GeneratorExit),
    "StopIteration": raising(StopIteration),
    "StopAsyncIteration": raising(StopAsyncIteration),
    "MemoryError": raising(MemoryError),
    "out of memory on the device": raising(lambda: torch.OutOfMemoryError("none left")),
    "RecursionError": plainly(endless),
    "a group of exceptions": plainly(group),
    "raised from itself": plainly(from_itself),
    "a ring of causes": plainly(ring),
    "a chain of 5,000 causes": plainly(long_chain),
    "a warning as an error": plainly(as_error),
    "half of a letter": raising(lambda: ValueError("\ud800 cut off")),
    "a message of bytes": raising(lambda: ValueError(b"\xff")),
    "a message of ten million letters": raising(lambda: ValueError("x" * 10_000_000)),
    "a message with color codes": raising(lambda: ValueError("\x1b[2J\0\r")),
    "in a hook": in_a_hook,
    "gradients are switched off": in_no_grad,
    "weights are overwritten": weights_lost,
}


class Faulty:
    """Does something in the second explanation, once training has begun."""

    __name__ = "faulty"

    def __init__(self, act: Callable[[nn.Module], object]) -> None:
        self.act, self.calls = act, 0

    def __call__(self, model: nn.Module, image: Tensor, target: Any) -> Tensor:
        self.calls += 1
        if self.calls > 1:
            self.act(model)
        return image.abs().sum(1, keepdim=True)


def train(
    folder: Path, *callbacks: Any, **settings: Any
) -> tuple[dict[str, Any], pl.Trainer, list[str]]:
    """Return the module's state, the trainer and our warnings."""
    torch.manual_seed(0)
    module = TinyModule()
    trainer = make_trainer(folder, *callbacks, **{"max_epochs": EPOCHS, **settings})
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        trainer.fit(module, train_loader(), val_loader())
    ours = [str(w.message) for w in said if issubclass(w.category, SaliencyWarning)]
    return module_state(module), trainer, ours


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return train(tmp_path_factory.mktemp("usual"))[0]


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """A run that hangs is a failure, too."""

    def late(*_: object) -> None:
        pytest.exit("a run hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_there_are_enough() -> None:
    assert len(RAISED) + len(REAL) + len(ENDING) >= 30
    assert len(REAL) + len(ENDING) >= 10


@pytest.mark.parametrize("kind", RAISED)
def test_what_a_method_raises(kind: str, usual: dict[str, Any], tmp_path: Path) -> None:
    method = Faulty(RAISED[kind])
    with within(60):
        state, trainer, said = train(tmp_path, SaliencyCallback(method, samples=1))
    assert state == usual
    assert trainer.global_step == 4 * EPOCHS
    assert method.calls > 2
    assert said
    assert all("is skipped; training goes on" in text for text in said)
    # A report can be printed, and read.
    assert all(text.encode() and len(text) < 10_000 for text in said)
    assert torch.is_grad_enabled()


# --- what really happens to files, disks and processes ----------------------------------------


@dataclasses.dataclass
class Place:
    """Where a run takes place, and what it is made of."""

    folder: Path
    trainer: pl.Trainer | None = None
    undo: list[Callable[[], object]] = dataclasses.field(default_factory=list)
    after_explanation: list[Callable[[], object]] = dataclasses.field(default_factory=list)


def writer_closed(place: Place) -> None:
    assert place.trainer is not None
    place.trainer.logger.experiment.close()  # type: ignore[union-attr]


def log_folder_removed(place: Place) -> None:
    shutil.rmtree(place.folder / "run")


def maps_folder_removed(place: Place) -> None:
    shutil.rmtree(place.folder / "run" / "saliency_maps")


def maps_folder_is_a_file(place: Place) -> None:
    maps_folder_removed(place)
    (place.folder / "run" / "saliency_maps").write_text("in the way")


def maps_folder_is_a_ring(place: Place) -> None:
    maps_folder_removed(place)
    (place.folder / "run" / "saliency_maps").symlink_to("saliency_maps")


def maps_disk_full(place: Place) -> None:
    """A file system of 64 kB for the maps, which is full."""
    maps_folder_removed(place)
    maps = place.folder / "run" / "saliency_maps"
    maps.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(maps)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a file system")
    place.undo.append(lambda: subprocess.run(["umount", "--lazy", str(maps)], check=True))
    with pytest.raises(OSError, match="No space"), (maps / "others.bin").open("wb") as file:
        file.write(bytes(100_000))


def maps_read_only(place: Place) -> None:
    """A file system that cannot be written to, which binds root, too."""
    maps_disk_full(place)
    maps = place.folder / "run" / "saliency_maps"
    subprocess.run(["mount", "-o", "remount,ro", str(maps)], check=True)


def directory_changed(place: Place) -> None:
    os.chdir(place.folder)


def directory_removed(place: Place) -> None:
    gone = place.folder / "gone"
    gone.mkdir(exist_ok=True)
    os.chdir(gone)
    gone.rmdir()


def no_more_open_files(place: Place) -> None:
    """All files that may be open are, until the explanation is over: without us, too, TensorBoard
    would fail to write the run's numbers after that.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 4096), hard))
    taken: list[int] = []

    def let_go() -> None:
        while taken:
            os.close(taken.pop())
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    place.after_explanation.append(let_go)
    with suppress(OSError):
        while True:
            taken.append(os.open(os.devnull, os.O_RDONLY))
    assert taken


def interrupted_by_an_alarm(place: Place) -> None:
    """A method that hangs, and that a timer of the user's interrupts."""

    def enough(*_: object) -> None:
        raise TimeoutError("on purpose")

    before = signal.signal(signal.SIGALRM, enough)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        while True:
            time.sleep(5)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def thread_that_fails(place: Place) -> None:
    def fail() -> None:
        raise OwnEndError("in a thread")

    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()


def output_closed(place: Place) -> None:
    """Nobody reads what is printed any more: a broken pipe."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as file:
        print("anybody?", file=file, flush=True)


def child_killed(place: Place) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    child.kill()
    raise subprocess.CalledProcessError(child.wait(), "child")


# What the method does in the second explanation, and whether there is something to report.
# What happens, and whether it is reported; None where that depends on the version of TensorBoard.
REAL: dict[str, tuple[Callable[[Place], object], bool | None]] = {
    "the writer is closed": (writer_closed, False),
    # Without us this ends the run: TensorBoard opens its file for each write.
    "the log folder is removed": (log_folder_removed, None),
    "the maps' folder is removed": (maps_folder_removed, False),
    "the maps' folder becomes a file": (maps_folder_is_a_file, True),
    "the maps' folder becomes a ring": (maps_folder_is_a_ring, True),
    "the maps' disk is full": (maps_disk_full, True),
    "the maps' disk is read-only": (maps_read_only, True),
    "the working directory is changed": (directory_changed, False),
    "the working directory is removed": (directory_removed, False),
    "no more files can be opened": (no_more_open_files, True),
    "a timer interrupts it": (interrupted_by_an_alarm, True),
    "a thread of it fails": (thread_that_fails, False),
    "its output is closed": (output_closed, True),
    "a process of it is killed": (child_killed, True),
}


class Knows(pl.Callback):
    def __init__(self, place: Place) -> None:
        self.place = place

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.place.trainer = trainer

    def on_validation_epoch_end(self, *_: object) -> None:
        # It stands after the callback.
        while self.place.after_explanation:
            self.place.after_explanation.pop()()


@pytest.mark.parametrize("kind", REAL)
def test_what_really_happens(
    kind: str, usual: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    act, is_reported = REAL[kind]
    place = Place(tmp_path)
    done: list[int] = []

    def once(model: nn.Module) -> None:
        if not done:
            done.append(1)
            act(place)

    callback = SaliencyCallback(Faulty(once), samples=2, save_maps=True)
    # Paths of logs are often relative.
    monkeypatch.chdir(tmp_path)
    try:
        with within(60):
            state, trainer, said = train(Path(), callback, Knows(place))
    finally:
        for undo in place.undo:
            undo()
    assert done
    assert state == usual
    assert trainer.global_step == 4 * EPOCHS
    assert is_reported is None or bool(said) == is_reported, said
    assert Path.cwd() == tmp_path


# --- what ends a run ends it as without us ----------------------------------------------------


def kill(number: int) -> Callable[[nn.Module], None]:
    def act(model: nn.Module) -> None:
        os.kill(os.getpid(), number)
        for _ in range(100):
            model(torch.zeros(1, 3, 16, 16))

    return act


ENDING: dict[str, tuple[Callable[[nn.Module], object], tuple[type[BaseException], ...]]] = {
    "Ctrl-C": (kill(signal.SIGINT), (KeyboardInterrupt, SystemExit)),
    "SIGTERM": (kill(signal.SIGTERM), (SystemExit,)),
    "KeyboardInterrupt": (raising(KeyboardInterrupt), (KeyboardInterrupt, SystemExit)),
    "SystemExit": (raising(SystemExit), (SystemExit,)),
}


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Let Ctrl-C raise KeyboardInterrupt, also where the tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("kind", ENDING)
@pytest.mark.usefixtures("ctrl_c")
def test_what_ends_a_run(kind: str, tmp_path: Path) -> None:
    act, ends = ENDING[kind]
    torch.manual_seed(0)
    module = TinyModule()
    handlers = [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)]
    trainer = make_trainer(tmp_path, SaliencyCallback(Faulty(act), samples=2), max_epochs=EPOCHS)
    with within(60), pytest.raises(ends):
        trainer.fit(module, train_loader(), val_loader())
    # The second explanation is at the end of the second epoch; nothing was trained after it.
    assert module.steps == 8
    assert [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)] == handlers
    assert not [hook for each in module.modules() for hook in each._forward_hooks]
    assert all(parameter.requires_grad for parameter in module.parameters())
