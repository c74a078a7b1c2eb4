"""What a callback does when it explains: prepare, explain, measure, draw, log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import lightning.pytorch as pl
from torch import Tensor

from lightning_saliency.attribution.method import AttributionMethod
from lightning_saliency.callbacks.areas import area_numbers
from lightning_saliency.callbacks.drift import DriftTracker
from lightning_saliency.callbacks.explain import (
    ClassChoice,
    Explanation,
    NamedMethod,
    chosen_classes,
    explain,
    predict,
)
from lightning_saliency.callbacks.explained import Explained
from lightning_saliency.callbacks.forward import Forward, explained_model
from lightning_saliency.callbacks.locate import locate
from lightning_saliency.callbacks.log_explanation import log_numbers, log_pictures
from lightning_saliency.callbacks.noise import reseeded
from lightning_saliency.callbacks.pictures import Pictures
from lightning_saliency.callbacks.progress import progress_shown
from lightning_saliency.callbacks.ranks import gather_shares, on_every_rank, share_of_this_rank
from lightning_saliency.callbacks.references import Pinned, References, best_score
from lightning_saliency.callbacks.regions import Regions
from lightning_saliency.callbacks.sample_table import log_samples
from lightning_saliency.callbacks.samples import SampleSet
from lightning_saliency.callbacks.value_tags import value_tag
from lightning_saliency.metrics.localisation import region_area
from lightning_saliency.network.undisturbed import undisturbed

__all__ = ["Monitor"]


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
        self._drift = {
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
        return next(
            entry.method
            for entry in self.methods
            for choice in self.choices
            if self._key(entry.name, choice) == series
        )

    def prepare(self, probe: SampleSet, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check on a sample that everything can be explained, and settle what is left open.

        Args:
            probe: one sample is enough.
            trainer: of the run.
            pl_module: the module that will be explained.

        Raises:
            SaliencyError: a method, a label or a setting does not fit the module or the data.
        """
        model = explained_model(pl_module, self.forward)
        probe = _as_the_model_takes_it(probe, trainer, pl_module)
        self.pictures.show(probe.images)
        self.regions.check((probe.images.shape[2], probe.images.shape[3]))
        with trainer.precision_plugin.forward_context(), undisturbed(pl_module):
            logits = predict(model, probe.images)
            for choice in self.choices:
                chosen_classes(probe, logits, choice)
            self.methods = [
                NamedMethod(entry.name, entry.method.prepare(model, probe.images))
                for entry in self.methods
            ]
        self.is_prepared = True

    def rehearse(
        self, samples: SampleSet, trainer: pl.Trainer, pl_module: pl.LightningModule
    ) -> None:
        """Explain samples and forget the result, to see what it takes.

        Args:
            samples: some of those that will be explained.
            trainer: of the run.
            pl_module: the module that is explained.

        Raises:
            Exception: whatever went wrong.
        """
        self._explanations(samples, trainer, pl_module)

    def explain(
        self, samples: SampleSet, trainer: pl.Trainer, pl_module: pl.LightningModule, step: int
    ) -> Explained:
        """Explain the samples, and log the numbers and the pictures.

        Args:
            samples: the same ones each time, and on each process.
            trainer: of the run.
            pl_module: the module that is explained.
            step: at which the pictures are logged.

        Returns:
            What was found.

        Raises:
            Exception: whatever went wrong. Numbers that were measured before it are logged.
        """
        explanations = self._explanations(samples, trainer, pl_module)
        regions = self._regions_of(samples)
        for name, region in regions.items():
            area = float(region_area(region)[region.flatten(1).any(1)].mean())
            tag = f"{self.prefix}saliency_region_area/{name}"
            log_numbers(pl_module, {tag: area}, len(samples))
        found: dict[str, float] = {}
        for series, explanation in explanations.items():
            located = locate(explanation.saliency, regions, self.method_of(series))
            moved = self._drift[series].measure(
                explanation, trainer.current_epoch, best_score(trainer)
            )
            values = moved.numbers | {what: float(v.nanmean()) for what, v in located.items()}
            if explanation.areas is not None:
                values |= area_numbers(explanation.areas)
            tags = {self.prefix + value_tag(series, what): v for what, v in values.items()}
            log_numbers(pl_module, tags, len(samples))
            found |= tags
            if trainer.is_global_zero:
                tag = f"{self.prefix}saliency_drift_samples/{series}"
                named = self.pictures.class_name
                log_samples(trainer, tag, explanation, moved, located, named, step)
        log_pictures(trainer, self.prefix, self.pictures, samples, explanations, step)
        references = {series: tracker.references for series, tracker in self._drift.items()}
        return Explained(trainer.current_epoch, step, samples, explanations, references, found)

    @property
    def has_noise(self) -> bool:
        """Whether there is chance in a method."""
        return bool(reseeded(self.methods))

    def measure_noise(
        self, samples: SampleSet, trainer: pl.Trainer, pl_module: pl.LightningModule
    ) -> None:
        """Explain once more with another seed, and log how far the maps are from the newest ones.

        Args:
            samples: that have just been explained.
            trainer: of the run.
            pl_module: the module that is explained, with the same weights.

        Raises:
            Exception: whatever went wrong.
        """
        again = self._explanations(samples, trainer, pl_module, reseeded(self.methods))
        for series, explanation in again.items():
            values = self._drift[series].measure_noise(explanation)
            tags = {self.prefix + value_tag(series, what): v for what, v in values.items()}
            log_numbers(pl_module, tags, len(samples))

    def filmstrip(self, method: str | None = None) -> Tensor:
        """Return a filmstrip as logged last, (3, H, W); see :meth:`Pictures.filmstrip`."""
        return self.pictures.filmstrip(method)

    def state_dict(self) -> dict[str, Any]:
        """Return the references and the pictures for a checkpoint."""
        return {
            "drift": {series: tracker.state_dict() for series, tracker in self._drift.items()},
            "pictures": self.pictures.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the references and pictures of a checkpoint.

        Args:
            state: from :meth:`state_dict`.
        """
        for series, entry in state["drift"].items():
            if series in self._drift:
                self._drift[series].load_state_dict(entry)
        self.pictures.load_state_dict(state["pictures"])

    def _explanations(
        self,
        samples: SampleSet,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        methods: Sequence[NamedMethod] | None = None,
    ) -> dict[str, Explanation]:
        if not self.is_prepared:
            self.prepare(samples[:1], trainer, pl_module)
        model = explained_model(pl_module, self.forward)
        mine = _as_the_model_takes_it(share_of_this_rank(samples, trainer), trainer, pl_module)

        def compute() -> dict[str, Explanation]:
            # The module's own flags too, where the model is only a part or a view of it.
            with trainer.precision_plugin.forward_context(), undisturbed(pl_module):
                explanations = explain(
                    model,
                    methods or self.methods,
                    mine,
                    self.choices,
                    partial(progress_shown, trainer),
                )
            return {
                self._key(name, choice): explanation
                for (name, choice), explanation in explanations.items()
            }

        gathered = partial(gather_shares, count=len(samples), trainer=trainer)
        found = on_every_rank(compute, trainer)
        return {series: part.each(gathered) for series, part in found.items()}

    def _regions_of(self, samples: SampleSet) -> dict[str, Tensor]:
        size = samples.images.shape[2], samples.images.shape[3]
        own = {name: mask.cpu() for name, mask in samples.regions.items()}
        return own | self.regions.masks(size, len(samples))

    @property
    def series(self) -> list[str]:
        """The series: each method with each choice of class."""
        return [self._key(entry.name, choice) for entry in self.methods for choice in self.choices]

    def _key(self, name: str, choice: ClassChoice) -> str:
        return name if len(self.choices) == 1 else f"{name}/{choice}"


def _as_the_model_takes_it(
    samples: SampleSet, trainer: pl.Trainer, pl_module: pl.LightningModule
) -> SampleSet:
    samples = samples.to(pl_module.device)
    # Tensors that the user gave may have another precision than the model.
    return replace(samples, images=trainer.precision_plugin.convert_input(samples.images))
