"""Do the maps of the samples depend on the weights? A check on a copy of the module."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from itertools import product

import lightning.pytorch as pl
import torch
from torch import Tensor

from lightning_saliency.callbacks.explanation.explain import chosen_classes, predict
from lightning_saliency.callbacks.explanation.faults import Fault
from lightning_saliency.callbacks.explanation.forward import explained_model
from lightning_saliency.callbacks.explanation.ready import make_ready
from lightning_saliency.callbacks.monitor import Monitor
from lightning_saliency.callbacks.samples.sample_set import SampleSet
from lightning_saliency.callbacks.samples.shares import attempt, gather_shares
from lightning_saliency.network.random_weights import copy_of, preserved_weights
from lightning_saliency.trust.sanity import SanityCheck, check_copy

__all__ = ["copied_module", "sanity_checks", "sanity_numbers"]


def copied_module(pl_module: pl.LightningModule) -> pl.LightningModule:
    """Return a copy of the module whose weights may be spoilt.

    Args:
        pl_module: is not changed.

    Raises:
        ModelError: it cannot be copied.
    """
    copy = copy_of(pl_module)
    # Lightning leaves the trainer out of a copy, but the module's own code may look at it.
    if pl_module._trainer is not None:
        copy.trainer = pl_module.trainer
    if getattr(copy, "_compiler_ctx", None) is not None:
        # A module that was compiled as a whole has methods that are bound to the original.
        for name in ("forward", "training_step", "validation_step", "test_step", "predict_step"):
            copy.__dict__.pop(name, None)
    return copy


def sanity_checks(
    monitor: Monitor, samples: SampleSet, trainer: pl.Trainer, pl_module: pl.LightningModule
) -> dict[str, list[SanityCheck]] | Fault:
    """Check the methods of a callback, each process on its share of the samples.

    Every process gives its copy the same random weights.

    Args:
        monitor: explains the samples.
        samples: all of them.
        trainer: of the run.
        pl_module: the module that is explained; it is not changed.

    Returns:
        For each series two checks, cascading and independent, with the similarities of all samples
        and this process's maps. Or what went wrong.
    """

    def compute() -> dict[str, list[SanityCheck]]:
        copy = copied_module(pl_module)
        model = explained_model(copy, monitor.forward)
        checks: dict[str, list[SanityCheck]] = {}
        with ExitStack() as stack:
            mine = make_ready(stack, model, samples, trainer, copy)
            logits = predict(model, mine.images)
            followed = product(monitor.methods, monitor.choices)
            for series, (entry, choice) in zip(monitor.series, followed, strict=True):
                method, target = entry.method, chosen_classes(mine, logits, choice)
                with preserved_weights(copy):
                    # The second leaves the copy with random weights.
                    alone = check_copy(model, method, mine.images, target, "independent")
                    together = check_copy(model, method, mine.images, target, "cascading")
                checks[series] = [together, alone]
        return checks

    found = attempt(compute, trainer)
    if isinstance(found, Fault):
        return found
    return {
        series: [_of_all(check, len(samples), trainer) for check in checks]
        for series, checks in found.items()
    }


def sanity_numbers(checks: Mapping[str, list[SanityCheck]]) -> dict[str, float]:
    """Return the means by tag.

    Args:
        checks: from :func:`sanity_checks`.

    Returns:
        ``saliency_sanity/<series>/<order>/<measure>``, over the samples and the stages; and
        ``saliency_sanity/<series>/all_random/<measure>``, over the samples, with random weights in
        all layers.
    """
    numbers: dict[str, float] = {}
    for series, some in checks.items():
        for check in some:
            for name, values in check.similarity.items():
                tag = f"saliency_sanity/{series}"
                numbers[f"{tag}/{check.order}/{name}"] = float(values.nanmean())
                if check.order == "cascading":
                    numbers[f"{tag}/all_random/{name}"] = float(values[:, -1].nanmean())
    return numbers


def _of_all(check: SanityCheck, count: int, trainer: pl.Trainer) -> SanityCheck:
    """Return the check with the similarities of all processes' samples."""
    if trainer.world_size == 1:
        return check
    measures = [name for name in check.similarity if not name.endswith("_abs")]
    # Negative values may lie in the maps of one process alone.
    signed = torch.tensor(int(len(check.similarity) > len(measures)))
    signed = trainer.strategy.all_gather(signed.to(trainer.strategy.root_device))
    names = [*measures, *(f"{name}_abs" for name in measures if bool(signed.any()))]

    def gathered(name: str) -> Tensor:
        # Of maps without a sign, the magnitudes are the maps.
        part = check.similarity.get(name, check.similarity[name.removesuffix("_abs")])
        return gather_shares(part, count, trainer).cpu()

    return SanityCheck(
        check.order, check.stages, {name: gathered(name) for name in names}, check.maps
    )
