"""When a callback looks whether its maps deserve trust, and what it logs of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl

from lightning_saliency.callbacks.explanation.explained import Explained
from lightning_saliency.callbacks.explanation.faults import Fault
from lightning_saliency.callbacks.measurement.faithful import faithfulness_numbers
from lightning_saliency.callbacks.measurement.sane import (
    copied_module,
    sanity_checks,
    sanity_numbers,
)
from lightning_saliency.callbacks.monitor import Monitor
from lightning_saliency.callbacks.record.log_explanation import log_numbers
from lightning_saliency.callbacks.samples.shares import attempt
from lightning_saliency.callbacks.schedule.allowance import has_room
from lightning_saliency.errors import InputError
from lightning_saliency.loggers import log_image, log_scalars, takes_images
from lightning_saliency.trust.checks import TrustChecks
from lightning_saliency.trust.sanity import SanityCheck
from lightning_saliency.trust.sanity_figure import figure_pixels, sanity_figure

if TYPE_CHECKING:
    from lightning_saliency.callbacks.saliency import SaliencyCallback

__all__ = ["TrustRun"]

# As it is named in reports.
_FAITHFULNESS = "faithfulness"


class TrustRun:
    """The checks of one callback in one run.

    Args:
        checks: what to look for, and when; None for nothing.

    Raises:
        InputError: ``checks`` is something else.
    """

    def __init__(self, checks: TrustChecks | None) -> None:
        if not isinstance(checks, TrustChecks | None):
            raise InputError(
                "Expected trust to be TrustChecks(faithfulness=['insertion', 'deletion'], ...) or "
                f"None, got {checks!r}."
            )
        self.checks = checks or TrustChecks()
        self._checked = False
        self._last: Explained | None = None

    def prepare(self, pl_module: pl.LightningModule) -> None:
        """Make sure that the module can be copied, if it will have to be.

        Args:
            pl_module: the module that is explained.

        Raises:
            ModelError: it cannot.
        """
        if self.checks.sanity_check is not False and not self._checked:
            copied_module(pl_module)

    def after(
        self,
        explained: Explained,
        callback: SaliencyCallback,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
    ) -> None:
        """Measure and check what is due with an explanation.

        Args:
            explained: what was just found.
            callback: found it.
            trainer: of the run.
            pl_module: the module that was explained.
        """
        self._last = explained
        measures, faults = self.checks.faithfulness, callback.faults
        due = measures and (callback.budget.made - 1) % self.checks.every == 0
        if due and not faults.gave_up(_FAITHFULNESS) and has_room(callback.budget, trainer):
            with callback.budget.spending():
                found = faithfulness_numbers(
                    callback.monitor, explained, measures, trainer, pl_module
                )
            if isinstance(found, Fault):
                faults.settle({_FAITHFULNESS: found}, trainer.current_epoch)
            else:
                faults.settle({_FAITHFULNESS: None}, trainer.current_epoch)
                log_numbers(pl_module, found, len(explained.samples))
        if self._is_due(trainer):
            self._check(explained, callback, trainer, pl_module)

    def at_the_end(
        self, callback: SaliencyCallback, trainer: pl.Trainer, pl_module: pl.LightningModule
    ) -> None:
        """Make the sanity check when training ends, if it is wanted then.

        Args:
            callback: explains the samples.
            trainer: of the run.
            pl_module: the module, with the weights that it ends with.
        """
        if self.checks.sanity_check is True and self._last is not None:
            self._check(self._last, callback, trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Return whether the sanity check was made."""
        return {"checked": self._checked}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Do not make the sanity check of an epoch again.

        Args:
            state: from :meth:`state_dict`.
        """
        self._checked = state["checked"]

    def _is_due(self, trainer: pl.Trainer) -> bool:
        wanted = self.checks.sanity_check
        if wanted is True:
            # Outside of training there is one explanation, and it is the last.
            return trainer.state.fn != "fit"
        return wanted is not False and not self._checked and trainer.current_epoch >= wanted

    def _check(
        self,
        explained: Explained,
        callback: SaliencyCallback,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
    ) -> None:
        self._checked = True
        with callback.budget.spending():
            checks = sanity_checks(callback.monitor, explained.samples, trainer, pl_module)
            done: dict[str, list[SanityCheck]] = {} if isinstance(checks, Fault) else checks
            drawn = attempt(lambda: _log(done, explained, callback.monitor, trainer), trainer)
        fault = next((f for f in (checks, drawn) if isinstance(f, Fault)), None)
        callback.faults.settle({"sanity check": fault}, trainer.current_epoch)


def _log(
    checks: Mapping[str, list[SanityCheck]],
    explained: Explained,
    monitor: Monitor,
    trainer: pl.Trainer,
) -> None:
    if not trainer.is_global_zero:
        return
    # Not through the module, which logs nothing when training has ended.
    numbers = {monitor.prefix + tag: value for tag, value in sanity_numbers(checks).items()}
    for logger in trainer.loggers:
        log_scalars(logger, numbers, explained.step)
    loggers = [logger for logger in trainer.loggers if takes_images(logger)]
    if loggers:
        first = monitor.pictures.show(explained.samples.images[:1])[0]
        for series, some in checks.items():
            picture = figure_pixels(sanity_figure(some, first, series))
            for logger in loggers:
                tag = f"{monitor.prefix}saliency_sanity/{series}"
                log_image(logger, tag, picture, explained.step)
