"""The numbers of an explanation: how far the maps have moved, and what they lie on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import lightning.pytorch as pl
from torch import Tensor

from lightning_saliency.attribution.method import AttributionMethod
from lightning_saliency.callbacks.explanation.areas import area_numbers
from lightning_saliency.callbacks.explanation.explain import Explanation
from lightning_saliency.callbacks.measurement.drift import DriftTracker, Moved
from lightning_saliency.callbacks.measurement.locate import locate
from lightning_saliency.callbacks.measurement.references import best_score
from lightning_saliency.callbacks.measurement.value_tags import value_tag
from lightning_saliency.metrics.localization import region_area

__all__ = ["OneByOne", "measure"]

OneByOne: TypeAlias = dict[str, tuple[Moved, dict[str, Tensor]]]
"""For each series, how far its samples have moved, and what their maps lie on."""


def measure(
    prefix: str,
    explanations: Mapping[str, Explanation],
    regions: Mapping[str, Tensor],
    drift: Mapping[str, DriftTracker],
    methods: Mapping[str, AttributionMethod],
    trainer: pl.Trainer,
) -> tuple[dict[str, float], OneByOne]:
    """Measure the explanations, and take them as the next previous ones.

    Args:
        prefix: stands before all tags.
        explanations: by series.
        regions: by name, bool, (N, 1, H, W).
        drift: by series, with the references.
        methods: by series, that the maps are from.
        trainer: of the run.

    Returns:
        Numbers by tag, and what they are means of.
    """
    numbers: dict[str, float] = {}
    one_by_one: OneByOne = {}
    for name, region in regions.items():
        area = region_area(region)[region.flatten(1).any(1)].mean()
        numbers[f"{prefix}saliency_region_area/{name}"] = float(area)
    for series, explanation in explanations.items():
        located = locate(explanation.saliency, regions, methods[series])
        moved = drift[series].measure(explanation, trainer.current_epoch, best_score(trainer))
        values = moved.numbers | {what: float(v.nanmean()) for what, v in located.items()}
        if explanation.areas is not None:
            values |= area_numbers(explanation.areas)
        numbers.update({prefix + value_tag(series, what): value for what, value in values.items()})
        one_by_one[series] = moved, located
    return numbers, one_by_one
