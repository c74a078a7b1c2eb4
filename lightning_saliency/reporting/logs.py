"""What was logged in a run's folder: TensorBoard's event files, metrics.csv, alarms as files.

Files may end in the middle of a record, as those of a killed run do: what is whole is read.
"""

import csv
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from lightning_saliency.errors import InputError
from lightning_saliency.reporting.record import AlarmRecord, Curve

# Pictures are larger, and are passed over without being read.
_LARGEST_RECORD = 2**18
_WANTED = (b"loss", b"saliency")
_ALARM = "saliency_alarm/"
_TEXT = "/text_summary"
_HEADLINE = re.compile(r"### Epoch (\d+): (.*)")
_ALARM_FILE = re.compile(r"step=(\d+)-(\w+)\.md")
ALARM_FOLDER = "saliency/alarm"
"""In a run's folder, the alarms as files where no logger takes them."""


@dataclass
class Logs:
    """What was logged.

    Attributes:
        scalars: by tag, value by step.
        alarms: by series, reference and step.
        notes: of what could not be read.
    """

    scalars: dict[str, dict[int, float]] = field(default_factory=dict)
    alarms: dict[tuple[str, str, int], AlarmRecord] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def is_watched(self) -> bool | None:
        """True if an alarm was watching; None if nothing says so."""
        return bool(self.alarms) or any(_ALARM in tag for tag in self.scalars) or None

    def loss(self) -> tuple[Curve, ...]:
        """Return the losses of training and of validation, those that there are."""
        tags = [tag for tag in self.scalars if "loss" in tag.lower() and "saliency" not in tag]
        of_validation = [tag for tag in tags if "val" in tag.lower()]
        rest = [tag for tag in tags if tag not in of_validation and "test" not in tag.lower()]
        chosen = [_plainest(rest), _plainest(of_validation)]
        return tuple(Curve(tag, *_unzipped(self.scalars[tag])) for tag in chosen if tag is not None)


def read_logs(folder: Path) -> Logs:
    """Read what there is in a run's folder; nothing need be there.

    Args:
        folder: of the run, with the logger's files in it.

    Raises:
        InputError: a file is there that cannot be opened.
    """
    logs = Logs()
    for path in sorted(folder.glob("*.tfevents.*")):
        _readable(path, partial(_read_events, path, logs))
    if (folder / "metrics.csv").is_file():
        _readable(folder / "metrics.csv", partial(_read_csv, folder / "metrics.csv", logs))
    # Without a logger the folder can be any, so it is not searched at all depths.
    for place in (ALARM_FOLDER, f"*/{ALARM_FOLDER}"):
        for path in sorted(folder.glob(f"{place}/**/*.md")):
            _readable(path, partial(_read_alarm_file, path, folder, logs))
    return logs


def _readable(path: Path, read: Callable[[], None]) -> None:
    try:
        read()
    except OSError as error:
        raise InputError(f"Expected to read {path}, but: {error}.") from error


def _read_events(path: Path, logs: Logs) -> None:
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]

    for record in _records(path, logs):
        if not any(word in record for word in _WANTED):
            continue
        try:
            event = Event.FromString(record)
        except DecodeError:
            logs.notes.append(f"{path.name} is damaged: what comes after that place is missing")
            return
        for value in event.summary.value:
            _take(logs, value, int(event.step))


def _records(path: Path, logs: Logs) -> Iterator[bytes]:
    """Yield the records that are not large; a record is length, checksum, data, checksum."""
    end, place = path.stat().st_size, 0
    with path.open("rb") as file:
        while place < end:
            head = file.read(12)
            length = struct.unpack("<Q", head[:8])[0] if len(head) == 12 else end
            if place + length + 16 > end:
                logs.notes.append(f"{path.name} ends in the middle of a record")
                return
            if length <= _LARGEST_RECORD:
                yield file.read(length)
            place += length + 16
            file.seek(place)


def _take(logs: Logs, value: Any, step: int) -> None:
    kind = value.WhichOneof("value")
    if kind == "simple_value":
        logs.scalars.setdefault(value.tag, {})[step] = float(value.simple_value)
    elif kind == "tensor" and len(value.tensor.float_val) == 1:
        logs.scalars.setdefault(value.tag, {})[step] = float(value.tensor.float_val[0])
    elif kind == "tensor" and _ALARM in value.tag and len(value.tensor.string_val) == 1:
        prefix, _, named = value.tag.removesuffix(_TEXT).partition(_ALARM)
        series, _, reference = named.rpartition("/")
        if named.startswith("evidence/"):
            series, reference = named.partition("/")[2], "evidence"
        text = value.tensor.string_val[0].decode("utf-8", "replace")
        _add_alarm(logs, prefix + series, reference, step, text)


def _read_csv(path: Path, logs: Logs) -> None:
    lines = path.read_text("utf-8", "replace").splitlines(keepends=True)
    if lines and not lines[-1].endswith(("\n", "\r")):
        lines.pop()
        logs.notes.append(f"{path.name} ends in the middle of a line")
    for row in csv.DictReader(lines):
        step = row.get("step")
        if not step or not step.isdigit():
            continue
        for tag, text in row.items():
            if tag and text and tag not in ("step", "epoch"):
                _add_number(logs, tag, int(step), text)


def _add_number(logs: Logs, tag: str, step: int, text: Any) -> None:
    try:
        number = float(text)
    except (TypeError, ValueError):
        return
    # The event file, if there is one, has the same number.
    logs.scalars.setdefault(tag, {}).setdefault(step, number)


def _read_alarm_file(path: Path, folder: Path, logs: Logs) -> None:
    found = _ALARM_FILE.fullmatch(path.name)
    if found:
        inside = path.parent.relative_to(folder).as_posix()
        prefix, _, series = inside.partition(f"{ALARM_FOLDER}/")
        if found[2] == "evidence":
            series = series.removeprefix("evidence/")
        text = path.read_text("utf-8", "replace")
        _add_alarm(logs, prefix + series, found[2], int(found[1]), text)


def _add_alarm(logs: Logs, series: str, reference: str, step: int, text: str) -> None:
    record = alarm_of(series, reference, step, text)
    if record is not None:
        logs.alarms[series, reference, step] = record


def alarm_of(series: str, reference: str, step: int, text: str) -> AlarmRecord | None:
    """Return an alarm from its text, as it was logged; None if it is no such text.

    Args:
        series: for instance ``"grad_cam"``.
        reference: ``"previous"``, ``"pinned"`` or ``"evidence"``.
        step: at which it was logged.
        text: Markdown: a headline with the epoch, a table of numbers, and a sentence or more.
    """
    lines = text.splitlines()
    head = _HEADLINE.match(lines[0]) if lines else None
    if head is None:
        return None
    rows = [line for line in lines if line.startswith("| ")]
    start = next((n for n, line in enumerate(rows) if line.startswith("| number |")), len(rows))
    numbers = []
    for line in rows[start + 1 :]:
        cells = tuple(cell.strip() for cell in line.strip("|").split("|"))
        if len(cells) != 4:
            break
        numbers.append(cells)
    sentences = [line for line in lines[1:] if line and line[0] not in "|#" and "**" not in line]
    remark = " ".join(sentences)
    return AlarmRecord(series, reference, int(head[1]), step, head[2], tuple(numbers), remark)


def _plainest(tags: list[str]) -> str | None:
    """Return the loss itself, and rather of epochs than of steps."""
    if not tags:
        return None
    return min(tags, key=lambda tag: (tag.endswith("_step"), not tag.endswith("_epoch"), len(tag)))


def _unzipped(values: dict[int, float]) -> tuple[tuple[int, ...], tuple[float, ...]]:
    steps = tuple(sorted(values))
    return steps, tuple(values[step] for step in steps)
