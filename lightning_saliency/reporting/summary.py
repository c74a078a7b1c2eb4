"""The numbers of a report, as plain values, and the sentence that they make."""

import math
import statistics
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from lightning_saliency.reporting.record import AlarmRecord, RunRecord, SeriesRecord

FORMAT = 1
"""Of the JSON file beside a report."""


def summary(record: RunRecord) -> dict[str, Any]:
    """Return the numbers of a report as JSON holds them; None where there is none.

    Args:
        record: of the run.
    """
    lead = record.lead
    at = turning_point(record)
    return {
        "format": FORMAT,
        "title": record.title,
        "sentence": sentence(record),
        "lead": lead.name,
        "shown_change": None if at is None else [lead.epochs[at - 1], lead.epochs[at]],
        "alarms": None if record.is_watched is None else [_alarm(each) for each in record.alarms],
        "loss": [
            {"name": curve.name, "steps": list(curve.steps), "values": _plain(curve.values)}
            for curve in record.loss
        ],
        "series": {name: _series(each) for name, each in record.series.items()},
        "run": dict(record.run),
        "notes": list(record.notes),
    }


def turning_point(record: RunRecord) -> int | None:
    """Return at which explanation of the lead series its before and after are shown.

    That of its last alarm; otherwise the one with the largest movement in the second half of the
    run, because in the first all maps move. None if there is no such pair whose maps are there.

    Args:
        record: of the run.
    """
    lead = record.lead
    there = set(lead.available)
    pairs = [index for index in lead.available if index - 1 in there]
    for alarm in reversed(record.alarms):
        at = [index for index in pairs if lead.steps[index] == alarm.step]
        if alarm.series == lead.name and at:
            return at[0]
    late = [index for index in pairs if 2 * index >= len(lead)] or pairs
    return max(late, key=lambda index: _or(float(lead.drift[index]), -1.0), default=None)


def sentence(record: RunRecord) -> str:
    """Return what happened, in a sentence or two.

    Args:
        record: of the run.
    """
    lead = record.lead
    last = len(lead) - 1
    if last == 0:
        said = [f"The maps of {lead.name} were made once, at epoch {lead.epochs[0]}"]
    else:
        drift = lead.drift
        known = [float(value) for value in drift if value == value]
        moved = float(drift[last])
        since = f"Since epoch {lead.epochs[last - 1]}"
        said = [f"{since} no map of {lead.name} could be compared"]
        if moved == moved:
            usual = statistics.median(known)
            said = [
                f"{since} the {lead.name} maps moved by {moved:.2f} on average (median of the run "
                f"{usual:.2f}; 0 is not at all, 1 altogether)"
            ]
        said.append(f"{_of(int(lead.flipped[last].sum()), lead)} predictions changed with it")
    wrong = lead.wrong
    if wrong is not None:
        said.append(f"{_of(int(wrong[last].sum()), lead)} samples are wrong at the end")
    return f"{'; '.join(said)}. {_alarms_in_words(record)}"


def _alarms_in_words(record: RunRecord) -> str:
    if record.alarms:
        epochs = list(dict.fromkeys(str(alarm.epoch) for alarm in record.alarms))
        count = len(record.alarms)
        if len(epochs) == 1:
            said = "An alarm was" if count == 1 else f"{count} alarms were"
            return f"{said} raised at epoch {epochs[0]}."
        return f"Alarms were raised at epochs {', '.join(epochs[:-1])} and {epochs[-1]}."
    return {
        True: "No alarm was raised.",
        False: "No DriftAlarm watched the run.",
        None: "Whether an alarm was raised is not known.",
    }[record.is_watched]


def figures(record: RunRecord) -> list[dict[str, Any]]:
    """Return the five figures at the head of a report, each with its value and what it is.

    Args:
        record: of the run.
    """
    lead = record.lead
    moved = float(lead.drift[-1])
    wrong = lead.wrong
    alarms = {True: str(len(record.alarms)), False: "none set", None: "not known"}
    return [
        _figure(alarms[record.is_watched], "drift alarms", bool(record.alarms)),
        _figure(f"{moved:.2f}" if moved == moved else "-", "moved, last epoch (0 to 1)"),
        _figure(_of(int(lead.flipped[-1].sum()), lead), "predictions flipped, last epoch"),
        _figure(
            "not known" if wrong is None else _of(int(wrong[-1].sum()), lead),
            "samples wrong at the end",
        ),
        _figure(_of(int(lead.empty[-1].sum()), lead), "empty maps at the end"),
    ]


def _figure(value: str, what: str, alarm: bool = False) -> dict[str, Any]:
    return {"value": value, "what": what, "alarm": alarm}


def sample_rows(series: SeriesRecord) -> list[dict[str, Any]]:
    """Return a row of numbers for each sample, those that moved most first.

    Args:
        series: of the samples.
    """
    wrong, shares = series.wrong, series.top_share
    flips = series.flipped.sum(0)
    moved = series.moved.nanmean(0)
    rows = []
    for place, number in enumerate(series.sample_ids):
        predicted = int(series.predicted[-1, place])
        rows.append(
            {
                "sample": number,
                "class": series.name_of(place),
                "predicted": series.class_name(predicted) if predicted >= 0 else None,
                "right": None if wrong is None else not bool(wrong[-1, place]),
                "probability": _number(series.probability[-1, place]),
                "flips": int(flips[place]),
                "moved": _number(moved[place]),
                "top_tenth_share": _number(shares[place]),
                "empty": int(series.empty[:, place].sum()),
            }
        )
    return sorted(rows, key=lambda row: -_or(row["moved"], -1.0))


def _series(series: SeriesRecord) -> dict[str, Any]:
    wrong = series.wrong
    return {
        "settings": dict(series.settings),
        "epochs": list(series.epochs),
        "steps": list(series.steps),
        "moved": _plain(series.drift.tolist()),
        "flips": series.flipped.sum(1).tolist(),
        "wrong": None if wrong is None else wrong.sum(1).tolist(),
        "empty": series.empty.sum(1).tolist(),
        "samples": sample_rows(series),
    }


def _alarm(alarm: AlarmRecord) -> dict[str, Any]:
    return {**vars(alarm), "numbers": [list(row) for row in alarm.numbers]}


def _of(count: int, series: SeriesRecord) -> str:
    return f"{count} of {len(series.sample_ids)}"


def _plain(values: Sequence[float]) -> list[float | None]:
    return [_number(value) for value in values]


def _number(value: float | Tensor) -> float | None:
    """Return a number in the digits that mean something; None where JSON has none for it."""
    number = float(value)
    return float(f"{number:.6g}") if math.isfinite(number) else None


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None or value != value else value
