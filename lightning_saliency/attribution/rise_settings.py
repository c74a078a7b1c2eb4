"""The checks of RISE's settings."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_saliency.errors import InputError

__all__ = ["check_choice", "check_settings"]


def check_settings(
    num_masks: object, num_cells: object, p: float, seed: object, until: float | None
) -> None:
    """Raise unless the numbers among the settings are in their ranges.

    Args:
        num_masks: see :class:`~lightning_saliency.attribution.rise.RISE`, as for the others.
        num_cells: of the coarse grid.
        p: probability that a cell is kept.
        seed: of the masks.
        until: a split-half correlation.

    Raises:
        InputError: one of them is not.
    """
    if num_masks is not None and not _is_count(num_masks):
        raise InputError(f"Expected num_masks >= 1, got {num_masks!r}.")
    cells = num_cells if isinstance(num_cells, (tuple, list)) else [num_cells]
    if len(cells) not in (1, 2) or not all(map(_is_count, cells)):
        raise InputError(
            f"Expected num_cells >= 1, or a pair (rows, columns) of such, got {num_cells!r}."
        )
    if not 0 < p < 1:
        raise InputError(f"Expected p, the share of kept cells, in (0, 1), got {p}.")
    if not isinstance(seed, int):
        raise InputError(f"Expected seed to be an integer, got {seed!r}.")
    if until is not None and not 0 < until < 1:
        raise InputError(f"Expected until, a split-half correlation, in (0, 1), got {until}.")


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Raise unless a setting is None or one of some words.

    Args:
        name: of the setting.
        value: as the user gave it.
        choices: the words.

    Raises:
        InputError: it is neither.
    """
    if value is not None and value not in choices:
        raise InputError(
            f"Expected {name} to be None or one of {', '.join(choices)}, got {value!r}."
        )


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
