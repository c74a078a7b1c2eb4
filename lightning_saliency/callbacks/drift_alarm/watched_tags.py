"""Which numbers of a run's saliency callbacks an alarm watches."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from lightning_saliency.callbacks.failures import warn
from lightning_saliency.callbacks.saliency import SaliencyCallback
from lightning_saliency.callbacks.tags import is_drift, logged_tag, names_of, series_in
from lightning_saliency.errors import InputError
from lightning_saliency.metrics.map_similarity import SIMILARITIES

_DEFAULT = tuple(
    f"*saliency_drift/*/{reference}/{measure}"
    for reference in ("previous", "pinned")
    for measure in SIMILARITIES
)
# Numbers of an epoch and of a sample, which patterns may match too.
_NO_AMOUNT = ("/pinned/epoch", "/sample")
_WHY = (
    "its maps hardly depend on the weights of the later layers (Adebayo et al. 2018, "
    "arXiv:1810.03292; Nie et al. 2018, arXiv:1805.07039; Sixt et al. 2020, arXiv:1912.09818)"
)


class WatchedTags:
    """Tags, or patterns of tags.

    Args:
        monitor: one or several, ``*`` for any part; None for the usual ones.

    Raises:
        InputError: it is neither.
    """

    def __init__(self, monitor: str | Sequence[str] | None) -> None:
        monitor = _DEFAULT if monitor is None else monitor
        given = [monitor] if isinstance(monitor, str) else list(monitor)
        if not given or not all(isinstance(name, str) and name for name in given):
            raise InputError(
                "Expected monitor to be a tag ('saliency_drift/grad_cam/previous'), with "
                f"* for any part of it, or a list of tags, got {monitor!r}."
            )
        self.patterns = given
        self._said = False
        self._checked_again = False

    def check(self, sources: Sequence[SaliencyCallback], others: "Iterable[WatchedTags]") -> None:
        """Check that something will be logged under every name, and is watched by one alarm alone.

        Args:
            sources: the run's saliency callbacks.
            others: what the run's other alarms watch.

        Raises:
            InputError: there is no saliency callback, nothing is logged under a name, or another
                alarm watches the same number.
        """
        if not sources:
            raise InputError(
                "Expected a saliency callback in the Trainer, for DriftAlarm to watch its numbers, "
                "got none. Add one: callbacks=[SaliencyCallback(GradCAM()), DriftAlarm()]."
            )
        logged = [tag for source in sources for tag in source.tags]
        # Regions that come with the samples are not known before the first of them is.
        comes_later = any(source.tags.may_grow for source in sources)
        for pattern in self._missing(logged):
            if not (comes_later and _of_a_region(pattern)):
                raise InputError(_no_such_tag(pattern, logged))
        mine = self._matching(logged)
        for other in others:
            same = mine & other._matching(logged)
            if same:
                raise InputError(
                    f"Expected one DriftAlarm for each number, got two that watch '{min(same)}'. "
                    "Name different numbers in their monitor."
                )
        if not self._said:
            self._say_what_is_left_out(sources)

    def check_again(self, sources: Sequence[SaliencyCallback], logged: Iterable[str]) -> None:
        """Warn once of names that nothing is logged under, now that something is.

        Args:
            sources: the run's saliency callbacks.
            logged: all tags of an explanation.
        """
        if self._checked_again:
            return
        self._checked_again = True
        known = [tag for source in sources for tag in source.tags]
        known += logged
        for pattern in self._missing(known):
            warn(
                f"Nothing is watched under this name; training goes on. "
                f"{_no_such_tag(pattern, known)}"
            )

    def watched(self, source: SaliencyCallback, logged: Iterable[str]) -> list[str]:
        """Return those of the tags that are watched.

        Args:
            source: that has logged them.
            logged: the tags.
        """
        mine = (tag for tag in logged if series_of(tag, source) is not None)
        return [tag for tag in mine if self._includes(tag, source)]

    def _missing(self, logged: Sequence[str]) -> list[str]:
        return [name for name in self.patterns if not any(_matches(tag, name) for tag in logged)]

    def _matching(self, logged: Iterable[str]) -> set[str]:
        return {tag for tag in logged if any(_matches(tag, name) for name in self.patterns)}

    def _includes(self, tag: str, source: SaliencyCallback) -> bool:
        in_full = bool(set(names_of(tag)) & set(self.patterns))
        if in_full or tag.endswith(_NO_AMOUNT):
            return in_full
        return tag in self._matching([tag]) and not _is_insensitive(tag, source)

    def _say_what_is_left_out(self, sources: Sequence[SaliencyCallback]) -> None:
        for source in sources:
            tags = [tag for tag in source.tags if _is_insensitive(tag, source)]
            matching = self._matching(tags)
            if not matching:
                continue
            self._said = True
            series = sorted({str(series_of(tag, source)) for tag in matching})
            named = " and ".join(series)
            if any(set(names_of(tag)) & set(self.patterns) for tag in matching):
                said = f"DriftAlarm may stay silent while a network changes, if it watches {named}"
                advice = "Watch another method beside it."
            else:
                said = f"DriftAlarm does not watch {named}"
                advice = "To watch it all the same, give its tag in full as monitor."
            warn(f"{said}: {_WHY}. {advice}")


def _matches(tag: str, pattern: str) -> bool:
    """Whether a pattern names a number, under any of its names.

    The drift is a measure of similarity seen from the other side: a pattern that names both means
    one of them.
    """
    if is_drift(tag) and not pattern.endswith(("previous", "pinned")):
        return False
    return any(fnmatchcase(name, pattern) for name in names_of(tag))


def series_of(tag: str, source: SaliencyCallback) -> str | None:
    """Return the series that a number is of, such as ``"grad_cam/predicted"``.

    Args:
        tag: that the number is logged under.
        source: the callback that logs it.

    Returns:
        None if the number is of no series of this callback.
    """
    prefix = next(iter(source.series.values())).prefix
    return series_in(tag, prefix, source.series)


def _is_insensitive(tag: str, source: SaliencyCallback) -> bool:
    name = series_of(tag, source)
    return name is not None and source.series[name].method.insensitive_to_late_layers


def _of_a_region(pattern: str) -> bool:
    return "saliency_region" in pattern or "saliency_object" in pattern


def _no_such_tag(pattern: str, logged: Sequence[str]) -> str:
    shown = [logged_tag(tag) for tag in logged]
    near = get_close_matches(pattern, [*shown, *logged], n=3, cutoff=0.5) or sorted(shown)[:3]
    return (
        f"Expected monitor to be a tag that a saliency callback of this Trainer logs, got "
        f"'{pattern}'. Did you mean {' or '.join(repr(tag) for tag in near)}? Use * for any part, "
        "for instance 'saliency_drift/*/previous'."
    )
