"""Let Lightning validate one checkpoint after the other, at the place of each in its run."""

import inspect
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch.utils.data import DataLoader
from typing_extensions import override

from lightning_saliency.callbacks.failures import PASSED_ON
from lightning_saliency.callbacks.run_context import RunContext, replaying
from lightning_saliency.callbacks.saliency import SaliencyCallback
from lightning_saliency.errors import InputError
from lightning_saliency.replaying.files import Checkpoint, is_sharded

_STEP = "validation_step"
# What a module does in a validation run besides; it may need what its steps have left.
_OWN_HOOKS = tuple(
    f"on_validation_{when}"
    for when in ("start", "epoch_start", "batch_start", "batch_end", "epoch_end", "end")
)
_TRANSFERS = ("on_before_batch_transfer", "on_after_batch_transfer")


class LoadError(Exception):
    """A checkpoint could not be loaded; the cause is what went wrong."""


class Engine:
    """Explains checkpoints by ``Trainer.validate``, with the callbacks of a trainer.

    Args:
        module: takes the weights of each checkpoint.
        trainer: of the replay; its own callbacks come before those.
        data: a datamodule, or what ``Trainer.validate`` takes as loaders; None for those of the
            module, or for none where the samples are given.
        weights_only: whether nothing but tensors and plain values may be loaded.
        validate: whether the module validates too, on all of the data. Otherwise it is not called
            but to explain, and no more is read than the samples.
        follows_fit: whether the callbacks shall do what they do in a fit, and not what they do
            for a single ``trainer.validate``.

    Raises:
        InputError: there is no data where some is needed, or the trainer cannot be used.
    """

    def __init__(
        self,
        module: pl.LightningModule,
        trainer: pl.Trainer,
        data: Any = None,
        weights_only: bool = True,
        validate: bool = False,
        follows_fit: bool = True,
    ) -> None:
        self._module, self._trainer = module, trainer
        self._weights_only, self._validate = weights_only, validate
        self._follows_fit = follows_fit
        self._limit = trainer.limit_val_batches
        context = RunContext(trainer, module)
        self._callbacks = [c for c in context.callbacks if isinstance(c, SaliencyCallback)]
        if not self._callbacks:
            raise InputError("Expected at least one saliency callback to explain with, got none.")
        if context.is_spawned:
            raise InputError(
                "Expected a strategy whose processes stay, because what is found at one checkpoint "
                "is needed at the next, got one that starts processes anew. Take strategy='ddp', "
                "or one device."
            )
        self._datamodule = data if isinstance(data, pl.LightningDataModule) else None
        self._loaders = None if self._datamodule is not None else data
        self._has_data = data is not None or is_overridden("val_dataloader", module)
        if not self._has_data:
            self._require_no_data()
        self._ends = _Ends(self._callbacks)

    def _require_no_data(self) -> None:
        if self._validate or any(callback.needs_data for callback in self._callbacks):
            raise InputError(
                "Expected validation data to take the samples from, got none, and the module has "
                "no val_dataloader. Pass a datamodule or loaders, or give the samples to the "
                "callback: samples=(images, labels)."
            )
        self._loaders = DataLoader(cast("Any", [torch.zeros(1)]), batch_size=1)

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Inside, checkpoints can be explained; after it, module and trainer are as before."""
        with ExitStack() as stack:
            replace = partial(_replaced, stack)
            if not self._validate:
                for name in (_STEP, *_OWN_HOOKS):
                    replace(self._module, name, _nothing)
            if not self._has_data:
                for name in _TRANSFERS:
                    replace(self._module, name, _same_batch)
            for logger in self._trainer.loggers:
                # Otherwise each checkpoint would have an event file of its own.
                finalize = replace(logger, "finalize", _nothing)
                stack.callback(finalize, "success")
            if _is_kind(self._trainer.strategy, "FSDPStrategy"):
                # Lightning sets up the module for each checkpoint, but wrapping it flattens its
                # weights: it cannot be done a second time.
                strategy: Any = self._trainer.strategy
                replace(strategy, "_setup_model", lru_cache(maxsize=1)(strategy._setup_model))
            load = self._trainer.strategy.load_checkpoint
            replace(self._trainer.strategy, "load_checkpoint", partial(self._load, load))
            callbacks = RunContext(self._trainer, self._module).callbacks
            if self._follows_fit:
                stack.enter_context(replaying(self._trainer))
                callbacks.append(self._ends)
                stack.callback(callbacks.remove, self._ends)
            stack.callback(setattr, self._trainer, "limit_val_batches", self._limit)
            yield

    def explain(self, checkpoint: Checkpoint, is_last: bool = False) -> None:
        """Explain one checkpoint; the callbacks do the rest.

        Args:
            checkpoint: to be loaded.
            is_last: whether the replay ends with it.

        Raises:
            LoadError: it cannot be loaded.
            Exception: whatever else goes wrong in a validation run.
        """
        trainer = self._trainer
        self._ends.is_last = is_last
        needs_data = self._validate or any(callback.needs_data for callback in self._callbacks)
        trainer.limit_val_batches = self._limit if needs_data else 1
        current: Any = trainer.fit_loop.epoch_progress.current
        current.ready = current.started = checkpoint.epoch + 1
        current.processed = current.completed = checkpoint.epoch
        trainer.fit_loop.epoch_loop._batches_that_stepped = checkpoint.step
        self._ends.is_loading = False
        try:
            trainer.validate(
                self._module,
                dataloaders=self._loaders,
                datamodule=self._datamodule,
                ckpt_path=str(checkpoint.path),
                verbose=self._validate,
            )
        except PASSED_ON:
            raise
        # What torch raises of checkpoints in several files is no Exception.
        except BaseException as error:
            if self._ends.is_loading:
                raise LoadError from error
            raise

    def finish(self) -> None:
        """End the run, if its last checkpoint could not be explained."""
        self._ends.finish(self._trainer, self._module)

    def _load(
        self, load: Callable[..., dict[str, Any]], path: str | Path, *_: Any, **__: Any
    ) -> dict[str, Any]:
        self._ends.is_loading = True
        takes = inspect.signature(load).parameters
        settings = {"weights_only": self._weights_only} if "weights_only" in takes else {}
        if is_sharded(Path(path)) and not _loads_shards(self._trainer):
            checkpoint = _gathered(Path(path), self._module)
        else:
            checkpoint = load(path, **settings)
        # What the callbacks of the run have seen is not what these have seen; nor does a validation
        # run go on where another one was.
        return {key: value for key, value in checkpoint.items() if key != "loops"} | {
            "callbacks": {}
        }


class _Ends(pl.Callback):
    """Lets the saliency callbacks begin and end as in a fit.

    Args:
        callbacks: that replay.
    """

    def __init__(self, callbacks: Sequence[SaliencyCallback]) -> None:
        self._callbacks = callbacks
        self._has_begun = self._has_ended = False
        self.is_last = False
        self.is_loading = False

    @override
    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self.is_loading = False

    @override
    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self._has_begun:
            self._has_begun = True
            for callback in self._callbacks:
                callback.on_fit_start(trainer, pl_module)

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.is_last:
            for callback in self._callbacks:
                callback.on_train_end(trainer, pl_module)
            self.finish(trainer, pl_module)

    def finish(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._has_begun and not self._has_ended:
            self._has_ended = True
            for callback in self._callbacks:
                callback.on_fit_end(trainer, pl_module)


def _replaced(stack: ExitStack, owner: Any, name: str, stand_in: Any) -> Any:
    """Give an object another method until the stack is closed; return the one that it had."""
    before = getattr(owner, name, None)
    own = vars(owner).get(name)
    if own is None:
        stack.callback(delattr, owner, name)
    else:
        stack.callback(setattr, owner, name, own)
    setattr(owner, name, stand_in)
    return before


def _nothing(*_: Any, **__: Any) -> None:
    """Stand in for what shall not happen."""


def _same_batch(batch: Any, *_: Any, **__: Any) -> Any:
    return batch


def _loads_shards(trainer: pl.Trainer) -> bool:
    return _is_kind(trainer.strategy, "FSDPStrategy", "ModelParallelStrategy")


def _is_kind(strategy: object, *names: str) -> bool:
    # By name: Lightning has the classes in two packages.
    return any(kind.__name__ in names for kind in type(strategy).__mro__)


def _gathered(path: Path, module: pl.LightningModule) -> dict[str, Any]:
    """Load a checkpoint in several files into the module of one process."""
    from torch.distributed.checkpoint import filesystem, state_dict_loader

    state = {"model": {name: tensor.clone() for name, tensor in module.state_dict().items()}}
    with warnings.catch_warnings():
        # A single process is what is wanted.
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        reader = filesystem.FileSystemReader(path)
        state_dict_loader.load(state, storage_reader=reader, no_dist=True)
    about: dict[str, Any] = torch.load(path / "meta.pt", weights_only=False)
    return {**about, "state_dict": state["model"]}
