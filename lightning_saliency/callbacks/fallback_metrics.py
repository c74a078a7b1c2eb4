"""What is monitored has a value before anything was measured, and it is the worst there is.

EarlyStopping, ModelCheckpoint and learning rate schedulers end the run if what they monitor is not
there. A first explanation has nothing to be compared with, and one can fail. The value that stands
in is not logged, and nothing is stopped, kept or slowed down for it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from lightning_saliency.callbacks.failures import warn
from lightning_saliency.callbacks.run_context import RunContext
from lightning_saliency.callbacks.tags import worst_value


@dataclass(frozen=True)
class _Watcher:
    """Who monitors a number, and what it hopes for.

    Attributes:
        tag: of the number.
        mode: ``"min"`` or ``"max"``.
        keeps: whether it is a ModelCheckpoint.
        divergence: the value beyond which it ends the run; None if there is none.
    """

    tag: str
    mode: str
    keeps: bool
    divergence: float | None


class FallbackMetrics:
    """Gives a value to what is monitored and has never been measured."""

    def __init__(self) -> None:
        self._warned: set[str] = set()

    def set(self, context: RunContext, is_ours: Callable[[str], bool]) -> None:
        """Set the values that are missing.

        Args:
            context: of the run.
            is_ours: whether a number will be measured under a tag, sooner or later.
        """
        metrics = context.trainer.callback_metrics
        by_tag: dict[str, list[_Watcher]] = {}
        for watcher in _watchers(context):
            if watcher.tag not in metrics and is_ours(watcher.tag):
                by_tag.setdefault(watcher.tag, []).append(watcher)
        for tag, watchers in by_tag.items():
            mode = next((each.mode for each in watchers if each.keeps), watchers[0].mode)
            if any(each.mode != mode for each in watchers) and tag not in self._warned:
                self._warned.add(tag)
                warn(
                    f"'{tag}' is monitored with mode='min' and with mode='max'. As long as it has "
                    f"not been measured it has the worst value for mode='{mode}', which is the "
                    "best for the other."
                )
            limits = [
                each.divergence
                for each in watchers
                if each.mode == mode and each.divergence is not None
            ]
            # The one that is reached last: a value beyond it would end the run.
            limit = None if not limits else (max if mode == "max" else min)(limits)
            metrics[tag] = torch.tensor(worst_value(tag, mode, limit), device=context.device)


def _watchers(context: RunContext) -> Iterator[_Watcher]:
    for callback in context.callbacks:
        found: Any = callback
        tag, mode = getattr(found, "monitor", None), getattr(found, "mode", None)
        if isinstance(tag, str):
            divergence = getattr(found, "divergence_threshold", None)
            yield _Watcher(tag, _mode(mode), hasattr(found, "save_top_k"), divergence)
    for config in getattr(context.trainer, "lr_scheduler_configs", ()):
        if isinstance(config.monitor, str):
            mode = getattr(config.scheduler, "mode", None)
            yield _Watcher(config.monitor, _mode(mode), False, None)


def _mode(mode: object) -> str:
    return "max" if mode == "max" else "min"
