"""Compare the maps of two runs, epoch by epoch."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from os import PathLike
from pathlib import Path
from typing import Literal

import torch

from lightning_saliency.errors import InputError
from lightning_saliency.history.comparison import Comparison, NoiseFloor
from lightning_saliency.history.load import SavedMaps, load_maps, series_folders
from lightning_saliency.metrics.drift import chance_drift, mean_drift, sample_drift
from lightning_saliency.metrics.map_similarity import MEASURES
from lightning_saliency.metrics.map_statistics import canonical

# Three pairs: with fewer nothing can be said of their spread.
_FEWEST_SEEDS = 3


def compare(
    run_a: str | PathLike[str],
    run_b: str | PathLike[str],
    series: str | None = None,
    match: Literal["content", "order"] = "content",
    seeds: Sequence[str | PathLike[str]] = (),
) -> Comparison:
    """Compare the maps of two runs on the same samples.

    Both runs need maps on disk, written by callbacks with ``save_maps=True``. Epochs that only one
    of them has are skipped; of several explanations in one epoch the last counts.

    Args:
        run_a: folder of the first run, see :func:`~lightning_saliency.history.load_maps`.
        run_b: folder of the second run.
        series: the ``<method>`` of the tags, for instance ``"grad_cam"`` or
            ``"grad_cam/predicted"``; None for the only one that both runs have.
        match: ``"content"`` compares samples whose images are the same in both runs, in any order,
            and skips the others; ``"order"`` pairs the samples by their position, for runs that
            preprocess the same images differently.
        seeds: at least three runs of one recipe that differ in their seed alone: how much each two
            of them differ is what a difference between the two runs is measured by.

    Returns:
        The comparison; print it, or draw its ``figure()``.

    Raises:
        InputError: there are no maps, or the runs have no series, epoch or sample in common;
            or there are too few seeds.
    """
    if match not in ("content", "order"):
        raise InputError(f"Expected match to be 'content' or 'order', got {match!r}.")
    if seeds:
        return _beside_seeds(run_a, run_b, series, match, seeds)
    series = _common_series(run_a, run_b) if series is None else series
    one, other = load_maps(run_a, series), load_maps(run_b, series)
    epochs = sorted(set(one.epochs.tolist()) & set(other.epochs.tolist()))
    if not epochs:
        raise InputError(
            f"Expected epochs that both runs have explained, got {_span(one)} in {run_a} and "
            f"{_span(other)} in {run_b}."
        )
    samples = _pairs(one, other, match)
    size = min(64, *one.maps.shape[-2:], *other.maps.shape[-2:])
    maps, predicted = [], []
    for run, which in zip((one, other), samples, strict=True):
        rows = _last_of(run, epochs)
        maps.append(torch.stack([canonical(run.maps[row, which], size) for row in rows]))
        predicted.append(run.predicted[rows][:, which])
    each = [sample_drift(b, a, size) for a, b in zip(*maps, strict=True)]
    means = [mean_drift(values) for values in each]
    chance = mean_drift(chance_drift(maps[0][-1], size))
    table = {name: torch.stack([mean[name] for mean in means]) for name in means[0]}
    table["disagree"] = (predicted[0] != predicted[1]).float().mean(1)
    return Comparison(
        series=series,
        names=_names(run_a, run_b),
        epochs=torch.tensor(epochs),
        table=table,
        chance={name: float(chance[name]) for name in MEASURES},
        per_sample={name: torch.stack([values[name] for values in each]) for name in MEASURES},
        sample_ids=tuple(one.sample_ids[index] for index in samples[0]),
        maps=(maps[0], maps[1]),
        pictures=None if one.pictures is None else one.pictures[samples[0]],
    )


def _beside_seeds(
    run_a: str | PathLike[str],
    run_b: str | PathLike[str],
    series: str | None,
    match: Literal["content", "order"],
    seeds: Sequence[str | PathLike[str]],
) -> Comparison:
    different = list(dict.fromkeys(Path(each).resolve() for each in seeds))
    if len(different) < _FEWEST_SEEDS:
        raise InputError(
            f"Expected at least {_FEWEST_SEEDS} different runs as seeds, to see how much runs of "
            f"one recipe differ, got {len(different)}."
        )
    between = compare(run_a, run_b, series, match)
    pairs = [compare(*pair, between.series, match) for pair in combinations(different, 2)]
    common = set(between.epochs.tolist()).intersection(*(each.epochs.tolist() for each in pairs))
    if not common:
        raise InputError(
            f"Expected epochs that all of the {len(different)} seeds and both runs have explained, "
            "found none."
        )
    between = between.at_epochs(sorted(common))
    rows = [each.at_epochs(sorted(common)).table for each in pairs]
    each_measure = {name: torch.stack([row[name] for row in rows]) for name in between.table}
    return replace(
        between,
        floor=NoiseFloor(
            len(pairs),
            {name: values.mean(0) for name, values in each_measure.items()},
            {name: values.std(0) for name, values in each_measure.items()},
        ),
    )


def _common_series(run_a: str | PathLike[str], run_b: str | PathLike[str]) -> str:
    have = [series_folders(run) for run in (run_a, run_b)]
    common = sorted(have[0].keys() & have[1].keys())
    if len(common) == 1:
        return common[0]
    if not common:
        raise InputError(
            f"Expected a series that both runs have, got {sorted(have[0])} in {run_a} and "
            f"{sorted(have[1])} in {run_b}."
        )
    raise InputError(f"Expected series to be one of {common}, which both runs have, got None.")


def _pairs(one: SavedMaps, other: SavedMaps, match: str) -> tuple[list[int], list[int]]:
    """Return which samples of the one run and of the other are compared with each other."""
    if match == "order":
        if len(one.digests) != len(other.digests):
            raise InputError(
                "Expected as many samples in both runs to compare them in order, got "
                f"{len(one.digests)} and {len(other.digests)}."
            )
        return list(range(len(one.digests))), list(range(len(other.digests)))
    places = {digest: index for index, digest in enumerate(other.digests)}
    pairs = [(i, places[digest]) for i, digest in enumerate(one.digests) if digest in places]
    if not pairs:
        raise InputError(
            "Expected samples that both runs have explained, but no picture is the same in both. "
            "If they are the same images, prepared differently, compare them in order: "
            "match='order'."
        )
    firsts, seconds = zip(*pairs, strict=True)
    return list(firsts), list(seconds)


def _last_of(run: SavedMaps, epochs: Sequence[int]) -> list[int]:
    last = {epoch: row for row, epoch in enumerate(run.epochs.tolist())}
    return [last[epoch] for epoch in epochs]


def _names(run_a: str | PathLike[str], run_b: str | PathLike[str]) -> tuple[str, str]:
    """Return the parts of the paths in which they differ."""
    parts = [list(Path(run).resolve().parts) for run in (run_a, run_b)]
    while len(parts[0]) > 1 and len(parts[1]) > 1 and parts[0][-1] == parts[1][-1]:
        parts = [part[:-1] for part in parts]
    return parts[0][-1], parts[1][-1]


def _span(run: SavedMaps) -> str:
    return f"epochs {int(run.epochs.min())} to {int(run.epochs.max())}"
