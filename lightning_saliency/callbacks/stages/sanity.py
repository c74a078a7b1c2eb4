"""Do the maps of the samples depend on the weights? A check on a copy of the module."""

from collections.abc import Mapping
from itertools import product
from typing import Any, ClassVar

import lightning.pytorch as pl
from torch import Tensor
from typing_extensions import override

from lightning_saliency.callbacks.explainer import Explainer, isolated_share
from lightning_saliency.callbacks.explanation import ExplanationRound
from lightning_saliency.callbacks.forward import explained_model
from lightning_saliency.callbacks.method_call import chosen_classes, logits_of, predict
from lightning_saliency.callbacks.run_context import RunContext
from lightning_saliency.callbacks.samples.sample_set import SampleSet
from lightning_saliency.callbacks.stage_runner import Stage
from lightning_saliency.errors import InputError
from lightning_saliency.network.random_weights import copy_of, preserved_weights
from lightning_saliency.trust.sanity import SanityCheck, check_copy
from lightning_saliency.trust.sanity_figure import figure_pixels, sanity_figure


class SanityStage(Stage):
    """Compares the maps with those of random weights, once in a run, and logs numbers and figure.

    Args:
        explainer: of the callback.
        when: the epoch from which on it is made; True for the end of training, False for never.
        prefix: stands before all tags.

    Attributes:
        at_the_end: whether it is made when training ends.
    """

    name: ClassVar[str] = "sanity check"

    def __init__(self, explainer: Explainer, when: bool | int, prefix: str) -> None:
        self._explainer = explainer
        self._when = when
        self._prefix = prefix
        self._is_done = False
        self.at_the_end = when is True

    @override
    def prepare(self, context: RunContext, probe: SampleSet) -> None:
        self.check_module(context.pl_module)

    def check_module(self, pl_module: pl.LightningModule) -> None:
        """Check that the module can be copied.

        Raises:
            ModelError: it cannot.
        """
        if not self._is_done:
            copied_module(pl_module)

    @override
    def is_due(self, context: RunContext, round: ExplanationRound) -> bool:
        # Outside of training there is one explanation, and it is the last.
        if self.at_the_end:
            return not context.follows_fit
        return not self._is_done and context.epoch >= self._when

    @override
    def run(self, context: RunContext, round: ExplanationRound) -> None:
        self._is_done = True
        found = context.require(lambda: self._check(context, round.samples))
        count = len(round.samples)
        checks = {
            series: [_of_all_processes(check, count, context) for check in some]
            for series, some in found.items()
        }
        context.require(lambda: self._log(context, round, checks))

    def state_dict(self) -> dict[str, Any]:
        """Return whether the check was made."""
        return {"checked": self._is_done}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Do not make the check of an epoch again."""
        self._is_done = bool(state["checked"])

    def _check(self, context: RunContext, samples: SampleSet) -> dict[str, list[SanityCheck]]:
        """Check each series twice on this process's samples, cascading and independent.

        Every process gives its copy the same random weights.
        """
        copy = copied_module(context.pl_module)
        model = explained_model(copy, self._explainer.forward)
        checks: dict[str, list[SanityCheck]] = {}
        choices = self._explainer.choices
        with isolated_share(context, model, samples, copy) as mine:
            if mine.inputs:
                raise InputError(
                    "Expected a module of images alone for the sanity check, but unpack hands on "
                    "further inputs. Leave it out: TrustChecks(sanity_check=False)."
                )
            logits = logits_of(predict(model, mine.images, choices), choices)
            followed = product(self._explainer.methods, choices)
            for series, (entry, choice) in zip(self._explainer.series, followed, strict=True):
                method, target = entry.method, chosen_classes(mine, logits, choice)
                with preserved_weights(copy):
                    # The second leaves the copy with random weights.
                    alone = check_copy(model, method, mine.images, target, "independent")
                    together = check_copy(model, method, mine.images, target, "cascading")
                checks[series] = [together, alone]
        return checks

    def _log(
        self,
        context: RunContext,
        round: ExplanationRound,
        checks: Mapping[str, list[SanityCheck]],
    ) -> None:
        if not context.is_rank_zero:
            return
        # Not through the module, which logs nothing when training has ended.
        numbers = {self._prefix + tag: value for tag, value in sanity_numbers(checks).items()}
        for adapter in context.adapters():
            adapter.scalars(numbers, round.step)
        adapters = [adapter for adapter in context.adapters() if adapter.takes_images]
        if adapters:
            first = round.pictures.show(round.samples.images[:1])[0]
            for series, some in checks.items():
                picture = figure_pixels(sanity_figure(some, first, series))
                for adapter in adapters:
                    tag = f"{self._prefix}saliency/sanity/{series}"
                    adapter.image(tag, picture, round.step)


def copied_module(pl_module: pl.LightningModule) -> pl.LightningModule:
    """Return a copy of the module whose weights may be overwritten.

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


def sanity_numbers(checks: Mapping[str, list[SanityCheck]]) -> dict[str, float]:
    """Return the means by tag.

    Args:
        checks: by series.

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


def _of_all_processes(check: SanityCheck, count: int, context: RunContext) -> SanityCheck:
    """Return the check with the similarities of all processes' samples."""
    if context.trainer.world_size == 1:
        return check
    measures = [name for name in check.similarity if not name.endswith("_abs")]
    # Negative values may lie in the maps of one process alone.
    signed = context.any_process(len(check.similarity) > len(measures))
    names = [*measures, *(f"{name}_abs" for name in measures if signed)]

    def gathered(name: str) -> Tensor:
        # Of maps without a sign, the magnitudes are the maps.
        part = check.similarity.get(name, check.similarity[name.removesuffix("_abs")])
        return context.gather_shares(part, count).cpu()

    return SanityCheck(
        check.order, check.stages, {name: gathered(name) for name in names}, check.maps
    )
