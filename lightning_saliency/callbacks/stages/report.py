"""The page about the run, written when it ends."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor
from typing_extensions import override

from lightning_saliency.callbacks.explanation import ExplanationRound
from lightning_saliency.callbacks.failures import describe_error, warn
from lightning_saliency.callbacks.pictures import Pictures
from lightning_saliency.callbacks.run_context import RunContext, is_fast_dev_run
from lightning_saliency.callbacks.run_facts import about_run, facts_of
from lightning_saliency.callbacks.stage_runner import Stage
from lightning_saliency.callbacks.stages.images import evident, moved_since_previous
from lightning_saliency.history.map_files import SeriesFacts
from lightning_saliency.loggers.event_file import check_room
from lightning_saliency.metrics.map_statistics import canonical
from lightning_saliency.reporting.logs import Logs, alarm_of, read_logs
from lightning_saliency.reporting.record import (
    AlarmRecord,
    Curve,
    RunRecord,
    SeriesRecord,
    top_share,
)
from lightning_saliency.reporting.report import NAME, write_report
from lightning_saliency.reporting.saved_run import title_of

# Of a page, about; they have 0.3 to 3 MB.
_SIZE = 3 * 2**20
_TENSORS = ("target", "predicted", "probability", "moved", "empty")


@dataclass
class _Entries:
    """The numbers of one series, one entry for each explanation.

    Attributes:
        numbers: of the explanations in the filmstrip.
        epochs: of the run.
        steps: of their numbers.
        tensors: by name, see :class:`~lightning_saliency.reporting.record.SeriesRecord`.
    """

    numbers: list[int] = field(default_factory=list)
    epochs: list[int] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    tensors: dict[str, list[Tensor]] = field(default_factory=dict)

    @classmethod
    def of_state(cls, state: Mapping[str, Any]) -> "_Entries":
        numbers, epochs, steps = (
            [int(each) for each in state[name]] for name in ("numbers", "epochs", "steps")
        )
        tensors = {name: list(state["tensors"][name].unbind()) for name in _TENSORS}
        if {len(each) for each in (epochs, steps, *tensors.values())} != {len(numbers)}:
            raise ValueError("series of different lengths")
        return cls(numbers, epochs, steps, tensors)


class ReportStage(Stage):
    """Keeps a few numbers of each sample at each explanation, and writes the page at the end.

    Args:
        pictures: draws in the colors of the run, and has kept the maps of the filmstrips.
        prefix: stands before the name of the file.
        settings: of the callback, for the page.
    """

    name: ClassVar[str] = "report"

    def __init__(self, pictures: Pictures, prefix: str, settings: Mapping[str, Any]) -> None:
        self._pictures = pictures
        self._prefix = prefix
        self._settings = settings
        self._entries: dict[str, _Entries] = {}
        self._alarms: list[dict[str, Any]] = []
        self._loss: dict[int, float] = {}
        self._facts: dict[str, SeriesFacts] = {}
        self._methods: dict[str, dict[str, Any]] = {}
        self._shares: dict[str, Tensor] = {}
        self._ids: tuple[int, ...] = ()

    def state_dict(self) -> dict[str, Any]:
        """Return the numbers for a checkpoint."""
        return {
            "series": {
                name: {
                    "numbers": each.numbers,
                    "epochs": each.epochs,
                    "steps": each.steps,
                    "tensors": {what: torch.stack(t) for what, t in each.tensors.items()},
                }
                for name, each in self._entries.items()
            },
            "alarms": list(self._alarms),
            "loss": dict(self._loss),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the numbers of a checkpoint; with none, start over.

        Raises:
            Exception: there is something else in it. Nothing has changed then.
        """
        found = state.get("series", {})
        entries = {name: _Entries.of_state(each) for name, each in found.items()}
        alarms = list(state.get("alarms", []))
        for each in alarms:
            _alarm(each)
        loss = {int(step): float(value) for step, value in state.get("loss", {}).items()}
        self._entries, self._alarms, self._loss = entries, alarms, loss

    @override
    def is_due(self, context: RunContext, round: ExplanationRound) -> bool:
        return context.follows_fit and not is_fast_dev_run(context.trainer)

    @override
    def run(self, context: RunContext, round: ExplanationRound) -> None:
        # On all processes, so that a checkpoint of any of them has the numbers.
        context.require(lambda: self._note(context, round))

    def _note(self, context: RunContext, round: ExplanationRound) -> None:
        run = about_run(context, round, self._settings)
        self._ids = tuple(round.sample_ids)
        for name, drift in round.drift.items():
            strip = self._pictures.strip(name)
            if self._pictures.newest(name) != round.epoch:
                continue
            found = round.explanations[name]
            empty = drift.references.current.described.is_degenerate.cpu()
            moved = moved_since_previous(drift)
            entries = self._entries.setdefault(name, _Entries())
            entries.numbers.append(strip.count - 1)
            entries.epochs.append(round.epoch)
            entries.steps.append(round.step)
            each = {
                "target": found.target,
                "predicted": found.predicted,
                "probability": found.sureness.float(),
                "moved": torch.full(empty.shape, torch.nan) if moved is None else moved.float(),
                "empty": empty,
            }
            for what, tensor in each.items():
                entries.tensors.setdefault(what, []).append(tensor.cpu())
            self._shares[name] = top_share(canonical(evident(round, name).saliency))
            self._facts[name] = facts_of(round, name, self._pictures.names, run)
            self._methods[name] = round.series[name].method.settings()
            point = strip.points[-1]
            if point.number == strip.count - 1 and point.loss == point.loss:
                self._loss[round.step] = point.loss
        self._alarms += [
            {"series": series, "reference": reference, "step": round.step, "text": text}
            for series, reference, text in round.alarms
        ]

    def end(self, context: RunContext) -> None:
        """Write the page; nothing that goes wrong with it ends the run.

        Every process must call this.
        """
        if is_fast_dev_run(context.trainer) or not self._facts:
            return
        folder = context.folder_or_none()
        if folder is None or not context.is_rank_zero:
            return
        try:
            path = _free(folder / f"{self._prefix}{NAME}")
            check_room(folder if folder.exists() else folder.parent, _SIZE, context.disk_reserve)
            for adapter in context.adapters():
                adapter.flush()
            # Without a logger, what lies in the folder is of something else.
            logs = read_logs(folder) if context.trainer.loggers else Logs()
            write_report(self._record(folder, logs), path)
            rank_zero_info(f"What the network looked at: {path}")
        except Exception as error:
            warn(f"The report of the run could not be written. {describe_error(error)}")

    def _record(self, folder: Path, logs: Logs) -> RunRecord:
        steps = tuple(sorted(self._loss))
        own = Curve("val_loss", steps, tuple(self._loss[step] for step in steps))
        facts = next(iter(self._facts.values()))
        return RunRecord(
            title=title_of(folder),
            series={name: self._series(name) for name in self._facts},
            loss=logs.loss() or ((own,) if steps else ()),
            alarms=tuple(alarm for alarm in map(_alarm, self._alarms) if alarm is not None),
            is_watched=bool(facts.run["drift_alarm"]),
            run=facts.run,
        )

    def _series(self, name: str) -> SeriesRecord:
        entries, strip, facts = self._entries[name], self._pictures.strip(name), self._facts[name]
        tensors: dict[str, Any] = {what: torch.stack(t) for what, t in entries.tensors.items()}

        def maps(index: int) -> Tensor:
            return strip.kept[entries.numbers[index]].maps

        return SeriesRecord(
            name=name,
            settings=self._methods[name],
            epochs=tuple(entries.epochs),
            steps=tuple(entries.steps),
            **tensors,
            sample_ids=self._ids,
            inputs=self._pictures.inputs(name),
            labels=facts.labels,
            class_names=facts.class_names,
            available=tuple(i for i, number in enumerate(entries.numbers) if number in strip.kept),
            maps=maps,
            scale=strip.color_scale,
            signed=strip.signed,
            top_share=self._shares[name],
            when_zero=facts.when_zero,
            score_name=facts.score_name,
        )


def _alarm(entry: Mapping[str, Any]) -> AlarmRecord | None:
    return alarm_of(entry["series"], entry["reference"], int(entry["step"]), entry["text"])


def _free(path: Path) -> Path:
    """Return the path, or another one beside it if there is a page of an earlier fit."""
    found, number = path, 0
    while found.exists() or found.with_suffix(".json").exists():
        number += 1
        found = path.with_name(f"{path.stem}_{number}{path.suffix}")
    return found
