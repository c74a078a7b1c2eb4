"""Faults on one of two processes, one after the other, in every method and at every place.

Run as ``python fault_cases.py RANK WORLD STORE OUT``. Each process writes, for each case, what came
of it: whether training ended with the weights of a run without the callback, and how long it took.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent.parent)]

from contract import METHODS, make_method  # noqa: E402
from lightning.pytorch.strategies import DDPStrategy  # noqa: E402
from processes import member  # noqa: E402
from small_runs import TinyModule, make_trainer, train_loader, val_loader  # noqa: E402

from lightning_saliency import SaliencyCallback  # noqa: E402
from lightning_saliency.attribution import Gradient  # noqa: E402
from lightning_saliency.callbacks.pictures import Pictures  # noqa: E402
from lightning_saliency.callbacks.samples.sample_set import Samples  # noqa: E402

Fault = Callable[[], Any]
WHERE = ["before the forward", "in the forward", "after the forward"]


class Begun(pl.Callback):
    """Before training, faults are raised, as they should be; here they come up in it."""

    now = False

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        Begun.now = True

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        Begun.now = False


def fail() -> None:
    if Begun.now:
        raise ZeroDivisionError("on purpose")


def run_out_of_memory() -> None:
    if Begun.now:
        raise torch.OutOfMemoryError("on purpose")


def disk_is_full() -> None:
    raise OSError(28, "No space left on device")


@contextmanager
def in_method(name: str, where: str, error: Fault) -> Iterator[None]:
    """Make a method fail before, in or after its forward passes, not in the first explanation."""
    kind = METHODS[name]
    # Of extremal perturbation the callback wants more than maps.
    called = "masks" if name == "ExtremalPerturbation" else "attribute"
    attribute, calls = getattr(kind, called), [0]

    def failing(self: Any, model: nn.Module, image: Tensor, target: Any) -> Any:
        calls[0] += 1
        if where == WHERE[0]:
            error()
        if where == WHERE[1]:
            model.net.pool.register_forward_hook(lambda *_: error())
        saliency = attribute(self, model, image, target)
        error()
        return saliency

    # A method of another class shares no pass, so that its own forward passes are made.
    with mock.patch.object(kind, called, failing):
        yield
    assert calls[0]


def patched(kind: type, name: str, error: Fault) -> Any:
    return mock.patch.object(kind, name, side_effect=lambda *_, **__: error())


def nan_weights() -> Any:
    """Make every weight NaN as the explanation sees it."""

    def gradient(self: Any, model: nn.Module, image: Tensor, target: Any) -> Tensor:
        return torch.full_like(image[:, :1], float("nan"))

    return mock.patch.object(Gradient, "attribute", gradient)


Case = tuple[str, int, Callable[[Fault], Any], Fault]


def cases() -> dict[str, Case]:
    """For each case: the method, the process that fails, what is patched, and the fault."""
    table: dict[str, Case] = {}
    for name in METHODS:
        for where in WHERE:

            def patch(error: Fault, name: str = name, where: str = where) -> Any:
                return in_method(name, where, error)

            for rank in (0, 1):
                table[f"{name}, {where}, on process {rank}"] = name, rank, patch, fail
    for rank in (0, 1):
        on = f"on process {rank}"
        table[f"out of memory {on}"] = (
            "Gradient",
            rank,
            lambda error: in_method("Gradient", WHERE[2], error),
            run_out_of_memory,
        )
        table[f"NaN maps {on}"] = "Gradient", rank, lambda _: nan_weights(), fail
        table[f"a batch that cannot be unpacked {on}"] = (
            "Gradient",
            rank,
            lambda error: patched(Samples, "collect", error),
            fail,
        )
    table["pictures that cannot be drawn"] = (
        "Gradient",
        0,
        lambda error: patched(Pictures, "draw", error),
        fail,
    )
    table["a full disk"] = (
        "Gradient",
        0,
        lambda error: mock.patch(
            "lightning_saliency.loggers.tensorboard.TensorBoardAdapter.image",
            # Not the pinned maps and the filmstrips, which are other parts of an explanation.
            side_effect=lambda tag, *_, **__: "pinned" in tag or "filmstrip" in tag or error(),
        ),
        disk_is_full,
    )
    return table


def weights(module: nn.Module) -> str:
    digest = hashlib.sha1()
    for value in module.state_dict().values():
        digest.update(value.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


def train(folder: Path, *callbacks: Any) -> tuple[str, float]:
    random.seed(0), torch.manual_seed(0)
    module = TinyModule()
    trainer = make_trainer(
        folder,
        Begun(),
        *callbacks,
        strategy=DDPStrategy(),
        devices=2,
        max_epochs=4,
    )
    start = time.monotonic()
    trainer.fit(module, train_loader(), val_loader())
    left = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())
    return weights(module) + (f" and {left} hooks" if left else ""), time.monotonic() - start


def main() -> None:
    rank, _, store = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    out = Path(sys.argv[4])
    folder = out.parent / f"runs{rank}"
    with member(rank, 2, store):
        wanted, usual = train(folder)
        found = {}
        for case, (name, failing, patch, error) in cases().items():
            callback = SaliencyCallback(make_method(name), samples=4)
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                if rank == failing:
                    with patch(error):
                        came, took = train(folder, callback)
                else:
                    came, took = train(folder, callback)
            reports = [str(w.message) for w in said if "is skipped" in str(w.message)]
            found[case] = [came == wanted, took, usual, reports]
            out.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
