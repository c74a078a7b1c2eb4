"""The comparison of two runs as one HTML page, and its numbers as JSON."""

import json
import math
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib import rc_context
from torch import Tensor

from lightning_saliency.history.comparison import Comparison
from lightning_saliency.metrics.map_similarity import MEASURES, RANKING
from lightning_saliency.reporting.charts import as_svg
from lightning_saliency.reporting.page import render, versions
from lightning_saliency.reporting.report import check_new
from lightning_saliency.reporting.summary import FORMAT
from lightning_saliency.whole_file import write_whole

_FLIPPED, _EMPTY = "disagree", "degenerate_frac"
_COLUMNS = (*MEASURES, _FLIPPED, _EMPTY)


def write_comparison(comparison: Comparison, output: str | PathLike[str]) -> Path:
    """Write the comparison of two runs as one HTML page that needs nothing else.

    Beside it, ``.json`` instead of ``.html``, are the same numbers for programs.

    Args:
        comparison: see :func:`~lightning_saliency.compare`.
        output: the file; its folder is made if needed.

    Returns:
        The page.

    Raises:
        InputError: before anything is drawn, if one of the two files exists.
        OSError: they cannot be written; no partial file is left.
    """
    path = Path(output)
    check_new(path)
    numbers = comparison_numbers(comparison)
    with rc_context({"text.parse_math": False}):
        figure = as_svg(comparison.figure())
    page = render(
        "comparison.html",
        title=f"{comparison.series}: {comparison.names[1]} compared with {comparison.names[0]}",
        sentence=_sentence(comparison),
        numbers=numbers,
        figures=_figures(comparison),
        figure=Markup(figure),
        columns=[(name, _meaning(name)) for name in _COLUMNS],
        measure=RANKING.name,
        has_seeds=comparison.floor is not None,
        versions=versions(),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, page.encode())
    write_whole(path.with_suffix(".json"), json.dumps(numbers, indent=1).encode())
    return path


def comparison_numbers(comparison: Comparison) -> dict[str, Any]:
    """Return the numbers of a comparison as JSON holds them; None where there is none.

    Args:
        comparison: of two runs.
    """
    floor = comparison.floor
    worst = comparison.per_sample[RANKING.name][-1]
    order: list[int] = worst.nan_to_num(math.inf).argsort(stable=True).tolist()
    return {
        "format": FORMAT,
        "series": comparison.series,
        "names": list(comparison.names),
        "verdict": comparison.verdict,
        "epochs": comparison.epochs.tolist(),
        "table": _lists(comparison.table),
        "other_samples": {name: _number(value) for name, value in comparison.chance.items()},
        "seeds": None
        if floor is None
        else {"pairs": floor.pairs, "mean": _lists(floor.mean), "std": _lists(floor.std)},
        "outside": None if floor is None else comparison.outside().tolist(),
        "samples": [
            {
                "sample": comparison.sample_ids[row],
                **{
                    name: _number(values[-1, row]) for name, values in comparison.per_sample.items()
                },
            }
            for row in order
        ],
    }


def _sentence(comparison: Comparison) -> str:
    last = float(comparison.table[RANKING.name][-1])
    one, other = comparison.names
    epoch = int(comparison.epochs[-1])
    said = f"At epoch {epoch} the maps of {other} and {one} overlap by {last:.2f} (1 = equal)"
    floor = comparison.floor
    if floor is None:
        return f"{said}. {comparison.verdict}"
    if not comparison.judgment:
        return comparison.verdict
    mean, std = (float(each[RANKING.name][-1]) for each in (floor.mean, floor.std))
    return (
        f"{said}; those of {floor.pairs} pairs of seeds of one recipe by {mean:.2f} ± "
        f"{std:.2f}. {comparison.judgment}"
    )


def _figures(comparison: Comparison) -> list[dict[str, Any]]:
    last = {name: float(values[-1]) for name, values in comparison.table.items()}
    found = [
        (f"{last[RANKING.name]:.2f}", f"overlap ({RANKING.name}) at the last epoch; 1 = equal"),
        (f"{comparison.chance[RANKING.name]:.2f}", "overlap of maps of different samples"),
        (f"{last[_FLIPPED]:.0%}", "samples with different predictions"),
        (f"{last[_EMPTY]:.0%}", "samples with an empty map"),
    ]
    shown = [{"value": value, "what": what, "alarm": False} for value, what in found]
    floor = comparison.floor
    if floor is not None:
        mean, std = (float(each[RANKING.name][-1]) for each in (floor.mean, floor.std))
        seeds = f"overlap of {floor.pairs} pairs of seeds"
        shown.insert(1, {"value": f"{mean:.2f} \xb1 {std:.2f}", "what": seeds, "alarm": False})
        shown[0]["alarm"] = bool(comparison.outside()[-1])
    return shown


def _meaning(name: str) -> str:
    if name in MEASURES:
        return MEASURES[name].meaning
    return {_FLIPPED: "share with different predictions", _EMPTY: "share with an empty map"}[name]


def _lists(table: Mapping[str, Tensor]) -> dict[str, list[float | None]]:
    return {name: [_number(value) for value in values] for name, values in table.items()}


def _number(value: float | Tensor) -> float | None:
    number = float(value)
    return float(f"{number:.6g}") if math.isfinite(number) else None
