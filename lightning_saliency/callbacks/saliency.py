"""The callback: explain the same validation samples again and again while a network trains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
from torch import Tensor
from typing_extensions import override

from lightning_saliency.callbacks.checks import check_model, check_settings, check_trainer
from lightning_saliency.callbacks.explanation.averaging import stand_before_averaging
from lightning_saliency.callbacks.explanation.explain import (
    ClassChoice,
    Method,
    choices_of,
    methods_of,
)
from lightning_saliency.callbacks.explanation.faults import Fault, Faults, OnError
from lightning_saliency.callbacks.explanation.forward import Forward
from lightning_saliency.callbacks.explanation.safely import explain_if_due, explain_unvalidated
from lightning_saliency.callbacks.measurement.made_for import MadeFor
from lightning_saliency.callbacks.measurement.references import Pinned
from lightning_saliency.callbacks.measurement.trust import TrustRun
from lightning_saliency.callbacks.monitor import Monitor
from lightning_saliency.callbacks.record.hand_back import make_handing_back_short
from lightning_saliency.callbacks.record.keep_history import History
from lightning_saliency.callbacks.record.pictures import Pictures
from lightning_saliency.callbacks.record.save_maps import MapSaver
from lightning_saliency.callbacks.samples.batch import Unpack
from lightning_saliency.callbacks.samples.gather import SAMPLES, GatheringCallback, fetch_probe
from lightning_saliency.callbacks.samples.regions import Regions, RegionsSpec
from lightning_saliency.callbacks.samples.sample_set import SampleSet, SampleSpec
from lightning_saliency.callbacks.samples.shares import attempt
from lightning_saliency.callbacks.schedule.allowance import report
from lightning_saliency.callbacks.schedule.budget import Budget
from lightning_saliency.callbacks.schedule.rhythm import validation_step
from lightning_saliency.network.undisturbed import lazy_layer
from lightning_saliency.trust.checks import TrustChecks

__all__ = ["SaliencyCallback"]


class SaliencyCallback(GatheringCallback):
    """Explain the same validation samples after each validation run, and log how they change.

    Nothing about the training changes: weights, losses and random streams are those of a run
    without the callback, to the last bit. An explanation that fails is reported and skipped.

    Explanations are made after each validation run of ``fit`` (never in the sanity check), of
    ``trainer.validate`` and of ``trainer.test``; an epoch that ends without a validation run is
    explained at its end. Logged are, at the step at which Lightning logs the validation metrics:

    - ``saliency/<method>/sample_<i>``: image, map and overlay of one sample;
    - ``saliency/compare/sample_<i>``: all methods side by side, if there are several;
    - ``saliency_filmstrip/<method>``: samples down, explained epochs across, the whole history in
      one image;
    - ``saliency_pinned/<method>``: the pinned maps; ``saliency_timelapse/<method>``: a final film;
    - ``saliency_drift/<method>/<reference>/<measure>``: similarity to the ``previous`` and to the
      ``pinned`` explanation, means over the samples: ``top10_iou``, ``spearman`` and ``ssim`` (1 =
      has not moved), ``center_shift`` (0 to 1, in image diagonals), ``log2_norm_ratio`` (0 = as
      strong). NaN if all maps are constant or not finite;
    - ``saliency_drift_<part>/<method>/<reference>/<measure>``: the same of ``stable`` samples (the
      answer has not changed), of ``flipped`` ones, ``relative`` to noise and chance, of the
      ``worst`` sample; ``saliency_drift_samples/<method>``: a table of all of them;
    - ``saliency_target/<method>/<what>``: ``probability`` and ``log_probability`` of the explained
      classes, ``flips`` (the share of samples whose predicted class has changed since the previous
      explanation) and ``degenerate_frac`` (the share of maps that are constant or not finite);
    - ``saliency_overhead``: the share of the run's time that explanations took so far;
    - ``saliency_faithfulness/<method>/<measure>`` and ``saliency_sanity/<method>``, if asked for;
    - ``saliency_object/<method>/<measure>``, if there is ground truth: ``energy``, ``pointing`` and
      ``top10_iou``; ``saliency_region/<method>/<name>``: the share of the map's mass in each other
      region; ``saliency_region_area/<name>``: what that share is for a map that knows nothing.

    The numbers are in ``trainer.callback_metrics`` too, for EarlyStopping and ModelCheckpoint. With
    two targets, ``<method>`` is ``<method>/label`` and ``<method>/predicted``.

    Args:
        method: an :class:`AttributionMethod`, a callable (model, image, target) -> (N, 1, H, W), or
            a list of these.
        samples: that many first validation samples; a list of indices into the validation dataset;
            or a pair of tensors, images (N, C, H, W) as the model takes them and labels (N,).
        dataloader_idx: which validation loader the samples come from.
        target: the class that is explained: each sample's ``"label"``, the class that is
            ``"predicted"`` at the time, a class index for all, or both ("label", "predicted").
        every_n_epochs: explain in the first epoch that can be, and then every so many epochs.
        unpack: from a batch to (images, labels or None), if the batch is not of a usual form; a
            third entry is ground truth: masks (N, H, W) or boxes (N, 4) of the objects.
        forward: from (pl_module, images) to what holds the class scores, if that is not
            ``pl_module(images)``.
        mean: per channel; how the images were normalised, to show them as they were.
        std: per channel, like ``mean``.
        class_names: shown instead of class indices.
        regions: where to measure the maps, see :data:`~.regions.RegionsSpec`: ``["border"]``,
            ``{"corner": (0, 0, 8, 8)}`` (left, top, right, bottom in pixels), or masks or boxes for
            each sample. The name ``"object"`` stands for the ground truth.
        pinned: which explanation is the pinned reference: ``"first"``; ``"best"``, the one of the
            best checkpoint so far, as the run's first ModelCheckpoint with a monitor finds it; or
            an epoch. Until there is one, each explanation is its own.
        warmup_epochs: nothing before this epoch is pinned.
        noise_every: at the first and every so many explanations, RISE and extremal perturbation
            explain a second time with another seed, to see what their noise is; None for never.
        trust: see :class:`~lightning_saliency.trust.TrustChecks`; None not to look for any.
        save_maps: keep the maps in the logger's folder, for ``load_maps`` and ``compare``.
        custom_scalars: replace the run's layout of TensorBoard's custom scalars: drift beside loss.
        max_overhead: skip explanations that would take more than this share of the run's time;
            the first may be made early if it fits into the share of the whole run.
        on_error: ``"warn"`` reports an explanation that fails and goes on with training, and
            switches the callback off after three failures in a row; ``"raise"`` ends the run.
        name: put before all tags; needed when two callbacks use the same method.

    Raises:
        InputError: a setting cannot be used. What depends on the module, the data or the other
            callbacks is checked before the first training step.
    """

    def __init__(
        self,
        method: list[Method] | Method,
        samples: SampleSpec = 8,
        dataloader_idx: int = 0,
        target: ClassChoice | tuple[ClassChoice, ClassChoice] = "label",
        every_n_epochs: int = 1,
        unpack: Unpack | None = None,
        forward: Forward | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        class_names: Sequence[str] | None = None,
        regions: RegionsSpec | None = None,
        pinned: Pinned = "first",
        warmup_epochs: int = 0,
        noise_every: int | None = 10,
        trust: TrustChecks | None = None,
        save_maps: bool = False,
        custom_scalars: bool = False,
        max_overhead: float | None = None,
        on_error: OnError = "warn",
        name: str | None = None,
    ) -> None:
        super().__init__(samples, unpack, dataloader_idx)
        check_settings(dataloader_idx, every_n_epochs, name, noise_every, pinned, warmup_epochs)
        self.pinned, self.warmup_epochs = pinned, warmup_epochs
        self.noise_every, self.every_n_epochs = noise_every, every_n_epochs
        self.faults = Faults(on_error)
        self.budget = Budget(max_overhead)
        self.trust = TrustRun(trust)
        self.monitor = Monitor(
            methods=methods_of(method),
            choices=choices_of(target),
            forward=forward,
            pictures=Pictures(mean, std, class_names),
            regions=Regions(regions, self.samples.count),
            pinned=pinned,
            warmup_epochs=warmup_epochs,
            name=name,
        )
        self._made_for = MadeFor(self.samples, dataloader_idx, self.monitor)
        saver = MapSaver(self.monitor.series, self.monitor.prefix) if save_maps else None
        self.history = History(self.monitor, saver, custom_scalars)
        self.last_epoch: int | None = None
        self._is_set_up = self._saw_validation = False

    @property
    @override
    def state_key(self) -> str:
        """What this callback's state is filed under in a checkpoint: the tags that it writes."""
        key = self._generate_state_key(tags=sorted(self.monitor.tags))
        # The Trainer asks for a key at once, and refuses equal ones without saying what to do;
        # setup, which comes before any checkpoint, looks for equal tags and says it.
        return key if self._is_set_up else f"{key}@{id(self)}"

    def filmstrip(self, method: str | None = None) -> Tensor:
        """Return the filmstrip as last logged: samples down, explained epochs across.

        Args:
            method: the ``<method>`` of the tags, for instance ``"grad_cam"``; None for the first.

        Returns:
            (3, H, W), RGB, uint8, as torchvision's ``to_pil_image`` takes it.

        Raises:
            InputError: nothing was explained under that name.
        """
        return self.monitor.filmstrip(method)

    # When: the hooks of Lightning.

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Check the settings against the trainer and the module."""
        stand_before_averaging(self, trainer)
        check_trainer(self, trainer, pl_module, stage)
        self._is_set_up = True

    @override
    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Be ready for another trainer; let a process that was spawned hand its numbers back."""
        self._is_set_up = False
        make_handing_back_short(trainer)

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check the layers that are there by now, start the clock, find room for what is kept."""
        check_model(self, pl_module)
        self.budget.start()
        # Not in setup, where it is not known yet whether the run goes on from a checkpoint.
        self.watch.open()
        self.history.begin(trainer)

    @override
    def on_sanity_check_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Try the methods on what the sanity check has shown, before the first training step."""
        self._prepare(self.samples.known or self.samples.gathered(), trainer, pl_module)

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Try the methods on a sample, where there was no sanity check."""
        if self.monitor.is_prepared:
            return
        fetched = (self.samples, trainer, pl_module, self.dataloader_idx)
        self._prepare(self.samples.known or fetch_probe(*fetched), trainer, pl_module)

    @override
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note that this epoch has not been validated yet."""
        self._saw_validation = False

    @override
    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Explain the samples, except in the sanity check."""
        if trainer.sanity_checking:
            return
        self._saw_validation = True
        self._keep_samples(trainer)
        explain_if_due(self, trainer, pl_module, validation_step(trainer))

    # trainer.test runs the same loop under other names.
    on_test_epoch_end = on_validation_epoch_end

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Explain the samples, if the epoch ended without a validation run."""
        # After a resume this hook can come for an epoch that was explained before the checkpoint.
        if not self._saw_validation and self.last_epoch != trainer.current_epoch:
            explain_unvalidated(self, trainer, pl_module)

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Make the sanity check that was kept for the end."""
        self.trust.at_the_end(self, trainer, pl_module)

    @override
    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the films; say how often the budget was kept by leaving an explanation out."""
        self.history.end(trainer)
        self.budget.stop()
        report(self.budget)

    @override
    def state_dict(self) -> dict[str, Any]:
        """Return the samples, the references, the filmstrips and the accounts."""
        return {
            "samples": self.samples.state_dict(),
            "monitor": self.monitor.state_dict(),
            "budget": self.budget.state_dict(),
            "trust": self.trust.state_dict(),
            "last_epoch": self.last_epoch,
            "made_for": self._made_for.state_dict(),
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the checkpoint was saved: the same samples and references."""
        if self._made_for.same_samples(state_dict["made_for"]):
            self.samples.load_state_dict(state_dict["samples"])
            parts = self._made_for.fitting(state_dict["made_for"], state_dict["monitor"])
            self.monitor.load_state_dict(parts)
        self.budget.load_state_dict(state_dict["budget"])
        self.trust.load_state_dict(state_dict["trust"])
        self.last_epoch = state_dict["last_epoch"]

    # How the hooks do it.

    def _prepare(
        self, probe: SampleSet | None, trainer: pl.Trainer, pl_module: pl.LightningModule
    ) -> None:
        # Layers that wait for their first input must not get it from us.
        if probe is not None and lazy_layer(pl_module) is None:
            with self.budget.spending():
                ready = attempt(lambda: self.monitor.prepare(probe, trainer, pl_module), trainer)
                if not isinstance(ready, Fault):
                    ready = attempt(lambda: self.trust.prepare(pl_module), trainer)
            if isinstance(ready, Fault):
                raise ready.error

    def _keep_samples(self, trainer: pl.Trainer) -> None:
        if self.samples.known is None and not self.faults.gave_up(SAMPLES):
            self.faults.settle({SAMPLES: self.gathering.end(trainer)}, trainer.current_epoch)
