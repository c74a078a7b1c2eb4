"""One run as the callbacks see it: where it is, its processes, its loggers, its folder."""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary, WeakSet

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from lightning_saliency.callbacks.failures import (
    PASSED_ON,
    Failure,
    StageError,
    describe_error,
    warn,
)
from lightning_saliency.callbacks.tags import LogLevel, is_logged, logged_tag, names_of
from lightning_saliency.loggers import FilesAdapter, LogAdapter, adapters_of
from lightning_saliency.loggers.event_file import LEAST_RESERVE

T = TypeVar("T")

_REPLAYING: WeakSet[pl.Trainer] = WeakSet()
# Of runs that have begun, where files go that no logger takes.
_FOLDERS: WeakKeyDictionary[pl.Trainer, Path] = WeakKeyDictionary()


class RunContext:
    """A trainer and the module that it trains, at one moment of a run.

    Args:
        trainer: of the run.
        pl_module: the module that is explained.
    """

    def __init__(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.trainer = trainer
        self.pl_module = pl_module

    # Where the run is.

    @property
    def epoch(self) -> int:
        """The current epoch, from 0."""
        return self.trainer.current_epoch

    @property
    def step(self) -> int:
        """The step at which Lightning logs the metrics of a validation run."""
        # ``global_step`` would count every optimizer.
        return self.trainer.fit_loop.epoch_loop._batches_that_stepped

    @property
    def is_fitting(self) -> bool:
        """Whether this is ``fit``, and not ``validate`` or ``test``."""
        return self.trainer.state.fn == "fit"

    @property
    def follows_fit(self) -> bool:
        """Whether this is ``fit``, or the replay of one from its checkpoints."""
        return self.is_fitting or self.trainer in _REPLAYING

    @property
    def callbacks(self) -> list[pl.Callback]:
        """The trainer's callbacks, in their order; the list itself, not a copy."""
        # The trainer sets it in a helper of its own, unseen by type checkers.
        return cast("list[pl.Callback]", cast("Any", self.trainer).callbacks)

    @property
    def progress(self) -> float:
        """The part of a fit that is done, in [0, 1]; 0 if its end cannot be foreseen."""
        trainer = self.trainer
        parts = [0.0]
        if trainer.max_steps is not None and trainer.max_steps > 0:
            parts.append(trainer.global_step / trainer.max_steps)
        batches = trainer.num_training_batches
        if trainer.max_epochs is not None and trainer.max_epochs > 0 and 0 < batches < math.inf:
            done = trainer.fit_loop.epoch_loop.total_batch_idx + 1
            parts.append(done / (batches * trainer.max_epochs))
        return min(max(parts), 1.0)

    # Its processes.

    @property
    def is_rank_zero(self) -> bool:
        """Whether this process writes to the loggers and to the disk."""
        return self.trainer.is_global_zero

    @property
    def is_spawned(self) -> bool:
        """Whether Lightning trains in a process that it started for that, and that hands back."""
        # By name: Lightning has the class in two packages, neither of them public.
        launcher = getattr(self.trainer.strategy, "launcher", None)
        return any(kind.__name__ == "_MultiProcessingLauncher" for kind in type(launcher).__mro__)

    @property
    def device(self) -> torch.device:
        """The device of this process."""
        return self.trainer.strategy.root_device

    def attempt(
        self, act: Callable[[], T], describe: Callable[[BaseException], str] = describe_error
    ) -> T | Failure:
        """Return ``act()``, or what went wrong; a failure on one process is one on all of them.

        Otherwise the process that failed would go on with training, and the others would wait for
        its results forever. Every process must call this.

        Args:
            act: does not communicate with other processes.
            describe: puts an exception into words.

        Returns:
            What ``act`` returned, if it did so on all processes; otherwise the failure, in the
            words of the first process that failed.
        """
        found: list[T] = []
        error: BaseException | None = None
        text = ""
        try:
            found.append(act())
        except PASSED_ON:
            raise
        except BaseException as raised:
            error, text = raised, describe(raised)
        if self.trainer.world_size > 1:
            failed_here = torch.tensor(int(error is not None), device=self.device)
            failed = self._all_gather(failed_here).flatten().nonzero().flatten().tolist()
            if failed:
                said: str = self.broadcast(text, src=failed[0])
                text = f"{said} (on process {', '.join(map(str, failed))})" if said else said
                error = error or RuntimeError(text)
        return found[0] if error is None else Failure(text, error)

    def require(self, act: Callable[[], T]) -> T:
        """Return ``act()``, as :meth:`attempt`.

        Raises:
            StageError: on all processes, if it failed on one of them.
        """
        found = self.attempt(act)
        if isinstance(found, Failure):
            raise StageError(found)
        return found

    def broadcast(self, value: T, src: int = 0) -> T:
        """Return the value of process ``src``; every process must call this."""
        same: T = self.trainer.strategy.broadcast(value, src=src)
        return same

    def numbers_of_this_rank(self, count: int) -> list[int]:
        """Return which of ``count`` samples this process explains; equally many on all of them.

        Where they do not come out even, the last processes explain some samples a second time: the
        number of passes through a sharded model must be the same everywhere. Processes that hold
        parts of the same tensors (tensor parallelism) explain the same samples.
        """
        replicas, mine = self._replicas()
        size = -(-count // replicas)
        return [number % count for number in range(mine * size, (mine + 1) * size)]

    def gather_shares(self, part: Tensor, count: int) -> Tensor:
        """Put the results of all processes together, in the order of the samples.

        Args:
            part: (n, ...), results for this process's share, of one shape on all processes.
            count: how many samples there are.

        Returns:
            (count, ...), the same on all processes.
        """
        if self.trainer.world_size == 1:
            return part
        gathered = self._all_gather(part.to(self.device).contiguous())
        if self._replicas()[0] != self.trainer.world_size:
            replica = self.replica_of_each_rank()
            gathered = gathered[[replica.index(each) for each in range(max(replica) + 1)]]
        return gathered.flatten(0, 1)[:count].to(part.device)

    def any_process(self, here: bool) -> bool:
        """Whether it is so on at least one process; every process must call this."""
        if self.trainer.world_size == 1:
            return here
        return bool(self._all_gather(torch.tensor(int(here), device=self.device)).any())

    def replica_of_each_rank(self) -> list[int]:
        """Return for each process which copy of the model it works on."""
        mine = torch.tensor(self._replicas()[1], device=self.device)
        replica: list[int] = self._all_gather(mine).flatten().tolist()
        return replica

    def _all_gather(self, tensor: Tensor) -> Tensor:
        gathered: Tensor = self.trainer.strategy.all_gather(tensor)
        return gathered

    def _replicas(self) -> tuple[int, int]:
        """Return how many copies of the model there are, and which of them is this process's."""
        dealt = getattr(self.trainer.strategy, "distributed_sampler_kwargs", None)
        if self.trainer.world_size == 1 or not dealt:
            return self.trainer.world_size, self.trainer.global_rank
        return dealt["num_replicas"], dealt["rank"]

    # What it logs.

    def log_numbers(
        self,
        values: Mapping[str, float],
        count: int,
        reduce_fx: str = "mean",
        level: LogLevel = "basic",
        unlogged: Collection[str] = (),
    ) -> None:
        """Log numbers of this validation run, so that EarlyStopping and ModelCheckpoint find them.

        Every process must call this. All numbers are in ``trainer.callback_metrics``, under each
        of their names. The results of ``trainer.validate`` and ``trainer.test`` are the user's own:
        there the loggers get ours directly.

        Args:
            values: by tag; the same on all processes.
            count: how many samples they are from.
            reduce_fx: what Lightning makes of several values under one tag.
            level: which of them the loggers get.
            unlogged: tags that they do not get in any case.

        Raises:
            StageError: a logger could not be written to, outside of ``fit``.
        """
        shown = {
            logged_tag(tag): value
            for tag, value in values.items()
            if is_logged(tag, level) and tag not in unlogged
        }
        if self.is_fitting:
            self.pl_module.log_dict(
                shown,
                on_step=False,
                on_epoch=True,
                batch_size=count,
                add_dataloader_idx=False,
                reduce_fx=reduce_fx,
                # Equal on all processes already; this tells Lightning so.
                sync_dist=True,
            )
            if not self.trainer.loggers and self.is_rank_zero:
                for adapter in self.adapters():
                    adapter.scalars(shown, self.step)
        else:
            # Rounded as a mean over a fit's validation run, so that a replay logs the same.
            rounded = {tag: float(torch.tensor(v) * count / count) for tag, v in shown.items()}
            self.require(lambda: self._log_directly(rounded))
        # Not through the module, which takes longer for each than all of them are worth.
        metrics = self.trainer.callback_metrics
        for tag, value in values.items():
            for name in names_of(tag):
                if name not in shown or not self.is_fitting:
                    metrics[name] = torch.tensor(value, device=self.device)

    def _log_directly(self, values: Mapping[str, float]) -> None:
        if values and self.is_rank_zero:
            for adapter in self.adapters():
                adapter.scalars(values, self.step)

    def adapters(self) -> list[LogAdapter]:
        """Return the run's loggers, each with the same verbs.

        Where none of them takes images there are files beside them, once :meth:`open_files` was
        called.
        """
        adapters = adapters_of(self.trainer)
        folder = _FOLDERS.get(self.trainer)
        takes_images = any(adapter.takes_images for adapter in adapters)
        if folder is not None and self.follows_fit and self.is_rank_zero and not takes_images:
            for adapter in adapters:
                adapter.elsewhere = str(folder / "saliency")
            adapters.append(FilesAdapter(folder, takes_numbers=not adapters))
        for adapter in adapters:
            adapter.reserve = self.disk_reserve
        return adapters

    def open_files(self) -> Path | None:
        """Settle where files go that no logger takes; every process must call this.

        Returns:
            The folder; None if a logger takes images, or the folder cannot be found out.
        """
        _FOLDERS.pop(self.trainer, None)
        if self.broadcast(any(adapter.takes_images for adapter in adapters_of(self.trainer))):
            return None
        folder = self.folder_or_none()
        if folder is not None:
            _FOLDERS[self.trainer] = folder
        return folder

    def folder_or_none(self) -> Path | None:
        """Return the run's folder as :meth:`folder`, absolute; None if it cannot be found out.

        Every process must call this. A logger of the user's may not know where it writes: that is
        reported, and no more.
        """
        found = self.attempt(self._own_folder)
        if isinstance(found, Failure):
            warn(f"Nothing is kept as files: the run's folder is not known. {found.text}")
            return None
        # Absolute, because a method may change the working directory.
        return Path(self.broadcast(str(found.absolute())))

    def forget_later_files(self) -> None:
        """Remove the alarms of an earlier run in this folder, or of after the checkpoint.

        Nothing that goes wrong with them ends the run.
        """
        for adapter in self.adapters():
            if isinstance(adapter, FilesAdapter):
                try:
                    adapter.forget_after(self.step)
                except OSError as error:
                    warn(f"Files of an earlier run are left. {describe_error(error)}")

    @property
    def disk_reserve(self) -> int:
        """Bytes on the disk that are left to the run itself, so that a checkpoint still fits."""
        known = [p for p in self.pl_module.parameters() if not is_lazy(p)]
        weights = sum(p.numel() * p.element_size() for p in known)
        return max(LEAST_RESERVE, 4 * weights)

    def folder(self) -> Path:
        """Return the run's folder, the same on all processes; every process must call this.

        That of TensorBoard's and the CSV logger is the folder with their files; other loggers and
        none get one as Lightning's ModelCheckpoint would choose.
        """
        # Versions are counted on each process, and may differ.
        return Path(self.broadcast(str(self._own_folder())))

    def _own_folder(self) -> Path:
        folder = Path(self.trainer.default_root_dir)
        if self.trainer.loggers:
            logger = self.trainer.loggers[0]
            own = getattr(logger, "log_dir", None)
            if isinstance(own, (str, Path)):
                folder = Path(own)
            else:
                version = logger.version
                name = version if isinstance(version, str) else f"version_{version}"
                folder = Path(logger.save_dir or folder) / str(logger.name) / name
        return folder


@contextmanager
def replaying(trainer: pl.Trainer) -> Iterator[None]:
    """Inside, the validation runs of a trainer stand for those of a fit that is over.

    Args:
        trainer: validates one checkpoint of the fit after the other.
    """
    _REPLAYING.add(trainer)
    try:
        yield
    finally:
        _REPLAYING.discard(trainer)


def is_fast_dev_run(trainer: pl.Trainer) -> bool:
    """Return whether the run only tries every step of the code once."""
    # The trainer sets it in a helper of its own, unseen by type checkers.
    return bool(cast("Any", trainer).fast_dev_run)


def followed_checkpoint(trainer: pl.Trainer) -> Any:
    """Return the run's first ModelCheckpoint that looks for the best; None if there is none."""
    found: Iterable[Any] = cast("Any", trainer).callbacks
    for callback in found:
        # Not by class: pytorch_lightning has a ModelCheckpoint of its own.
        keeps_score = hasattr(callback, "best_model_score") and hasattr(callback, "save_top_k")
        if keeps_score and callback.monitor is not None and callback.save_top_k != 0:
            return callback
    return None


def best_score(trainer: pl.Trainer) -> float | None:
    """Return the score of the best checkpoint so far; None before the first."""
    score = getattr(followed_checkpoint(trainer), "best_model_score", None)
    if score is None or math.isnan(float(score)):
        return None
    return float(score)


def move_before_averaging(callback: pl.Callback, trainer: pl.Trainer) -> None:
    """Put a callback in front of Lightning's weight averaging in the trainer's list.

    Weight averaging puts the averages into the module when a validation run begins, and takes them
    out in the hook in which the samples are explained. Who stands before it still finds them.

    Args:
        callback: explains at the end of a validation run.
        trainer: has it in its list.
    """
    # The trainer sets its callbacks in a helper of its own, unseen by type checkers.
    owner = cast("Any", trainer)
    order: list[pl.Callback] = list(owner.callbacks)
    first = next((place for place, other in enumerate(order) if _averages(other)), len(order))
    if callback in order and first < order.index(callback):
        order.remove(callback)
        order.insert(first, callback)
        # Another list, because the trainer is just going through this one.
        owner.callbacks = order


@contextmanager
def averaged_weights(trainer: pl.Trainer, pl_module: pl.LightningModule) -> Iterator[None]:
    """Have the averages in the module, as in a validation run, at the end of an epoch without one.

    Args:
        trainer: of the run.
        pl_module: the module that is explained.
    """
    active: list[Any] = [
        other
        for other in cast("Any", trainer).callbacks
        if _averages(other) and getattr(other, "_average_model", None) is not None
    ]
    for averaging in active:
        averaging._swap_models(pl_module)
    try:
        yield
    finally:
        for averaging in reversed(active):
            averaging._swap_models(pl_module)


def _averages(callback: object) -> bool:
    # By name: Lightning has the class in two packages, and not in its older versions.
    return any(kind.__name__ == "WeightAveraging" for kind in type(callback).__mro__)
