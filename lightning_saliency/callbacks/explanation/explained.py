"""What a saliency callback has found at one time, for other callbacks that follow it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import lightning.pytorch as pl

from lightning_saliency.callbacks.explanation.explain import Explanation
from lightning_saliency.callbacks.measurement.references import References
from lightning_saliency.callbacks.neighbours import callbacks_of

if TYPE_CHECKING:
    from lightning_saliency.callbacks.saliency import SaliencyCallback
    from lightning_saliency.callbacks.samples.sample_set import SampleSet

__all__ = ["Explained", "tell"]


@dataclass(frozen=True)
class Explained:
    """One explanation of all samples by all methods, the same on all processes.

    A series is one method and one choice of class, such as ``"grad_cam"`` or
    ``"grad_cam/predicted"``.

    Attributes:
        epoch: of the run.
        step: at which the numbers and pictures of this explanation stand.
        samples: as the model takes them.
        explanations: by series.
        references: by series, what the maps were compared with.
        values: the numbers, by the tags under which they are logged.
    """

    epoch: int
    step: int
    samples: SampleSet
    explanations: Mapping[str, Explanation]
    references: Mapping[str, References]
    values: Mapping[str, float]


def tell(
    trainer: pl.Trainer,
    pl_module: pl.LightningModule,
    source: SaliencyCallback,
    explained: Explained,
) -> None:
    """Tell every callback of the trainer that listens, wherever it stands in the list.

    A callback listens if it has a method ``on_explained`` with these four arguments. It is called
    on all processes, in the hook in which the explanation was made, so that it can log.

    Args:
        trainer: of the run.
        pl_module: the module that was explained.
        source: the callback that explained it.
        explained: what it found.
    """
    for callback in callbacks_of(trainer):
        hear = getattr(callback, "on_explained", None)
        if hear is not None:
            hear(trainer, pl_module, source, explained)
