"""Checks of single settings of a method."""

import math
from collections.abc import Sequence
from itertools import pairwise

from lightning_saliency.errors import InputError


def check_choice(name: str, value: object, choices: Sequence[object]) -> None:
    """Raise InputError unless a setting is one of its choices.

    Args:
        name: of the setting.
        value: as the user gave it.
        choices: what it may be; None among them where the setting may be left out.

    Raises:
        InputError: it is something else.
    """
    if value not in choices:
        listed = ", ".join(map(repr, choices))
        raise InputError(f"Expected {name} to be one of {listed}, got {value!r}.")


def check_integer(
    name: str, value: object, least: int | None = None, *, optional: bool = False
) -> None:
    """Raise InputError unless a setting is an integer >= ``least`` (or None, if it may be).

    Args:
        name: of the setting.
        value: as the user gave it.
        least: the smallest that it may be; None for any integer.
        optional: whether it may be None.

    Raises:
        InputError: it is something else.
    """
    if optional and value is None:
        return
    bad = isinstance(value, bool) or not isinstance(value, int)
    if bad or (least is not None and isinstance(value, int) and value < least):
        bound = "" if least is None else f" >= {least}"
        raise InputError(f"Expected {name} to be an integer{bound}, got {value!r}.")


def check_positive(name: str, value: float | None, unit: str) -> None:
    """Raise InputError unless a setting is positive and finite, or None.

    Args:
        name: of the setting.
        value: as the user gave it.
        unit: of the setting, for the message.

    Raises:
        InputError: it is something else.
    """
    if value is not None and not 0 < value < math.inf:
        raise InputError(f"Expected {name} > 0 {unit}, got {value}.")


def check_fraction(name: str, value: float | None, meaning: str) -> None:
    """Raise InputError unless a setting lies between 0 and 1, without these, or is None.

    Args:
        name: of the setting.
        value: as the user gave it.
        meaning: what it is a fraction of, for the message.

    Raises:
        InputError: it is something else.
    """
    if value is not None and not 0 < value < 1:
        raise InputError(f"Expected {name}, {meaning}, in (0, 1), got {value}.")


def check_num_cells(num_cells: object) -> None:
    """Raise InputError unless the size of a grid is one number of cells, or a pair of them.

    Args:
        num_cells: as the user gave it.

    Raises:
        InputError: it is something else.
    """
    cells = num_cells if isinstance(num_cells, (tuple, list)) else [num_cells]
    counts = [n for n in cells if isinstance(n, int) and not isinstance(n, bool) and n >= 1]
    if len(cells) not in (1, 2) or len(counts) < len(cells):
        raise InputError(
            f"Expected num_cells >= 1, or a pair (rows, columns) of such, got {num_cells!r}."
        )


def checked_areas(areas: object) -> tuple[float, ...]:
    """Return areas as a tuple of floats; a single number is one area.

    Args:
        areas: the setting as the user gave it.

    Raises:
        InputError: it is empty, not strictly increasing, or not within (0, 1].
    """
    given = areas if isinstance(areas, Sequence) else (areas,)
    found = tuple(float(area) for area in given if isinstance(area, (int, float)))
    increase = all(low < high for low, high in pairwise((0.0, *found)))
    if not found or len(found) < len(given) or not increase or found[-1] > 1:
        raise InputError(
            "Expected areas to be one or more fractions of the image in (0, 1], each larger than "
            f"the one before, got {areas!r}."
        )
    return found
