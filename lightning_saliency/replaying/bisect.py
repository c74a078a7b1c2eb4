"""Find the first checkpoint of a run at which a number of its maps has changed."""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from lightning_saliency.callbacks.explanation import ExplanationRound
from lightning_saliency.callbacks.saliency import SaliencyCallback
from lightning_saliency.callbacks.tags import is_drift
from lightning_saliency.errors import InputError, MethodError
from lightning_saliency.metrics.map_similarity import NO_DRIFT
from lightning_saliency.replaying.engine import Engine, LoadError
from lightning_saliency.replaying.files import (
    Checkpoint,
    PathSpec,
    Skipped,
    find_checkpoints,
    read_checkpoints,
)
from lightning_saliency.replaying.replay import fitting, make_trainer, module_of


@dataclass(frozen=True)
class Bisection:
    """What a bisection has found.

    Attributes:
        changed: the first checkpoint at which the number has changed; None if it has not.
        before: the checkpoint before that; None if it has not changed, or had from the first on.
        condition: what counts as changed, in words.
        reference: that drift was measured from.
        values: the number at each checkpoint that was explained, in the order of the run.
        explanations: how many were made.
        count: how many checkpoints there are.
        scanned: whether all were explained. Otherwise it was assumed that what has changed once
            stays changed.
        skipped: checkpoints that could not be used.
    """

    changed: Checkpoint | None
    before: Checkpoint | None
    condition: str
    reference: Checkpoint
    values: tuple[tuple[Checkpoint, float], ...]
    explanations: int
    count: int
    scanned: bool
    skipped: tuple[Skipped, ...] = ()

    def __str__(self) -> str:
        """Return a few lines."""
        if self.changed is None:
            found = f"No change: at no checkpoint that was explained {self.condition}."
        elif self.before is None:
            found = f"From the first checkpoint on, {_named(self.changed)}, {self.condition}."
        else:
            found = (
                f"First at {_named(self.changed)} {self.condition}; not yet at "
                f"{_named(self.before)}."
            )
        assumed = (
            "Every checkpoint was explained; nothing was assumed."
            if self.scanned
            else "Assumed: what has changed once stays changed, up to the last checkpoint. A "
            "passing change is found with scan=True (--scan)."
        )
        lines = [
            found,
            f"{self.explanations} explanations of {self.count} checkpoints; drift is measured "
            f"from {_named(self.reference)}. {assumed}",
            *(f"  {_named(each)}: {value:.4g}" for each, value in self.values),
        ]
        return "\n".join([*lines, *(f"  skipped: {each}" for each in self.skipped)])


def bisect(
    module: pl.LightningModule | type[pl.LightningModule],
    checkpoints: PathSpec | Sequence[PathSpec],
    callback: SaliencyCallback,
    tag: str,
    above: float | None = None,
    below: float | None = None,
    data: Any = None,
    reference: PathSpec | None = None,
    scan: bool = False,
    weights_only: bool = True,
    **trainer_settings: Any,
) -> Bisection:
    """Find the first of a run's checkpoints at which a number is above or below a bound.

    The first and the last checkpoint are explained, and then one in the middle of those that are
    left, at most ceil(log2 n) + 2 of n in all (one more with another ``reference``, unless that is
    the last). That is right if the number stays on the other side once it has crossed the bound.

    Args:
        module: as in :func:`~lightning_saliency.replay`.
        checkpoints: as there.
        callback: explains; logs ``tag``.
        tag: of the number, one that the callback logs: drift against the ``pinned`` reference, the
            share of a region, how far the evidence has moved (``saliency_evidence/label/moved/
            pinned``, with :class:`~lightning_saliency.EvidenceCallback`), and so on.
        above: it has changed where it is above this.
        below: or where it is below this; one of the two.
        data: as in :func:`~lightning_saliency.replay`.
        reference: the checkpoint that drift is measured from; None for the first.
        scan: explain all checkpoints.
        weights_only: as in :func:`~lightning_saliency.replay`.
        trainer_settings: for ``Trainer``.

    Returns:
        What was found, what it took and what was assumed; print it.

    Raises:
        InputError: before any work, as in :func:`~lightning_saliency.replay`; or ``tag`` is not
            logged, or there is not exactly one bound.
        MethodError: an explanation has failed, or gave no number.
    """
    if (above is None) == (below is None):
        raise InputError(f"Expected above or below, one of them, got above={above}, below={below}.")
    found, skipped = read_checkpoints(checkpoints, weights_only)
    made = module_of(module, found[0])
    found, unfit = fitting(found, made)
    _check_tag(tag, callback)
    first = found[0] if reference is None else _chosen(reference, found)
    reader = _Reader(tag)
    chosen = {"logger": False, **trainer_settings}
    trainer = make_trainer([callback, reader], Path.cwd(), chosen)
    engine = Engine(made, trainer, data, weights_only, follows_fit=False)
    search = _Search(found, engine, reader, _condition(above, below))
    with engine.opened(), _no_word_of_missing_images():
        search.value(first)
        changed, before = search.scan() if scan else search.bisect()
    what = f"{tag} > {above:g}" if above is not None else f"{tag} < {below:g}"
    return Bisection(
        changed,
        before,
        what,
        first,
        tuple((each, search.known[each.path]) for each in found if each.path in search.known),
        len(search.known),
        len(found),
        scan,
        (*skipped, *unfit, *search.skipped),
    )


class _Reader(pl.Callback):
    """Reads the number of each explanation."""

    def __init__(self, tag: str) -> None:
        self.tag = tag
        self.values: dict[str, float] = {}
        self.shows_something = False

    def on_explained(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        source: pl.Callback,
        round: ExplanationRound,
    ) -> None:
        self.values = round.values
        self.shows_something = any(
            not bool(drift.references.current.described.is_degenerate.all())
            for drift in round.drift.values()
        ) or any(bool(each.now.place.isfinite().any()) for each in round.evidence.values())


def _unmoved(tag: str) -> float:
    """Return what drift or similarity is where nothing has moved; NaN of other numbers."""
    is_amount = is_drift(tag) or "/moved/" in tag
    return 0.0 if is_amount else NO_DRIFT.get(tag.rpartition("/")[2], math.nan)


class _Search:
    """Explains checkpoints, each once, and looks for the first that has changed."""

    def __init__(
        self,
        checkpoints: Sequence[Checkpoint],
        engine: Engine,
        reader: _Reader,
        has_changed: Callable[[float], bool],
    ) -> None:
        self._left = list(checkpoints)
        self._engine, self._reader, self._has_changed = engine, reader, has_changed
        self.known: dict[Path, float] = {}
        self.skipped: list[Skipped] = []

    def bisect(self) -> tuple[Checkpoint | None, Checkpoint | None]:
        if self._at(0):
            return self._left[0], None
        # Before the one that cannot be loaded comes another that may be.
        while self._left and not self._is_usable(self._left[-1]):
            continue
        if not self._at(-1):
            return None, None
        low, high = 0, len(self._left) - 1
        while high - low > 1:
            middle = (low + high) // 2
            if not self._is_usable(self._left[middle]):
                high -= 1
            elif self._at(middle):
                high = middle
            else:
                low = middle
        return self._left[high], self._left[low]

    def scan(self) -> tuple[Checkpoint | None, Checkpoint | None]:
        usable = [each for each in list(self._left) if self._is_usable(each)]
        for place, each in enumerate(usable):
            if self._has_changed(self.known[each.path]):
                return each, usable[place - 1] if place else None
        return None, None

    def value(self, checkpoint: Checkpoint) -> float:
        if checkpoint.path not in self.known:
            rank_zero_info(f"Explaining {_named(checkpoint)}")
            self._reader.values = {}
            self._engine.explain(checkpoint)
            value = self._reader.values.get(self._reader.tag, math.nan)
            if math.isnan(value) and self._reader.shows_something and not self.known:
                # The first is what the others are compared with.
                value = _unmoved(self._reader.tag)
            if math.isnan(value):
                raise MethodError(
                    f"Expected a number {self._reader.tag} at {_named(checkpoint)}, got none: the "
                    "explanation has failed, does not log it, or all of its maps are constant. "
                    f"There are {', '.join(sorted(self._reader.values)) or 'no numbers'}."
                )
            self.known[checkpoint.path] = value
        return self.known[checkpoint.path]

    def _at(self, place: int) -> bool:
        return self._has_changed(self.value(self._left[place]))

    def _is_usable(self, checkpoint: Checkpoint) -> bool:
        """Whether it can be loaded; otherwise it is no longer looked at."""
        try:
            self.value(checkpoint)
        except LoadError as error:
            self._left.remove(checkpoint)
            reason = f"it cannot be loaded: {error.__cause__}"
            self.skipped.append(Skipped(checkpoint.path, reason))
            return False
        return True


def _condition(above: float | None, below: float | None) -> Callable[[float], bool]:
    if above is not None:
        return lambda value: value > above
    return lambda value: below is not None and value < below


def _check_tag(tag: str, callback: SaliencyCallback) -> None:
    known = callback.tags
    if tag not in known.names and not known.may_grow:
        raise InputError(
            f"Expected tag to be a number that the callback logs, got '{tag}'. It logs "
            + ", ".join(known.names)
            + "."
        )


def _chosen(reference: PathSpec, checkpoints: Sequence[Checkpoint]) -> Checkpoint:
    (path,) = find_checkpoints([reference])[:1]
    for each in checkpoints:
        if each.path.resolve() == path.resolve():
            return each
    raise InputError(f"Expected reference to be one of the checkpoints, got {reference}.")


@contextmanager
def _no_word_of_missing_images() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The run has no logger")
        yield


def _named(checkpoint: Checkpoint) -> str:
    return f"epoch {checkpoint.epoch}, step {checkpoint.step} ({checkpoint.path.name})"
