"""Train for 500 epochs with all callbacks, and look for what grows: memory, hooks, files, threads.

make soak
python tests/performance/soak.py --epochs 300 --samples 64 --every 5

What is looked at after each fifth epoch must not grow after the twentieth; the events of
TensorBoard must grow evenly. Memory is looked at in three ways:

- what the process has of the machine, which goes up and down by a megabyte or two, as malloc finds
  holes for what comes and goes;
- what malloc has given away and not got back (``heap``), where it is that of glibc, less what the
  callbacks keep for a checkpoint, which is judged by itself;
- how many small objects Python has given away and not got back (``blocks``).

The last two see a leak of some bytes per epoch. They are judged in the second half of the run: what
the callbacks keep of the newest explanations is full by then, and only a leak still grows.

Filmstrips have from 9 to 16 columns by turns, and each turn takes twice as long as the one before,
the last one half of the run. That would be taken for growth, or hide it: so a number is fitted by a
line in the epochs and in the columns (of the callback that explains less often, too, from where it
has all of its columns), and its slope is the part of the epochs. It is compared with
what is left of the ups and downs, in blocks of epochs, because neighbouring ones are alike. What
the process has of the machine is judged from the twentieth epoch on, settled or not.

What an epoch takes of the processor's time is shown, too; it should not grow either.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import io
import json
import logging
import os
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "callbacks")]
os.environ.setdefault("OMP_NUM_THREADS", "1")

import lightning.pytorch as pl  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from contract import CHEAP, METHODS, make_method  # noqa: E402
from lightning.pytorch.loggers import TensorBoardLogger  # noqa: E402
from scipy import stats  # noqa: E402
from small_runs import TinyModule, dataset  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402

import lightning_saliency  # noqa: E402
from lightning_saliency import DriftAlarm, SaliencyCallback  # noqa: E402
from lightning_saliency.rendering import select_frames  # noqa: E402

EVERY = 5
FIRST = 20
BLOCKS = 16
NUMBERS = ("memory", "hooks", "files", "threads", "tensors", "checkpoint")
IN_THE_SECOND_HALF = ("heap", "blocks")
# A slope that is no leak, which leaves at least one object behind in each epoch. Numbers above 256
# are objects of their own in CPython, so that some hundred come when the epochs get there.
# A filmstrip's curves get a point of some 25 bytes in each explanation, until they are thinned out.
LEAST = {"blocks": 1.0, "checkpoint": 25.0 * 2 * len(METHODS)}


class _MallocInfo(ctypes.Structure):
    """What glibc's mallinfo2 fills in."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd",
            "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
        )
    ]  # fmt: skip


class Watch(pl.Callback):
    """Writes down what there is, after every fifth epoch."""

    def __init__(self, folder: Path, output: Path) -> None:
        self.folder, self.output = folder, output

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at what the epochs before have left."""
        if trainer.current_epoch % EVERY == 0:
            gc.collect()
            row = {
                "epoch": trainer.current_epoch,
                "milliseconds": round(1000 * time.process_time()),
                "memory": _resident(),
                "heap": _heap(),
                "blocks": sys.getallocatedblocks(),
                "hooks": _hooks(pl_module),
                "files": len(os.listdir("/proc/self/fd")),
                "threads": threading.active_count() + len(os.listdir("/proc/self/task")),
                "tensors": sum(issubclass(type(thing), Tensor) for thing in gc.get_objects()),
                "checkpoint": _checkpoint(trainer),
                "events": sum(file.stat().st_size for file in self.folder.rglob("events.*")),
            }
            # Not kept here, where it would grow. An interrupted run has something to show.
            with self.output.open("a") as file:
                file.write(json.dumps(row) + "\n")


def _checkpoint(trainer: pl.Trainer) -> int:
    """Return how many bytes our callbacks add to a checkpoint."""
    file = io.BytesIO()
    ours = (SaliencyCallback, DriftAlarm)
    callbacks = cast("Any", trainer).callbacks
    torch.save([each.state_dict() for each in callbacks if isinstance(each, ours)], file)
    return file.tell()


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _heap() -> int:
    """Return how many bytes malloc has given away; 0 where it does not tell."""
    info = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if info is None:
        return 0
    info.restype = _MallocInfo
    found = info()
    return int(found.uordblks + found.hblkhd)


def _hooks(module: nn.Module) -> int:
    return sum(
        len(hooks)
        for part in module.modules()
        for name, hooks in vars(part).items()
        if name.endswith("_hooks") and hooks is not None
    )


def run(epochs: int, samples: int, every: int, folder: Path, output: Path) -> list[dict[str, int]]:
    """Train, and return what was seen; it is also written to ``output``.

    Args:
        epochs: to train.
        samples: that each callback explains.
        every: so many epochs, the callback of all methods does; the named ones do in each epoch.
        folder: of the events.
        output: of what was seen.
    """
    torch.manual_seed(0)
    kinds = {name: getattr(lightning_saliency, f"{name}Callback") for name in METHODS}
    named = [
        kind(samples=samples, name="named", **CHEAP.get(name, {})) for name, kind in kinds.items()
    ]
    # By index, which checkpoints store in another way.
    indices = list(range(1, samples + 1))
    generic = SaliencyCallback(
        [make_method(name) for name in METHODS],
        samples=indices,
        every_n_epochs=every,
        max_overhead=1,
    )
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        limit_train_batches=2,
        logger=TensorBoardLogger(folder),
        callbacks=[DriftAlarm(), generic, *named, Watch(folder, output)],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loader = DataLoader(dataset(max(8, samples + 1)), batch_size=4)
    trainer.fit(TinyModule(), loader, loader)
    return [json.loads(line) for line in output.read_text().splitlines()]


def slope(
    epochs: Sequence[int], values: Sequence[float], columns: Sequence[Sequence[int]]
) -> tuple[float, float]:
    """Return the slope along the epochs, and half its confidence interval.

    Args:
        epochs: when it was looked.
        values: what was seen.
        columns: of the filmstrips, at the same times.
    """
    size = max(1, len(values) // BLOCKS)
    number = len(values) // size
    blocks = np.array([epochs, *columns, values], float)[:, len(values) - size * number :]
    *known, seen = blocks.reshape(len(blocks), number, size).mean(2)
    parts = np.stack([*(each - each.mean() for each in known), np.ones(number)], axis=1)
    # Whatever never changes has the slope 0, and no rounding errors.
    fitted = np.linalg.pinv(parts) @ (seen - seen[0])
    rest = seen - seen[0] - parts @ fitted
    spread = np.linalg.pinv(parts.T @ parts)[0, 0]
    freedom = number - parts.shape[1]
    error = (rest @ rest / freedom * spread) ** 0.5
    # Two-sided, 95 %.
    return float(fitted[0]), float(stats.t.ppf(0.975, freedom) * error)


def main(epochs: int, samples: int, every: int, output: Path) -> bool:
    """Train, print what has grown, and return whether nothing has."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        rows = run(epochs, samples, every, Path(folder), output)
    return nothing_grew(rows, every)


def nothing_grew(rows: list[dict[str, int]], every: int = 1) -> bool:
    """Print how each number has changed, and return whether none has grown."""
    most = max(len(select_frames(count)) for count in range(100))
    late = [row for row in rows if row["epoch"] >= max(FIRST, most * every)]
    when = [row["epoch"] for row in late]
    half = len(late) // 2
    # One explanation in each epoch, and one in every so many.
    counts = [when] if every == 1 else [when, [-(-epoch // every) for epoch in when]]
    columns = [[len(select_frames(count)) for count in each] for each in counts]
    verdicts = {}
    for name in (*NUMBERS, *IN_THE_SECOND_HALF):
        begin = half if name in IN_THE_SECOND_HALF else 0
        values = [row[name] for row in late[begin:]]
        if name == "heap":
            values = [row["heap"] - row["checkpoint"] for row in late[begin:]]
        steep, unsure = slope(when[begin:], values, [each[begin:] for each in columns])
        # A number that follows from the columns alone leaves nothing but rounding errors.
        least = LEAST.get(name, 1e-9 * max(values))
        verdicts[name] = abs(steep) - least <= unsure
        print(
            f"{name:10s} {values[0]:>12,d} to {values[-1]:>12,d}, slope {steep:+.3g} +- "
            f"{unsure:.2g} an epoch{'' if verdicts[name] else '   <-- grows'}"
        )
    written = [row["events"] for row in late]
    ratio = (written[-1] - written[half]) / max(1, written[half] - written[0])
    ratio *= (when[half] - when[0]) / max(1, when[-1] - when[half])
    verdicts["events"] = 0.9 <= ratio <= 1.1
    print(
        f"events     {written[0]:,d} to {written[-1]:,d} bytes; the second half's growth is "
        f"{ratio:.2f} of the first half's{'' if verdicts['events'] else '   <-- not even'}"
    )
    spent = [row["milliseconds"] for row in late]
    shares = [
        (spent[end] - spent[begin]) / (when[end] - when[begin])
        for begin, end in ((0, half // 2), (-1 - half // 2, -1))
    ]
    print("time       {:.0f} to {:.0f} ms an epoch, means of a quarter each".format(*shares))
    return all(verdicts.values())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=500)
    parser.add_argument("--samples", type=int, default=1)
    parser.add_argument("--every", type=int, default=1, help="5 at most, as often as it is looked")
    parser.add_argument("--output", type=Path, default=Path("build/soak.jsonl"))
    given = parser.parse_args()
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.unlink(missing_ok=True)
    sys.exit(not main(given.epochs, given.samples, given.every, given.output))
