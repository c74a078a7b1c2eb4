"""Make the module and this process's samples ready to be explained."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

import lightning.pytorch as pl
from torch import nn

from lightning_saliency.callbacks.explanation.one_method import abandoned_at_the_end
from lightning_saliency.callbacks.samples.sample_set import SampleSet
from lightning_saliency.callbacks.samples.shares import share_of_this_rank
from lightning_saliency.network.undisturbed import undisturbed

__all__ = ["as_the_model_takes_it", "make_ready"]


def make_ready(
    stack: ExitStack,
    model: nn.Module,
    samples: SampleSet,
    trainer: pl.Trainer,
    pl_module: pl.LightningModule,
) -> SampleSet:
    """Return this process's samples, ready to be explained.

    Args:
        stack: the module is undisturbed as long as this is open.
        model: is called to explain; the module, or a part or a view of it.
        samples: all of them.
        trainer: of the run.
        pl_module: the module that is explained.
    """
    mine = as_the_model_takes_it(share_of_this_rank(samples, trainer), trainer, pl_module)
    stack.enter_context(trainer.precision_plugin.forward_context())
    # The module's own flags too, where the model is only a part or a view of it.
    stack.enter_context(undisturbed(pl_module))
    stack.enter_context(abandoned_at_the_end(model, trainer))
    return mine


def as_the_model_takes_it(
    samples: SampleSet, trainer: pl.Trainer, pl_module: pl.LightningModule
) -> SampleSet:
    """Return samples on the module's device and in its precision.

    Args:
        samples: tensors that the user gave may have another precision than the model.
        trainer: knows the precision.
        pl_module: the module that is explained.
    """
    samples = samples.to(pl_module.device)
    return replace(samples, images=trainer.precision_plugin.convert_input(samples.images))
