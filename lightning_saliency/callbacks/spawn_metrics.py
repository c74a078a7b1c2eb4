"""Give the numbers back to the process that has spawned the training, without it hanging."""

import io
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from lightning_saliency.callbacks.failures import warn

# Of the 65536 that a pipe holds; some are left for what else is handed back.
_PIPE = 60_000
# About so many more for each number, if a validation run hands back its results, too.
_RESULT = 80


def shorten_handed_back_metrics(trainer: pl.Trainer) -> None:
    """Let ``trainer.callback_metrics`` fit into the pipe to the main process, where there is one.

    With ``strategy="ddp_spawn"`` or ``"ddp_notebook"``, Lightning trains in new processes. At the
    end the first of them writes the metrics to a pipe, and the main process does not read before
    that one has ended: more than the pipe holds, and both wait for ever. Each metric is saved as a
    storage of its own, of which the pipe holds about 200. Here all are put into one storage, so
    that it holds five times as many; what is too much then is left out.

    Args:
        trainer: at the end of its run.
    """
    metrics = trainer.callback_metrics
    limit = _PIPE - (0 if trainer.state.fn == "fit" else _RESULT * len(metrics))
    _into_one_storage(metrics)
    left_out = []
    ours = [tag for tag in metrics if "saliency_" in tag]
    while ours and _size(metrics) > limit:
        for tag in ours[-10:]:
            left_out.append(tag)
            del metrics[tag]
        del ours[-10:]
    if left_out:
        warn(
            f"{len(left_out)} numbers, for instance {min(left_out)}, will not be in "
            "trainer.callback_metrics of the main process: the pipe through which Lightning hands "
            'them back does not hold so many. They are logged; strategy="ddp" has no pipe.'
        )


def _into_one_storage(metrics: dict[str, Any]) -> None:
    """Replace numbers by equal ones that lie side by side."""
    apart = {
        tag: value
        for tag, value in metrics.items()
        if isinstance(value, Tensor) and value.dim() == 0 and value.dtype == torch.float32
    }
    if apart:
        together = torch.stack([value.detach().cpu() for value in apart.values()])
        metrics.update(zip(apart, together.unbind(), strict=True))


def _size(metrics: dict[str, Any]) -> int:
    file = io.BytesIO()
    torch.save(dict(metrics), file)
    return len(file.getvalue())
