"""From the folder of a run to what its report is made of."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_saliency.history.load import maps_folder, one_by_one, series_folders, series_pictures
from lightning_saliency.history.map_files import MapFile, SeriesFacts, map_files, read_maps
from lightning_saliency.image.saliency_map import degenerate
from lightning_saliency.metrics.map_statistics import canonical
from lightning_saliency.metrics.movement import movement
from lightning_saliency.rendering import ColorScale, color_scale
from lightning_saliency.rendering.pixels import fit_cell, resized
from lightning_saliency.reporting.logs import Logs, read_logs
from lightning_saliency.reporting.record import RunRecord, SeriesRecord, top_share

# Side of the inputs.
_SMALL = 160


def read_run(run: Path) -> RunRecord:
    """Read the saved maps of a run, one after the other, and what its loggers have left.

    Args:
        run: see :func:`~lightning_saliency.history.load_maps`.

    Raises:
        InputError: there are no maps, more than one run, or a file cannot be used.
    """
    folders = series_folders(run)
    root = maps_folder(run)
    logs = read_logs(root.parent)
    series = {name: _read_series(name, folder) for name, folder in folders.items()}
    about = {name: found.facts for name, (_, found) in series.items()}
    facts = next((dict(each.run) for each in about.values() if each.run), {})
    known = facts.get("drift_alarm")
    return RunRecord(
        title=title_of(root.parent),
        series={name: record for name, (record, _) in series.items()},
        loss=logs.loss(),
        alarms=tuple(sorted(logs.alarms.values(), key=lambda alarm: (alarm.step, alarm.series))),
        is_watched=logs.is_watched or (known if isinstance(known, bool) else None),
        run=facts,
        notes=tuple(_notes(about, logs)),
    )


def _notes(about: Mapping[str, SeriesFacts], logs: Logs) -> list[str]:
    said = list(dict.fromkeys(logs.notes))
    if not logs.scalars:
        said.append(
            "no event file and no metrics.csv lies next to the maps: loss and alarms are missing"
        )
    if any(facts.labels is None for facts in about.values()):
        said.append("the right classes were not saved: which samples are wrong is not known")
    return said


def title_of(folder: Path) -> str:
    """Return what a run is called.

    Args:
        folder: of the run.
    """
    parts = folder.resolve().parts
    is_version = parts[-1].startswith("version_") and len(parts) > 2
    return "/".join(parts[-2:]) if is_version else parts[-1]


@dataclass
class _Numbers:
    """What is kept of each explanation of a series."""

    facts: SeriesFacts
    epochs: list[int] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    tensors: dict[str, list[Tensor]] = field(default_factory=dict)
    scale: ColorScale | None = None
    signed: bool = False
    last: Tensor | None = None

    def add(self, entry: MapFile) -> None:
        maps = canonical(entry.maps)
        moved = torch.full((len(maps),), torch.nan)
        if self.last is not None:
            moved = movement(self.last, maps).float()
        self.last = maps
        if self.scale is None:
            shown = evident(entry.maps, self.facts.has_offset)
            self.scale = color_scale(shown)
            if self.scale is not None:
                self.signed = bool((shown[~degenerate(shown)] < 0).any())
        self.epochs.append(entry.epoch)
        self.steps.append(entry.step)
        each = {
            "target": entry.target,
            "predicted": entry.predicted,
            "probability": entry.probability,
            "moved": moved,
            "empty": degenerate(maps),
        }
        for name, tensor in each.items():
            self.tensors.setdefault(name, []).append(tensor)


def _read_series(name: str, folder: Path) -> tuple[SeriesRecord, "_Numbers"]:
    paths = list(map_files(folder).values())
    first: MapFile | None = None
    numbers = _Numbers(SeriesFacts())
    pictures: Tensor | None = None
    for entry in one_by_one(folder):
        if first is None:
            first = entry
            pictures, numbers.facts = series_pictures(folder, entry.digests)
        numbers.add(entry)
    facts = numbers.facts

    def maps(index: int) -> Tensor:
        return canonical(evident(read_maps(paths[index]).maps, facts.has_offset))

    settings: Mapping[str, Any] = first.settings if first else {}
    tensors: dict[str, Any] = {name: torch.stack(each) for name, each in numbers.tensors.items()}
    record = SeriesRecord(
        name=name,
        settings=settings,
        epochs=tuple(numbers.epochs),
        steps=tuple(numbers.steps),
        **tensors,
        sample_ids=first.sample_ids if first else (),
        inputs=None if pictures is None else small(pictures),
        labels=facts.labels,
        class_names=facts.class_names,
        available=tuple(range(len(paths))),
        maps=maps,
        scale=numbers.scale or ColorScale(),
        signed=numbers.signed,
        top_share=top_share(maps(len(paths) - 1)),
        when_zero=facts.when_zero,
        score_name=facts.score_name,
    )
    return record, numbers


def evident(maps: Tensor, has_offset: bool) -> Tensor:
    """Return maps without what all of their pixels have, where that is no evidence.

    Args:
        maps: (N, 1, h, w).
        has_offset: whether there is such a thing.
    """
    return maps - maps.amin((2, 3), keepdim=True) if has_offset else maps


def small(pictures: Tensor) -> Tensor:
    """Return pictures (N, 3, H, W), uint8, in the size in which a report shows them at most."""
    size = fit_cell((pictures.shape[2], pictures.shape[3]), 1, _SMALL)
    return resized(pictures, size)
