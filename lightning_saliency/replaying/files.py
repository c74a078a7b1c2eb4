"""Find checkpoints, and read what they say of themselves, before anything is done with them."""

import inspect
import pickle
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from lightning_saliency.errors import InputError, SaliencyError

PathSpec: TypeAlias = str | PathLike[str]

# In the folder of a checkpoint whose weights are spread over several files.
_SHARDED = "meta.pt"
# What torch.load says of an object that it does not load with weights_only.
_FORBIDDEN = re.compile(r"GLOBAL ([\w.]+)")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of a run, and where in the run it was saved.

    Attributes:
        path: of the file, or of the folder of a sharded one.
        epoch: of the run.
        step: at which a callback of the run has logged the numbers of these weights.
        shapes: of the weights by name; None where it is not known before they are loaded.
        hyperparameters: that the module was made with; empty if they were not saved.
    """

    path: Path
    epoch: int
    step: int
    shapes: Mapping[str, tuple[int, ...]] | None = None
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Skipped:
    """A checkpoint that could not be used.

    Attributes:
        path: of the file or folder.
        reason: in words.
    """

    path: Path
    reason: str

    def __str__(self) -> str:
        """Return both in one line."""
        return f"{self.path}: {self.reason}"


def find_checkpoints(paths: PathSpec | Sequence[PathSpec]) -> list[Path]:
    """Return the checkpoints in folders, and those that are named themselves.

    Args:
        paths: of ``.ckpt`` files, of folders of sharded checkpoints, or of folders that contain
            such, at any depth; one or several.

    Returns:
        Paths, each once; a file that is named and is not there is among them.

    Raises:
        InputError: there are none.
    """
    several = [paths] if isinstance(paths, (str, PathLike)) else list(paths)
    found: dict[Path, Path] = {}
    for path in map(Path, several):
        for each in _within(path):
            found.setdefault(each.resolve(), each)
    if not found:
        raise InputError(
            f"Expected checkpoints (*.ckpt) in {', '.join(map(str, several)) or 'a list'}, found "
            "none. Lightning's ModelCheckpoint writes them, by default into the run's folder "
            "'checkpoints'; save_top_k=-1 keeps all."
        )
    return list(found.values())


def _within(path: Path) -> Iterator[Path]:
    if not path.is_dir() or is_sharded(path):
        yield path
        return
    for each in sorted(path.rglob("*.ckpt")):
        if each.is_file() or is_sharded(each):
            yield each


def is_sharded(path: Path) -> bool:
    """Return whether this is the folder of a checkpoint in several files.

    Args:
        path: of anything; need not exist.
    """
    return path.is_dir() and (path / _SHARDED).is_file()


def read_checkpoints(
    paths: PathSpec | Sequence[PathSpec], weights_only: bool
) -> tuple[list[Checkpoint], list[Skipped]]:
    """Read what checkpoints say of themselves; their weights are not read.

    Args:
        paths: see :func:`find_checkpoints`.
        weights_only: whether nothing but tensors and plain values may be loaded.

    Returns:
        The checkpoints in the order of the run, of several at one step the first; and those that
        are missing or broken.

    Raises:
        InputError: there are none, none can be read, or one could run a program.
    """
    found: dict[tuple[int, int], Checkpoint] = {}
    skipped: list[Skipped] = []
    for path in find_checkpoints(paths):
        try:
            one = read_checkpoint(path, weights_only)
        except UnusableError as error:
            skipped.append(Skipped(path, str(error)))
            continue
        same = found.setdefault((one.epoch, one.step), one)
        if same is not one:
            skipped.append(Skipped(path, f"it is of the same step as {same.path.name}"))
    if not found:
        raise InputError(
            "Expected checkpoints of Lightning, but none can be used:\n"
            + "\n".join(map(str, skipped))
        )
    return [found[when] for when in sorted(found)], skipped


class UnusableError(Exception):
    """A checkpoint is missing or broken; the message says in which way."""


def read_checkpoint(path: Path, weights_only: bool) -> Checkpoint:
    """Read what one checkpoint says of itself.

    Args:
        path: of the file or folder.
        weights_only: whether nothing but tensors and plain values may be loaded.

    Raises:
        UnusableError: it is missing, or broken, or none of Lightning's.
        InputError: it holds what ``weights_only`` forbids.
    """
    sharded = is_sharded(path)
    if sharded and weights_only:
        raise InputError(_word_of_trust(path, "the index of its files as a pickle"))
    if not path.exists():
        raise UnusableError("there is no such file")
    content = _load(path / _SHARDED if sharded else path, weights_only)
    weights = content.get("state_dict") if isinstance(content, Mapping) else None
    if not isinstance(content, Mapping) or not (sharded or isinstance(weights, Mapping)):
        raise UnusableError("it is no checkpoint of Lightning: it has no state_dict")
    try:
        epoch, step = _place(content)
    except (KeyError, TypeError, ValueError) as error:
        raise UnusableError("it does not say the epoch and step that it is of") from error
    shapes = None
    if isinstance(weights, Mapping):
        shapes = {k: tuple(v.shape) for k, v in weights.items() if isinstance(v, Tensor)}
    hyperparameters = content.get("hyper_parameters")
    known = dict(hyperparameters) if isinstance(hyperparameters, Mapping) else {}
    return Checkpoint(path, epoch, step, shapes, known)


def _load(path: Path, weights_only: bool) -> Any:
    try:
        try:
            # The weights stay on the disk.
            return torch.load(path, map_location="cpu", weights_only=weights_only, mmap=True)
        except RuntimeError as error:
            if "mmap" not in str(error):
                raise
            return torch.load(path, map_location="cpu", weights_only=weights_only)
    except pickle.UnpicklingError as error:
        forbidden = _FORBIDDEN.search(str(error))
        if weights_only and forbidden:
            raise InputError(_word_of_trust(path, forbidden[1])) from error
        raise UnusableError("it is damaged, or no checkpoint") from error
    # What a damaged file raises is of many kinds.
    except Exception as error:
        text = f"{error}".splitlines()[:1]
        raise UnusableError(
            f"it cannot be read ({type(error).__name__}: {''.join(text)[:120]})"
        ) from error


def _word_of_trust(path: Path, what: str) -> str:
    return (
        f"Expected a checkpoint of tensors and plain values alone, but {path} holds {what}: to "
        "load that is to run a program that the file names, whatever it does. If you trust where "
        "the file comes from, pass weights_only=False (on the command line --trust-checkpoints), "
        "or allow that one class with torch.serialization.add_safe_globals."
    )


def _place(content: Mapping[str, Any]) -> tuple[int, int]:
    """Return the epoch, and the step at which Lightning logs what is measured of the weights."""
    epoch, step = int(content["epoch"]), int(content["global_step"])
    loops = content.get("loops")
    if isinstance(loops, Mapping):
        fit = loops["fit_loop"]
        # ``global_step`` counts every optimizer.
        step = int(fit["epoch_loop.state_dict"]["_batches_that_stepped"])
        current = fit["epoch_progress"]["current"]
        # Saved at the end of an epoch, after its last step was counted.
        if current["processed"] > current["completed"]:
            step -= 1
    return epoch, step


def make_module(kind: type, checkpoint: Checkpoint) -> Any:
    """Make a module of a class, with the hyperparameters of a checkpoint.

    Args:
        kind: a class of LightningModules.
        checkpoint: that was saved by one of them.

    Raises:
        InputError: an argument is missing, or the class refuses them.
    """
    parameters = inspect.signature(kind).parameters
    takes_all = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    # LightningCLI adds what begins with an underscore for itself.
    saved = {k: v for k, v in checkpoint.hyperparameters.items() if not k.startswith("_")}
    known = {k: v for k, v in saved.items() if takes_all or k in parameters}
    missing = [
        name
        for name, each in parameters.items()
        if each.default is each.empty
        and each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)
        and name not in known
    ]
    if missing:
        raise InputError(
            f"Expected the hyperparameters of {kind.__name__} in {checkpoint.path}, but "
            f"{', '.join(missing)} of them {'are' if len(missing) > 1 else 'is'} missing there. "
            "Pass a module instead of its class, or call self.save_hyperparameters() in its "
            "__init__ before the next run."
        )
    try:
        return kind(**known)
    except SaliencyError:
        raise
    except Exception as error:
        raise InputError(
            f"Expected {kind.__name__} to be made with the hyperparameters of {checkpoint.path}, "
            f"but: {type(error).__name__}: {error}"
        ) from error


def misfit(shapes: Mapping[str, tuple[int, ...]], module: torch.nn.Module) -> str | None:
    """Return in words how a checkpoint's weights differ from a module's; None if they fit.

    Args:
        shapes: of the checkpoint's weights.
        module: that would load them.
    """
    own = {name: tuple(tensor.shape) for name, tensor in _weights(module)}
    both = own.keys() & shapes.keys()
    other = sorted(name for name in both if own[name] != shapes[name])
    parts = [
        _listed("it has no", own.keys() - shapes.keys()),
        _listed("the module has no", shapes.keys() - own.keys()),
        _listed("of other shapes are", other),
    ]
    said = "; ".join(part for part in parts if part)
    return f"it is of another module than {type(module).__name__}: {said}" if said else None


def _weights(module: torch.nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in module.state_dict().items():
        if isinstance(tensor, Tensor):
            yield name, tensor


def _listed(what: str, names: Collection[str]) -> str:
    few = sorted(names)[:3]
    more = f" and {len(names) - len(few)} more" if len(names) > len(few) else ""
    return f"{what} {', '.join(few)}{more}" if names else ""
