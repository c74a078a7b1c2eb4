"""Under which names numbers are monitored, under which loggers show them, and which they show.

A number has the tag under which the first version logged it: monitors name it, and checkpoints and
alarms know it. Loggers get it under a name that says which way it points: drift is 0 for maps that
have not moved and 1 for maps that have moved altogether, similarity is 1 for equal maps.
"""

import math
from collections.abc import Iterable
from typing import Literal, TypeAlias, get_args

from lightning_saliency.errors import InputError
from lightning_saliency.metrics.coarse import COMPARED

LogLevel: TypeAlias = Literal["basic", "full"]
"""Which numbers the loggers get: those that are read at a glance, or all."""

# What a number without a bound can be at worst, for those who monitor it before there is one.
_FAR = 32.0
_OLD_PARTS = {f"drift_{part}": f"similarity_{part}" for part in ("stable", "flipped", "worst")}
_OLD_PARTS["drift_level"] = "similarity_level"
# Measured only where somebody asks for them.
_ASKED_FOR = (
    *("object", "region", "region_area", "faithfulness", "sanity", "alarm", "overhead"),
    "evidence",
)
_BASIC_OF_TARGET = ("degenerate_frac", "score")


def check_log_level(level: object) -> None:
    """Check which numbers are to be logged.

    Raises:
        InputError: it is not a :data:`LogLevel`.
    """
    if level not in get_args(LogLevel):
        raise InputError(f"Expected log to be 'basic' or 'full', got {level!r}.")


def value_tag(series: str, what: str) -> str:
    """Return the tag of a number, such as ``"saliency_drift/grad_cam/previous/ssim"``.

    Args:
        series: for instance ``"grad_cam"``.
        what: for instance ``"drift/previous/ssim"``.
    """
    kind, _, rest = what.partition("/")
    return f"saliency_{kind}/{series}/{rest}"


def logged_tag(tag: str) -> str:
    """Return the name under which loggers show a number.

    Args:
        tag: for instance ``"saliency_drift/grad_cam/previous/ssim"``.

    Returns:
        For instance ``"saliency_similarity/grad_cam/previous/ssim"``; most tags are that name.
    """
    before, kind, rest = _parts(tag)
    last = rest.rpartition("/")[2]
    if kind == "drift" and (last in COMPARED or last == "epoch"):
        kind = "similarity"
    elif kind == "target" and last == "degenerate_frac":
        rest = rest.removesuffix(last) + "empty"
    kind = _OLD_PARTS.get(kind, kind)
    return f"{before}saliency_{kind}/{rest}" if rest else tag


def names_of(tag: str) -> tuple[str, ...]:
    """Return all names of a number, without repetition: it can be monitored under each.

    Args:
        tag: for instance ``"saliency_drift/grad_cam/previous/ssim"``.
    """
    return tuple(dict.fromkeys((tag, logged_tag(tag))))


def is_logged(tag: str, level: LogLevel) -> bool:
    """Whether loggers get a number.

    Args:
        tag: of the number.
        level: what was asked for.
    """
    _, kind, rest = _parts(tag)
    last = rest.rpartition("/")[2]
    if kind == "target" and "flips" in rest.split("/"):
        # Those of a choice of class; those of a method are the same numbers again.
        return rest.startswith("flips")
    if level == "full" or kind in _ASKED_FOR:
        return True
    return is_drift(tag) or (kind == "target" and last in _BASIC_OF_TARGET)


def is_drift(tag: str) -> bool:
    """Whether a number is the drift itself, ``saliency_drift/<method>/<reference>``."""
    _, kind, rest = _parts(tag)
    return kind == "drift" and rest.endswith(("/previous", "/pinned"))


def bounds_of(tag: str) -> tuple[float, float]:
    """Return the smallest and largest value that a number can have; +-32 stands for no bound.

    Args:
        tag: one of its names.
    """
    _, kind, rest = _parts(tag)
    last = rest.rpartition("/")[2]
    if is_drift(tag) or kind in ("overhead", "object", "region", "region_area"):
        return 0.0, 1.0
    if kind.startswith("evidence") and last != "place_index":
        return 0.0, 1.0
    if kind == "target":
        return {"log_probability": (-_FAR, 0.0), "score": (-_FAR, _FAR)}.get(last, (0.0, 1.0))
    if kind == "drift_relative":
        return 0.0, 1.0
    if kind == "alarm":
        return 0.0, _FAR
    if kind.startswith(("drift", "similarity")) and last in COMPARED:
        low, high = COMPARED[last].bounds
        return max(low, -_FAR), min(high, _FAR)
    return -_FAR, _FAR


def series_in(tag: str, prefix: str, known: Iterable[str]) -> str | None:
    """Return the series that stands in the tag of a number, None if it is none of the known.

    Args:
        tag: of a number.
        prefix: that stands before all tags of the callback.
        known: the callback's series.
    """
    if not tag.startswith(f"{prefix}saliency_"):
        return None
    rest = tag.removeprefix(f"{prefix}saliency_").partition("/")[2]
    return max((each for each in known if rest.startswith(f"{each}/")), key=len, default=None)


def is_measured_apart(tag: str, prefix: str, known: Iterable[str]) -> bool:
    """Whether a tag is one of numbers that are measured beside drift, of a callback's series.

    Which of them there are is not known before the samples are, or before the first alarm.

    Args:
        tag: that somebody monitors.
        prefix: that stands before all tags of the callback.
        known: the callback's series.
    """
    before, kind, rest = _parts(tag)
    if before != prefix:
        return False
    if kind in ("overhead", "region_area"):
        return True
    apart = (*_ASKED_FOR, "area", "drift_level", "similarity_level")
    inside = rest if kind == "alarm" else f"{rest}/"
    return kind in apart and any(f"/{name}/" in f"/{inside}" for name in known)


def alarm_tag(tag: str) -> str:
    """Return the tag under which the score of a watched number is logged.

    Args:
        tag: for instance ``"saliency_drift/grad_cam/previous/top10_iou"`` or
            ``"saliency_region/grad_cam/corner"``.

    Returns:
        For instance ``"saliency_alarm/grad_cam/previous/top10_iou"`` or
        ``"saliency_alarm/region/grad_cam/corner"``.
    """
    before, _, rest = tag.rpartition("saliency_")
    return f"{before}saliency_alarm/{rest.removeprefix('drift/')}"


def worst_value(tag: str, mode: str, divergence: float | None = None) -> float:
    """Return what a number is for those who monitor it, as long as it has not been measured.

    It is the worst that it can be, so that whatever comes is better: nothing is stopped, kept or
    slowed down for it.

    Args:
        tag: one of the number's names.
        mode: ``"min"`` or ``"max"``, what they hope for.
        divergence: the value beyond which EarlyStopping ends the run; this very value does not.
    """
    if divergence is not None and math.isfinite(divergence):
        return divergence
    low, high = bounds_of(tag)
    return low if mode == "max" else high


def _parts(tag: str) -> tuple[str, str, str]:
    """Return the prefix, the kind and the rest, such as ``("", "drift", "grad_cam/previous")``."""
    before, _, named = tag.rpartition("saliency_")
    kind, _, rest = named.partition("/")
    return before, kind, rest
