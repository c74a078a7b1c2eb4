"""What a callback does when it explains: prepare, explain, measure, draw, log."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import lightning.pytorch as pl
from torch import Tensor

from lightning_saliency.attribution.method import AttributionMethod
from lightning_saliency.callbacks.explanation.explain import (
    Begun,
    ClassChoice,
    Explanation,
    NamedMethod,
    begin,
    chosen_classes,
    predict,
)
from lightning_saliency.callbacks.explanation.explained import Explained
from lightning_saliency.callbacks.explanation.faults import Fault
from lightning_saliency.callbacks.explanation.forward import Forward, explained_model, find_forward
from lightning_saliency.callbacks.explanation.one_method import OneMethod
from lightning_saliency.callbacks.explanation.ready import as_the_model_takes_it, make_ready
from lightning_saliency.callbacks.measurement.drift import DriftTracker
from lightning_saliency.callbacks.measurement.measure import OneByOne, measure
from lightning_saliency.callbacks.measurement.references import Pinned, References
from lightning_saliency.callbacks.record.log_explanation import log_numbers, log_pictures
from lightning_saliency.callbacks.record.pictures import Pictures
from lightning_saliency.callbacks.samples.regions import Regions
from lightning_saliency.callbacks.samples.sample_set import SampleSet
from lightning_saliency.callbacks.samples.shares import attempt, gather_shares, numbers_of_this_rank
from lightning_saliency.callbacks.schedule.progress import progress_shown
from lightning_saliency.network.undisturbed import undisturbed

__all__ = ["EVERYTHING", "Monitor", "NUMBERS", "Tried"]

# Parts of an explanation that can fail, beside the methods.
EVERYTHING, NUMBERS, PICTURES = "all methods", "numbers", "pictures"

Tried = dict[str, Fault | None]
"""For each part of an explanation that was tried, what went wrong, if anything."""


class Monitor:
    """The methods of one callback, their references and their pictures.

    A series is what is followed over the run: one method and one choice of class.

    Args:
        methods: with their names.
        choices: which classes are explained.
        forward: the user's own way to call the module.
        pictures: draws.
        regions: that the maps are measured on, besides those that come with the samples.
        pinned: which explanation is the pinned reference.
        warmup_epochs: before it is pinned.
        name: put before all tags.

    Attributes:
        is_prepared: whether the methods have been tried on a sample.
        pictures: as given.
        regions: as given.
        prefix: stands before all tags.
        drift: by series, with the references.
    """

    def __init__(
        self,
        methods: Sequence[NamedMethod],
        choices: Sequence[ClassChoice],
        forward: Forward | None,
        pictures: Pictures,
        regions: Regions,
        pinned: Pinned = "first",
        warmup_epochs: int = 0,
        name: str | None = None,
    ) -> None:
        self.methods = list(methods)
        self.choices = list(choices)
        self.forward = forward
        self.is_prepared = False
        self.pictures = pictures
        self.regions = regions
        self.prefix = f"{name}/" if name else ""
        self.drift = {
            series: DriftTracker(References(pinned, warmup_epochs)) for series in self.series
        }

    @property
    def tags(self) -> set[str]:
        """The beginnings of the tags that are written, each up to the sample or the measure."""
        families = self.series
        if len(families) > 1:
            families.append("compare")
        return {f"{self.prefix}saliency/{family}" for family in families}

    def method_of(self, series: str) -> AttributionMethod:
        """Return the method whose maps a series is of.

        Args:
            series: for instance ``"grad_cam/predicted"``.
        """
        return self._methods()[series]

    def prepare(self, probe: SampleSet, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check on a sample that everything can be explained, and settle what is left open.

        Args:
            probe: some of the samples; the first one is tried, and the labels of all are checked.
            trainer: of the run.
            pl_module: the module that will be explained.

        Raises:
            SaliencyError: a method, a label or a setting does not fit the module or the data.
        """
        probe = as_the_model_takes_it(probe, trainer, pl_module)
        image = probe.images[:1]
        self.pictures.show(probe.images)
        self.regions.check((probe.images.shape[2], probe.images.shape[3]))
        with trainer.precision_plugin.forward_context(), undisturbed(pl_module):
            self.forward = self.forward or find_forward(pl_module, image, probe.key)
            model = explained_model(pl_module, self.forward)
            logits = predict(model, image)
            for choice in self.choices:
                chosen_classes(probe, logits.expand(len(probe), -1), choice)
            ready = ((entry.name, entry.method.prepare(model, image)) for entry in self.methods)
            self.methods = [NamedMethod(*entry) for entry in ready]
        self.is_prepared = True

    @property
    def series(self) -> list[str]:
        """What is followed over the run, as it stands in the tags."""
        return list(self._methods())

    @property
    def parts(self) -> list[str]:
        """What can fail in an explanation, each by itself."""
        return [EVERYTHING, *self.series, NUMBERS, PICTURES]

    def rehearse(
        self, samples: SampleSet, trainer: pl.Trainer, pl_module: pl.LightningModule
    ) -> None:
        """Explain samples and forget the result, to see what it takes.

        Args:
            samples: some of those that will be explained.
            trainer: of the run.
            pl_module: the module that is explained.
        """
        self.explanations(samples, trainer, pl_module, (), {})

    def explain(
        self,
        samples: SampleSet,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        step: int,
        skip: Collection[str] = (),
    ) -> tuple[Tried, Explained | None]:
        """Explain the samples, and log the numbers and the pictures.

        What fails is left out; the rest is logged.

        Args:
            samples: the same ones each time, and on each process.
            trainer: of the run.
            pl_module: the module that is explained.
            step: at which the pictures are logged.
            skip: parts that are not to be tried any more.

        Returns:
            For each part that was tried, what went wrong, if anything, the same on each process;
            and what was found, None if nothing could be measured.
        """
        tried: Tried = {}
        explanations = self.explanations(samples, trainer, pl_module, skip, tried)
        one_by_one: OneByOne = {}
        explained: Explained | None = None
        if explanations and NUMBERS not in skip:
            measured = attempt(lambda: self._measured(samples, explanations, trainer), trainer)
            tried[NUMBERS] = measured if isinstance(measured, Fault) else None
            if not isinstance(measured, Fault):
                # What is monitored must be the same everywhere, on unlike machines too.
                numbers, one_by_one = trainer.strategy.broadcast(measured[0]), measured[1]
                log_numbers(pl_module, numbers, len(samples))
                references = {series: tracker.references for series, tracker in self.drift.items()}
                explained = Explained(
                    trainer.current_epoch, step, samples, explanations, references, numbers
                )
        if explanations and PICTURES not in skip:
            to = partial(log_pictures, trainer, self.prefix, self.pictures)
            drawn = attempt(lambda: to(samples, explanations, one_by_one, step), trainer)
            tried[PICTURES] = drawn if isinstance(drawn, Fault) else None
        return tried, explained

    def filmstrip(self, method: str | None = None) -> Tensor:
        """Return a filmstrip as logged last, (3, H, W); see :meth:`Pictures.filmstrip`."""
        return self.pictures.filmstrip(method)

    def state_dict(self) -> dict[str, Any]:
        """Return the references and the pictures for a checkpoint."""
        return {
            "drift": {series: tracker.state_dict() for series, tracker in self.drift.items()},
            "pictures": self.pictures.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the references and pictures of a checkpoint.

        Args:
            state: from :meth:`state_dict`.
        """
        for series, entry in state["drift"].items():
            if series in self.drift:
                self.drift[series].load_state_dict(entry)
        self.pictures.load_state_dict(state["pictures"])

    def explanations(
        self,
        samples: SampleSet,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        skip: Collection[str],
        tried: Tried,
        methods: Sequence[NamedMethod] | None = None,
    ) -> dict[str, Explanation]:
        """Explain the samples.

        Args:
            samples: the same ones each time, and on each process.
            trainer: of the run.
            pl_module: the module that is explained.
            skip: series that are not to be tried.
            tried: is told of each series what went wrong, if anything.
            methods: others than the monitor's own.

        Returns:
            What did not go wrong, by series; the same on each process.
        """
        explanations: dict[str, Explanation] = {}
        numbers = numbers_of_this_rank(len(samples), trainer)
        put_together = partial(gather_shares, count=len(samples), trainer=trainer)
        wanted = self._wanted(methods or self.methods, skip)
        with ExitStack() as stack:

            def prepare() -> Begun:
                if not self.is_prepared:
                    self.prepare(samples, trainer, pl_module)
                model = explained_model(pl_module, self.forward)
                mine = make_ready(stack, model, samples, trainer, pl_module)
                return begin(model, [entry.method for entry, _ in wanted], mine, self.choices)

            ready = attempt(prepare, trainer)
            tried[EVERYTHING] = ready if isinstance(ready, Fault) else None
            if isinstance(ready, Fault):
                return {}
            shown = partial(progress_shown, trainer)
            for row, (entry, choices) in enumerate(wanted):
                for choice in choices:
                    place = row, self.choices.index(choice)
                    act = OneMethod(ready, entry, place, shown)
                    found = attempt(act, trainer, act.told(numbers))
                    key = self._key(entry, choice)
                    tried[key] = found if isinstance(found, Fault) else None
                    if not isinstance(found, Fault):
                        explanations[key] = found.each(put_together)
        return explanations

    def _wanted(
        self, methods: Sequence[NamedMethod], skip: Collection[str]
    ) -> list[tuple[NamedMethod, list[ClassChoice]]]:
        """Return the methods that are to be tried, each with its choices."""
        wanted = [
            (entry, [choice for choice in self.choices if self._key(entry, choice) not in skip])
            for entry in methods
        ]
        return [(entry, choices) for entry, choices in wanted if choices]

    def _measured(
        self, samples: SampleSet, explanations: Mapping[str, Explanation], trainer: pl.Trainer
    ) -> tuple[dict[str, float], OneByOne]:
        size = samples.images.shape[2], samples.images.shape[3]
        regions = {name: mask.cpu() for name, mask in samples.regions.items()}
        regions |= self.regions.masks(size, len(samples))
        return measure(self.prefix, explanations, regions, self.drift, self._methods(), trainer)

    def _methods(self) -> dict[str, AttributionMethod]:
        return {
            self._key(entry, choice): entry.method
            for entry in self.methods
            for choice in self.choices
        }

    def _key(self, entry: NamedMethod, choice: ClassChoice) -> str:
        return entry.name if len(self.choices) == 1 else f"{entry.name}/{choice}"
