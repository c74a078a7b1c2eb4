"""Checks of settings: what can be found wrong before the first training step."""

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import lightning.pytorch as pl

from lightning_saliency.attribution.from_function import FromFunction
from lightning_saliency.attribution.method import AttributionMethod
from lightning_saliency.callbacks.explanation import ClassChoice, NamedMethod, choice_name
from lightning_saliency.callbacks.failures import warn
from lightning_saliency.callbacks.run_context import followed_checkpoint, is_fast_dev_run
from lightning_saliency.errors import InputError
from lightning_saliency.loggers import adapters_of
from lightning_saliency.trust.checks import TrustChecks
from lightning_saliency.trust.evidence import Evidence

FEWEST_SAMPLES = 4
"""The mean evidence of fewer samples says nothing of the network."""

Pinned: TypeAlias = Literal["first", "best"] | int
"""Which explanation is pinned: the first, that of the best checkpoint so far, or an epoch's."""


def methods_of(method: object) -> list[NamedMethod]:
    """Return the method or methods that a user gave, with their names.

    Args:
        method: an :class:`AttributionMethod`, a callable (model, image, target) -> (N, 1, H, W),
            or a list of these.

    Raises:
        InputError: it is neither, or two have the same name.
    """
    given = list(method) if isinstance(method, (list, tuple)) else [method]
    if not given:
        raise InputError("Expected at least one attribution method, got an empty list.")
    named = [_named(entry) for entry in given]
    names = [entry.name for entry in named]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(
            f"Expected methods of different names in one callback, got '{twice[0]}' twice; their "
            "tags would be the same. Put the second in a callback of its own with name=."
        )
    return named


def _named(entry: object) -> NamedMethod:
    if isinstance(entry, type) and issubclass(entry, AttributionMethod):
        raise InputError(
            f"Expected a method with its settings, got the class {entry.__name__}. Add "
            f"parentheses: {entry.__name__}()."
        )
    if isinstance(entry, AttributionMethod):
        return NamedMethod(entry.name, entry)
    if callable(entry):
        name = getattr(entry, "__name__", type(entry).__name__).strip("<>")
        return NamedMethod(name, FromFunction(entry))
    raise InputError(
        "Expected an attribution method such as GradCAM(), a callable (model, image, "
        f"target) -> maps, or a list of these, got {entry!r}."
    )


def choices_of(target: object) -> list[ClassChoice]:
    """Return what a user gave as ``target``, as a list.

    Args:
        target: "label", "predicted", a class index, a callable from the module's output to scores
            (N,), or a list of these.

    Raises:
        InputError: it is none of these, or two have the same name.
    """
    given: Sequence[Any] = target if isinstance(target, (list, tuple)) else [target]
    for entry in given:
        if isinstance(entry, type):
            raise InputError(
                f"Expected a target with its settings, got the class {entry.__name__}. Add "
                f"parentheses: {entry.__name__}(...)."
            )
        if not (callable(entry) or _is_index(entry) or entry in ("label", "predicted")):
            raise InputError(
                "Expected target to be 'label', 'predicted', a class index, a callable from the "
                "module's output to scores (N,), or a list of these such as ('label', "
                f"'predicted'), got {target!r}."
            )
    names = [choice_name(entry) for entry in given]
    if not given or len(set(names)) != len(names):
        raise InputError(
            f"Expected different targets, got {target!r}. Functions are told apart by their names."
        )
    return list(given)


def check_schedule_settings(
    dataloader_idx: int, every_n_epochs: int, noise_every: int | None, name: str | None
) -> None:
    """Check what says when and under which name the callback explains.

    Args:
        dataloader_idx: must be >= 0.
        every_n_epochs: must be an integer >= 1.
        noise_every: must be None or >= 1.
        name: must be None or a text that can stand in a tag.

    Raises:
        InputError: one of them is not.
    """
    if dataloader_idx < 0:
        raise InputError(f"Expected dataloader_idx to be >= 0, got {dataloader_idx}.")
    if isinstance(every_n_epochs, bool) or not isinstance(every_n_epochs, int):
        raise InputError(f"Expected every_n_epochs to be an integer, got {every_n_epochs!r}.")
    if every_n_epochs < 1:
        raise InputError(
            f"Expected every_n_epochs to be at least 1, got {every_n_epochs}. To explain nothing, "
            "leave the callback out."
        )
    if noise_every is not None and (isinstance(noise_every, bool) or not noise_every >= 1):
        raise InputError(
            f"Expected noise_every to be at least 1, or None for never, got {noise_every!r}."
        )
    if name is not None and (not name or name != name.strip("/ ")):
        raise InputError(
            "Expected name to be a text that can stand at the front of a tag, without spaces or "
            f"slashes at its ends, got {name!r}."
        )


def check_reference_settings(pinned: object, warmup_epochs: object) -> None:
    """Check which explanation the maps are compared with.

    Args:
        pinned: must be a :data:`Pinned`.
        warmup_epochs: must be an integer >= 0, not above ``pinned`` if that is an epoch.

    Raises:
        InputError: one of them is not.
    """
    if not _is_index(pinned) and pinned not in ("first", "best"):
        raise InputError(f"Expected pinned to be 'first', 'best' or an epoch, got {pinned!r}.")
    if not _is_index(warmup_epochs):
        raise InputError(f"Expected warmup_epochs to be an integer >= 0, got {warmup_epochs!r}.")
    if isinstance(pinned, int) and pinned < int(str(warmup_epochs)):
        raise InputError(
            f"Expected pinned to be an epoch after the warm-up, got epoch {pinned} with "
            f"warmup_epochs={warmup_epochs}. A chosen epoch needs no warm-up: leave it out."
        )


def check_pinned_in_run(pinned: Pinned, warmup_epochs: int, trainer: pl.Trainer) -> None:
    """Check that something will be pinned in a fit.

    Args:
        pinned: see :data:`Pinned`.
        warmup_epochs: before anything is pinned.
        trainer: of the run.

    Raises:
        InputError: the run has no best checkpoint, or ends before.
    """
    if is_fast_dev_run(trainer):
        return
    if pinned == "best" and followed_checkpoint(trainer) is None:
        raise InputError(
            "Expected a ModelCheckpoint that monitors something, for pinned='best' to follow, but "
            "the run has none. Add ModelCheckpoint(monitor='val_loss') to the Trainer's callbacks, "
            "or take pinned='first'."
        )
    setting, start = "warmup_epochs", warmup_epochs
    if isinstance(pinned, int):
        setting, start = "pinned", pinned
    # None and -1 stand for no limit.
    last = trainer.max_epochs if trainer.max_epochs is not None else -1
    if start > 0 and 0 <= last <= start:
        raise InputError(
            f"Expected {setting} to be an epoch of this run, 0 to {last - 1} with "
            f"max_epochs={last}, got {start}: nothing would ever be pinned."
        )


def check_tags(tags: Collection[str], others: Iterable[Collection[str]], kind: str) -> None:
    """Check that no other saliency callback writes the same tags.

    Args:
        tags: that this callback writes.
        others: the tags of each other one.
        kind: the name of this callback's class.

    Raises:
        InputError: one of them does.
    """
    for other in others:
        same = set(tags).intersection(other)
        if same:
            raise InputError(
                f"Expected each saliency callback to write tags of its own, but two of them write "
                f"'{min(same)}'. Give one of them a name, for instance {kind}(..., name='second')."
            )


def warn_of_missing_images(trainer: pl.Trainer, folder: Path | None) -> None:
    """Warn if no logger of the run takes images.

    Args:
        trainer: of the run.
        folder: of the run, if there they are written instead.
    """
    if any(adapter.takes_images for adapter in adapters_of(trainer)):
        return
    names = [type(logger).__name__ for logger in trainer.loggers]
    have = (
        f"Of the run's loggers ({', '.join(names)}) none takes images"
        if names
        else ("The run has no logger")
    )
    where = "are not kept" if folder is None else f"are files in {folder / 'saliency'}"
    warn(
        f"{have}: pictures and tables of the saliency maps {where}. To watch them in TensorBoard, "
        "give the Trainer logger=lightning.pytorch.loggers.TensorBoardLogger('logs')."
    )


def checked_trust(trust: object) -> TrustChecks:
    """Return the checks that a user asked for; for None those that look for nothing.

    Raises:
        InputError: it is something else.
    """
    if not isinstance(trust, TrustChecks | None):
        raise InputError(
            "Expected trust to be TrustChecks(faithfulness=['insertion', 'deletion'], ...) or "
            f"None, got {trust!r}."
        )
    return trust or TrustChecks()


def checked_evidence(evidence: object, count: int) -> bool:
    """Return whether a user asked for evidence.

    Args:
        evidence: the setting as the user gave it.
        count: how many samples are asked for.

    Raises:
        InputError: it is neither an ``Evidence`` nor None, or there are too few samples for it.
    """
    if not isinstance(evidence, Evidence | None):
        raise InputError(
            f"Expected evidence to be Evidence(grid=5, ...) or None, got {evidence!r}."
        )
    if evidence is not None and count < FEWEST_SAMPLES:
        raise InputError(
            f"Expected at least {FEWEST_SAMPLES} samples to measure the evidence of, got {count}. "
            "Raise samples, 16 are usual, or leave evidence out."
        )
    return evidence is not None


def _is_index(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
