"""Checks of single settings of a search for masks."""

import math
from collections.abc import Sequence

from lightning_saliency.errors import InputError

__all__ = ["check_choice", "check_integer", "check_positive"]


def check_choice(name: str, value: object, choices: Sequence[object]) -> None:
    """Raise InputError unless a setting is one of its choices.

    Args:
        name: of the setting.
        value: as the user gave it.
        choices: what it may be.

    Raises:
        InputError: it is something else.
    """
    if value not in choices:
        listed = ", ".join(map(repr, choices))
        raise InputError(f"Expected {name} to be one of {listed}, got {value!r}.")


def check_integer(name: str, value: object, least: int, *, optional: bool = False) -> None:
    """Raise InputError unless a setting is an integer >= ``least`` (or None, if it may be).

    Args:
        name: of the setting.
        value: as the user gave it.
        least: the smallest that it may be.
        optional: whether it may be None.

    Raises:
        InputError: it is something else.
    """
    if optional and value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"Expected {name} to be an integer >= {least}, got {value!r}.")


def check_positive(name: str, value: float | None, unit: str) -> None:
    """Raise InputError unless a setting is positive and finite, or None.

    Args:
        name: of the setting.
        value: as the user gave it.
        unit: that it is in, for the message.

    Raises:
        InputError: it is something else.
    """
    if value is not None and not 0 < value < math.inf:
        raise InputError(f"Expected {name} > 0 {unit}, got {value}.")
