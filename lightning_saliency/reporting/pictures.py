"""The pictures of a report: filmstrips, and pairs of before and after."""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from lightning_saliency.metrics.map_similarity import top10
from lightning_saliency.metrics.movement import movement
from lightning_saliency.rendering import (
    Column,
    Curves,
    filmstrip,
    heatmap,
    overlay,
    select_columns,
    to_bytes,
)
from lightning_saliency.rendering.canvas import Canvas
from lightning_saliency.rendering.pixels import fit_cell
from lightning_saliency.reporting.record import RunRecord, SeriesRecord

_MOST_ROWS, _MOST_PAIRS, _MOST_ALARMS = 8, 4, 3
_SIDE, _GAP = 144, 4
# What maps lie on where the pictures were not kept.
_GRAY = 200


def draw_filmstrip(record: RunRecord, series: SeriesRecord) -> Tensor:
    """Draw samples down and explanations across, (3, height, width), RGB, uint8.

    Args:
        record: of the run.
        series: one of its series.
    """
    rows = most_moved(series, _MOST_ROWS)
    alarms = alarm_places(record, series)
    pinned = [at - before for at in alarms[-_MOST_ALARMS:] for before in (0, 1)]
    shown = select_columns(series.available, [at for at in pinned if at in series.available])
    columns, before = [], None
    for at in shown:
        maps = series.maps(at)[rows]
        columns.append(_column(series, rows, at, maps, before, at in alarms))
        before = at, maps
    count = len(series.sample_ids)
    note = (
        f"{count} samples" if count <= _MOST_ROWS else f"the {len(rows)} of {count} that moved most"
    )
    if series.when_zero and any("zero" in column.fault for column in columns):
        note += f"; zero: {series.when_zero}"
    curves = Curves(
        [_place(at, shown) for at in range(len(series))],
        series.drift.tolist(),
        _losses_at(record, series),
        "val loss",
    )
    return filmstrip(
        _inputs(series, rows),
        columns,
        [series.name_of(row) for row in rows],
        [series.sample_ids[row] for row in rows],
        series.name,
        note,
        curves,
        (series.scale, series.signed),
    )


@dataclass(frozen=True)
class Pair:
    """One sample before and after.

    Attributes:
        picture: (3, height, width), RGB, uint8: both maps over the image, side by side.
        row: which of the samples it is.
        moved: how far its map has moved, in [0, 1], or NaN.
    """

    picture: Tensor
    row: int
    moved: float


def draw_pairs(series: SeriesRecord, at: int) -> list[Pair]:
    """Draw the samples that moved most from one explanation to the next.

    Args:
        series: of the run.
        at: the later of the two explanations.
    """
    order = series.moved[at].nan_to_num(-1.0).argsort(descending=True, stable=True)
    rows: list[int] = order[:_MOST_PAIRS].tolist()
    inputs = _inputs(series, rows).float() / 255
    maps = [series.maps(when)[rows] for when in (at - 1, at)]
    heats = [heatmap(each, series.scale, series.signed) for each in maps]
    laid = [to_bytes(overlay(inputs, heat)) for heat in heats]
    # The part of the tenth that drift compares which is evidence at all.
    tenths = [top10(each) & (each > 0) for each in maps]
    high, wide = fit_cell((inputs.shape[2], inputs.shape[3]), _SIDE, _SIDE)
    factor = _SIDE / max(high, wide)
    size = max(1, round(high * factor)), max(1, round(wide * factor))
    pairs = []
    for place, row in enumerate(rows):
        sheet = Canvas(size[0], 2 * size[1] + _GAP)
        for number, heat in enumerate(heats):
            left = number * (size[1] + _GAP)
            sheet.paste(laid[number][place], 0, left, size)
            if heat.fault[place]:
                sheet.stamp(heat.fault[place], 0, left, *size)
            else:
                sheet.outline(tenths[number][place, 0], 0, left, size)
        pairs.append(Pair(sheet.picture(), row, float(series.moved[at, row])))
    return pairs


def most_moved(series: SeriesRecord, most: int) -> list[int]:
    """Return the samples with the largest movements over the run, in their order.

    Args:
        series: of the run.
        most: how many.
    """
    amounts = series.moved.nan_to_num(0.0).double().sum(0)
    order: list[int] = amounts.argsort(descending=True, stable=True).tolist()
    return sorted(order[:most])


def alarm_places(record: RunRecord, series: SeriesRecord) -> list[int]:
    """Return at which explanations of a series an alarm of it sounded, in order.

    Args:
        record: of the run.
        series: one of its series.
    """
    steps = {alarm.step for alarm in record.alarms if alarm.series == series.name}
    return [at for at, step in enumerate(series.steps) if step in steps]


def _column(
    series: SeriesRecord,
    rows: list[int],
    at: int,
    maps: Tensor,
    before: tuple[int, Tensor] | None,
    alarm: bool,
) -> Column:
    heat = heatmap(maps, series.scale, series.signed)
    moved = torch.full((len(rows),), torch.nan)
    flipped = torch.zeros(len(rows), dtype=torch.bool)
    if before is not None:
        moved = movement(before[1], maps)
        flipped = (series.predicted[at] != series.predicted[before[0]])[rows]
    wrong = series.wrong
    is_wrong = torch.zeros(len(rows), dtype=torch.bool) if wrong is None else wrong[at, rows]
    return Column(
        label=str(series.epochs[at]),
        pictures=to_bytes(overlay(_inputs(series, rows).float() / 255, heat)),
        fault=heat.fault,
        moved=moved.tolist(),
        wrong=is_wrong.tolist(),
        flipped=flipped.tolist(),
        alarm=alarm,
    )


def _inputs(series: SeriesRecord, rows: list[int]) -> Tensor:
    if series.inputs is not None:
        return series.inputs[rows]
    size = series.maps(series.available[-1]).shape[2:]
    return torch.full((len(rows), 3, *size), _GRAY, dtype=torch.uint8)


def _losses_at(record: RunRecord, series: SeriesRecord) -> list[float]:
    """Return the validation loss at each explanation, or NaN."""
    curve = next((each for each in record.loss if "val" in each.name.lower()), None)
    known = {} if curve is None else dict(zip(curve.steps, curve.values, strict=True))
    return [known.get(step, torch.nan) for step in series.steps]


def _place(at: int, columns: list[int]) -> float:
    """Return where an explanation lies, in columns."""
    for place, (start, end) in enumerate(pairwise(columns)):
        if start <= at <= end:
            return place + (at - start) / (end - start)
    return float(len(columns) - 1)
