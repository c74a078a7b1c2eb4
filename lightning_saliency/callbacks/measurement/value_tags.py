"""The tags of numbers."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["series_in", "value_tag"]


def value_tag(series: str, what: str) -> str:
    """Return the tag of a number, such as ``"saliency_drift/grad_cam/previous/ssim"``.

    Args:
        series: for instance ``"grad_cam"``.
        what: for instance ``"drift/previous/ssim"``.
    """
    kind, _, rest = what.partition("/")
    return f"saliency_{kind}/{series}/{rest}"


def series_in(tag: str, prefix: str, known: Iterable[str]) -> str | None:
    """Return the series that stands in the tag of a number.

    Args:
        tag: of a number.
        prefix: that stands before all tags of the callback.
        known: the callback's series.

    Returns:
        None if it is none of them.
    """
    if not tag.startswith(f"{prefix}saliency_"):
        return None
    rest = tag.removeprefix(f"{prefix}saliency_").partition("/")[2]
    return max((each for each in known if rest.startswith(f"{each}/")), key=len, default=None)
