"""Fonts and text widths, without any drawing."""

import re
from functools import lru_cache
from pathlib import Path

import matplotlib
from PIL import ImageFont

__all__ = ["font", "shorten", "text_width", "wrap"]


@lru_cache(maxsize=16)
def font(size: int) -> ImageFont.FreeTypeFont:
    """Return the font of all pictures, DejaVu Sans, which comes with matplotlib.

    Args:
        size: height of a line in pixels, roughly.
    """
    return ImageFont.truetype(
        Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size
    )


@lru_cache(maxsize=512)
def text_width(text: str, size: int) -> int:
    """Return how many pixels wide a line is.

    Args:
        text: one line.
        size: font size.
    """
    return round(font(size).getlength(text) + 0.5)


def shorten(text: str, width: int, size: int) -> str:
    """Return ``text`` as one line that fits, truncated with an ellipsis if needed.

    Args:
        text: any text; line breaks and tabs become spaces.
        width: pixels that it may take.
        size: font size.

    Returns:
        The text; empty if not even the ellipsis fits.
    """
    line = re.sub(r"\s*[\r\n]\s*|\t", " ", text).strip()
    if text_width(line, size) <= width:
        return line
    # Halving: the width grows with the number of characters kept.
    low, high = 0, len(line)
    while low < high:
        middle = (low + high + 1) // 2
        if text_width(line[:middle].rstrip() + "…", size) <= width:
            low = middle
        else:
            high = middle - 1
    short = line[:low].rstrip() + "…"
    return short if text_width(short, size) <= width else ""


def wrap(text: str, width: int, size: int) -> list[str]:
    """Return ``text`` as lines that fit, broken after spaces, underscores and slashes.

    Args:
        text: any text, such as ``"contrastive_excitation_backprop"``.
        width: pixels that a line may take.
        size: font size.

    Returns:
        The lines, none for an empty text. A part that is too long for a line has one of its own.

    Example:
        >>> wrap("contrastive_excitation_backprop", 120, 11)
        ['contrastive_', 'excitation_backprop']
    """
    lines: list[str] = []
    for part in re.findall(r"[^\s_/]*[\s_/]?", text):
        if part and lines and text_width((lines[-1] + part).rstrip(), size) <= width:
            lines[-1] += part
        elif part:
            lines.append(part)
    return [line.rstrip() for line in lines]
