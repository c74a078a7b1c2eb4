"""How faithful the explanations of the samples are."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import lightning.pytorch as pl
from torch import Tensor

from lightning_saliency.callbacks.explanation.explained import Explained
from lightning_saliency.callbacks.explanation.faults import Fault
from lightning_saliency.callbacks.explanation.forward import explained_model
from lightning_saliency.callbacks.explanation.ready import make_ready
from lightning_saliency.callbacks.monitor import Monitor
from lightning_saliency.callbacks.samples.shares import attempt, gather_shares, numbers_of_this_rank
from lightning_saliency.metrics.faithfulness import Faithfulness
from lightning_saliency.trust.faithfulness import measure_faithfulness

__all__ = ["faithfulness_numbers"]


def faithfulness_numbers(
    monitor: Monitor,
    explained: Explained,
    measures: Sequence[str],
    trainer: pl.Trainer,
    pl_module: pl.LightningModule,
) -> dict[str, float] | Fault:
    """Measure the explanations, each process those of its share of the samples.

    Every process makes the same number of passes of the model.

    Args:
        monitor: has explained the samples.
        explained: what it found.
        measures: names of :data:`~lightning_saliency.metrics.FAITHFULNESS`.
        trainer: of the run.
        pl_module: the module that was explained, with the same weights.

    Returns:
        Means over the samples by tag, ``saliency_faithfulness/<series>/<measure>`` after the
        callback's name; the same on all processes. Or what went wrong.
    """
    samples = explained.samples
    model = explained_model(pl_module, monitor.forward)
    mine = numbers_of_this_rank(len(samples), trainer)

    def compute() -> dict[str, dict[str, Tensor]]:
        with ExitStack() as stack:
            images = make_ready(stack, model, samples, trainer, pl_module).images
            return {
                series: measure_faithfulness(
                    model,
                    images,
                    explanation.saliency[mine].to(images.device),
                    explanation.target[mine].to(images.device),
                    measures,
                )
                for series, explanation in explained.explanations.items()
            }

    measured = attempt(compute, trainer)
    if isinstance(measured, Fault):
        return measured
    found: dict[str, float] = {}
    for series, values in measured.items():
        mean = Faithfulness(measures, sync_on_compute=False)
        mean.update({n: gather_shares(v, len(samples), trainer).cpu() for n, v in values.items()})
        for name, value in mean.compute().items():
            if name in measures:
                found[f"{monitor.prefix}saliency_faithfulness/{series}/{name}"] = float(value)
    # What is monitored must be the same everywhere, on unlike machines too.
    same: dict[str, float] = trainer.strategy.broadcast(found)
    return same
