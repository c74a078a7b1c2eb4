"""What a report says of a run beside its maps: module, images, classes, settings, versions."""

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from lightning_saliency.callbacks.explanation import ExplanationRound
from lightning_saliency.callbacks.run_context import RunContext
from lightning_saliency.callbacks.samples.batch import known_labels
from lightning_saliency.history.map_files import SeriesFacts


def about_run(
    context: RunContext, round: ExplanationRound, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what is known of the run, as plain values.

    Args:
        context: of the run.
        round: one of its explanations.
        settings: of the callback, as plain values.
    """
    trainer, module = context.trainer, context.pl_module
    channels, height, width = round.samples.images.shape[1:]
    return {
        "module": type(module).__name__,
        "image": f"{height} x {width} pixels, {channels} channels",
        "parameters": sum(weights.numel() for weights in module.parameters()),
        "precision": str(trainer.precision),
        "processes": trainer.world_size,
        "drift_alarm": is_watched(context),
        "callback": dict(settings),
        "versions": {name: _version(name) for name in ("torch", "lightning", "lightning-saliency")},
    }


def is_watched(context: RunContext) -> bool:
    """Whether a DriftAlarm is among the run's callbacks."""
    # By name, because it knows the callback that asks.
    return any(
        kind.__name__ == "DriftAlarm" for each in context.callbacks for kind in type(each).__mro__
    )


def facts_of(
    round: ExplanationRound,
    series: str,
    class_names: tuple[str, ...] | None,
    run: Mapping[str, Any],
) -> SeriesFacts:
    """Return what is known of a series' samples and maps.

    Args:
        round: one of its explanations.
        series: for instance ``"grad_cam"``.
        class_names: of all classes; None if they were not given.
        run: see :func:`about_run`.
    """
    method, found = round.series[series].method, round.explanations[series]
    return SeriesFacts(
        labels=known_labels(round.samples.labels),
        class_names=class_names,
        has_offset=method.has_offset,
        when_zero=method.when_zero,
        score_name=found.score_name,
        run=run,
    )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed as a package"
