"""A report as one HTML file that needs nothing else, and its numbers as JSON."""

import base64
import json
import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from torch import Tensor

from lightning_saliency.rendering.pixels import png_of
from lightning_saliency.reporting.charts import loss_and_drift
from lightning_saliency.reporting.pictures import Pair, draw_filmstrip, draw_pairs
from lightning_saliency.reporting.record import RunRecord, SeriesRecord
from lightning_saliency.reporting.summary import figures, summary, turning_point

# Filmstrips that are not folded.
_OPEN = 1
_NO_ALARM = {
    True: "A DriftAlarm watched the run, and raised none.",
    False: "No DriftAlarm was among the callbacks of this run.",
    None: "Nothing that was logged says whether a DriftAlarm watched this run.",
}
_PACKAGES = ("lightning-saliency", "lightning", "torch", "torchvision")


def render(template: str, **values: Any) -> str:
    """Return a page; every value is escaped, unless it is markup already.

    Args:
        template: its name.
        values: by their names in it.
    """
    loader = PackageLoader("lightning_saliency.reporting", "templates")
    # Whatever stands in class names and paths is text.
    pages = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    return pages.get_template(template).render(**values)


def report_page(record: RunRecord) -> tuple[str, str]:
    """Return the page of a run, and its numbers as JSON.

    Args:
        record: of the run.
    """
    numbers = {**summary(record), "versions": versions()}
    at = turning_point(record)
    lead = record.lead
    pairs = [] if at is None else draw_pairs(lead, at)
    page = render(
        "report.html",
        title=f"{record.title}: what the network looked at",
        subtitle=_subtitle(record),
        numbers=numbers,
        figures=figures(record),
        chart=Markup(loss_and_drift(record)),
        strips=[
            {"name": name, "source": source(draw_filmstrip(record, series))}
            for name, series in _lead_first(record)
        ],
        open=_OPEN,
        pairs=[_pair(lead, pair, at) for pair in pairs if at is not None],
        change=_change(record, at),
        no_alarm=_NO_ALARM[record.is_watched],
        sureness="score" if lead.score_name else "probability",
        settings=list(_settings(record, numbers["versions"])),
    )
    return page, json.dumps(numbers, indent=1, default=str)


def _lead_first(record: RunRecord) -> list[tuple[str, SeriesRecord]]:
    lead = record.lead.name
    return sorted(record.series.items(), key=lambda entry: entry[0] != lead)


def source(picture: Tensor) -> str:
    """Return a picture (3, height, width), uint8, as the source of an image of a page."""
    return f"data:image/png;base64,{base64.b64encode(png_of(picture)).decode()}"


def versions() -> dict[str, str]:
    """Return which versions of what are at work, by name."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed as a package"
    return found


def _pair(series: SeriesRecord, pair: Pair, at: int) -> dict[str, Any]:
    words = []
    for when in (at - 1, at):
        predicted = int(series.predicted[when, pair.row])
        wrong = series.wrong
        mark = ""
        if wrong is not None:
            mark = "\N{BALLOT X} " if bool(wrong[when, pair.row]) else "\N{CHECK MARK} "
        words.append(mark + series.class_name(predicted) if predicted >= 0 else "")
    return {
        "source": source(pair.picture),
        "sample": series.sample_ids[pair.row],
        "class": series.name_of(pair.row),
        "moved": pair.moved if pair.moved == pair.moved else None,
        "predicted": " \N{RIGHTWARDS ARROW} ".join(filter(None, words)),
    }


def _change(record: RunRecord, at: int | None) -> str:
    if at is None:
        return ""
    lead = record.lead
    alarms = {alarm.step for alarm in record.alarms if alarm.series == lead.name}
    why = "at the alarm" if lead.steps[at] in alarms else "the largest movement of the later half"
    epochs = f"epoch {lead.epochs[at - 1]} \N{RIGHTWARDS ARROW} {lead.epochs[at]}"
    return f"{epochs}: {lead.name}, {why}"


def _subtitle(record: RunRecord) -> str:
    lead = record.lead
    run = record.run
    parts = [str(run[name]) for name in ("module", "image") if run.get(name)]
    if run.get("classes"):
        parts.append(f"{run['classes']} classes")
    parts.append(
        f"{len(lead)} explanations, epochs {lead.epochs[0]} to {lead.epochs[-1]}, of "
        f"{len(lead.sample_ids)} fixed validation samples by {', '.join(record.series)}"
    )
    return " \N{MIDDLE DOT} ".join(parts)


def _settings(record: RunRecord, at_work: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for name, value in record.run.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}: {key}", str(each)) for key, each in value.items())
        else:
            yield name, str(value)
    for name, series in record.series.items():
        said = ", ".join(f"{key}={value}" for key, value in series.settings.items())
        yield name, said or "-"
    yield from ((f"made by {name}", each) for name, each in at_work.items())
