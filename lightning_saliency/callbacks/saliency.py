"""The callback: explain the same validation samples again and again while a network trains."""

import html
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor
from typing_extensions import override

from lightning_saliency.callbacks.budget import Budget
from lightning_saliency.callbacks.explainer import Explainer
from lightning_saliency.callbacks.explanation import (
    ClassChoice,
    ExplanationRound,
    KnownTags,
    Method,
    Series,
    choice_name,
)
from lightning_saliency.callbacks.failures import Failure, FailureLog, OnError
from lightning_saliency.callbacks.fallback_metrics import FallbackMetrics
from lightning_saliency.callbacks.forward import Forward, overrides
from lightning_saliency.callbacks.found_methods import OnInapplicable
from lightning_saliency.callbacks.pictures import Pictures
from lightning_saliency.callbacks.resume import STATE_VERSION, ResumeFingerprint, StateParts
from lightning_saliency.callbacks.run_context import (
    RunContext,
    averaged_weights,
    is_fast_dev_run,
    move_before_averaging,
)
from lightning_saliency.callbacks.samples.batch import Unpack
from lightning_saliency.callbacks.samples.collector import SampleCollector
from lightning_saliency.callbacks.samples.data_change import ChangeDetector
from lightning_saliency.callbacks.samples.regions import Regions, RegionsSpec
from lightning_saliency.callbacks.samples.sample_set import Samples, SampleSet, SampleSpec
from lightning_saliency.callbacks.settings import (
    Pinned,
    check_pinned_in_run,
    check_reference_settings,
    check_schedule_settings,
    check_tags,
    checked_evidence,
    checked_trust,
    choices_of,
    methods_of,
    warn_of_missing_images,
)
from lightning_saliency.callbacks.spawn_metrics import shorten_handed_back_metrics
from lightning_saliency.callbacks.stage_runner import Stage, StageRunner
from lightning_saliency.callbacks.stages.drift import DriftStage
from lightning_saliency.callbacks.stages.evidence import EvidenceStage
from lightning_saliency.callbacks.stages.faithfulness import FaithfulnessStage
from lightning_saliency.callbacks.stages.history import HistoryStage
from lightning_saliency.callbacks.stages.images import FilmstripStage, ImagesStage
from lightning_saliency.callbacks.stages.map_saver import MapSaver
from lightning_saliency.callbacks.stages.noise import NoiseStage
from lightning_saliency.callbacks.stages.report import ReportStage
from lightning_saliency.callbacks.stages.sample_table import SampleTableStage
from lightning_saliency.callbacks.stages.sanity import SanityStage
from lightning_saliency.callbacks.tags import LogLevel, check_log_level, is_measured_apart
from lightning_saliency.errors import InputError, SaliencyError, SaliencyWarning
from lightning_saliency.network.isolation.undisturbed import lazy_layer
from lightning_saliency.rendering.pixels import Picture
from lightning_saliency.trust.checks import TrustChecks
from lightning_saliency.trust.evidence import Evidence

# What can fail, beside the stages and the methods.
_SAMPLES, _EVERYTHING, _LISTENERS = "samples", "all methods", "listeners"


class SaliencyCallback(pl.Callback):
    """Explain the same validation samples after each validation run, and log how they change.

    Nothing about the training changes: weights, losses and random streams are those of a run
    without the callback, to the last bit. An explanation that fails is reported and skipped.

    Explanations are made after each validation run of ``fit`` (never in the sanity check), of
    ``trainer.validate`` and of ``trainer.test``; an epoch that ends without a validation run is
    explained at its end. Logged are, at the step at which Lightning logs the validation metrics:

    - ``saliency/filmstrip/<method>``: samples down, explained epochs across, the whole history in
      one image; ``saliency/methods``: all methods side by side, if there are several;
    - ``saliency/samples/<method>/<i>``: image, map and overlay of one sample;
    - ``saliency/pinned/<method>``: the pinned maps; ``saliency/timelapse/<method>``: a final film;
    - ``saliency_drift/<method>/<reference>``: how far the maps have moved since the ``previous``
      and since the ``pinned`` explanation, mean over the samples: 0 not at all, 1 altogether;
    - ``saliency_target/<method>/empty``: the share of maps that are constant or not finite;
    - ``saliency_target/flips``: the share of samples whose predicted class has changed since the
      previous explanation;
    - ``saliency_overhead``: the share of the run's time that explanations took so far;
    - ``saliency_drift_samples/<method>``: a table of the samples;
    - ``saliency_faithfulness/<method>/<measure>`` and ``saliency_sanity/<method>``, if asked for;
    - ``saliency_object/<method>/<measure>``, if there is ground truth: ``energy``, ``pointing`` and
      ``top10_iou``; ``saliency_region/<method>/<name>``: the share of the map's mass in each other
      region; ``saliency_region_area/<name>``: what that share is for a map that knows nothing;
    - ``saliency_evidence/<target>/<what>``, if asked for: how much of the evidence each place and
      each kind of content holds, measured by removing it, and how that changes.

    With ``log="full"`` also:

    - ``saliency_similarity/<method>/<reference>/<measure>``: ``top10_iou``, ``spearman`` and
      ``ssim`` (1 = has not moved), ``center_shift`` (0 to 1, in image diagonals),
      ``log2_norm_ratio`` (0 = as strong), means over the samples;
    - ``saliency_similarity_<part>/<method>/<reference>/<measure>``: the same of ``stable`` samples
      (the answer has not changed), of ``flipped`` ones, of the ``worst`` sample;
      ``saliency_drift_relative/...``: drift between noise (0) and chance (1);
    - ``saliency_target/<method>/<what>``: ``probability`` and ``log_probability`` of the explained
      classes.

    All numbers are in ``trainer.callback_metrics``, for EarlyStopping and ModelCheckpoint; drift
    and similarity from the second explanation on, and before that the worst value for whoever
    monitors them. The results of ``trainer.validate`` and ``trainer.test`` hold none of them. With
    two targets, ``<method>`` is ``<method>/label`` and ``<method>/predicted``.

    Args:
        method: an :class:`AttributionMethod`, a callable (model, image, target) -> (N, 1, H, W), or
            a list of these.
        samples: that many first validation samples; ``PerClass(2)``, the first two of each class;
            ``Wrong(8)``, the first eight that the model gets wrong when it is first explained; a
            list of indices into the validation dataset; or a pair of tensors, images (N, C, H, W)
            as the model takes them and labels (N,).
        dataloader_idx: which validation loader the samples come from.
        target: what is explained: each sample's ``"label"``, the class that is ``"predicted"`` at
            the time, a class index for all, a callable from the module's output to scores (N,),
            such as those of :mod:`lightning_saliency.targets`; or a list of these, as in ("label",
            "predicted"). A callable's name stands behind the method's in the tags.
        every_n_epochs: explain in the first epoch that can be, and then every so many epochs.
        unpack: from a batch to (images, labels or None), if the batch is not of a usual form; a
            third entry is ground truth: masks (N, H, W) or boxes (N, 4) of the objects, or None; a
            fourth is what the module gets beside the images: a tensor (N, ...), or a mapping from
            names to such. Each sample is then explained with its own.
        forward: from (pl_module, images) to what holds the class scores, if that is not
            ``pl_module(images)``; from (pl_module, images, inputs), if there are further inputs.
        mean: per channel; how the images were normalized, to show them as they were.
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
        evidence: see :class:`~lightning_saliency.trust.Evidence`; None not to measure it. It wants
            at least 4 samples, 16 are usual.
        save_maps: keep the maps in the logger's folder, for ``load_maps`` and ``compare``.
        log: which numbers the loggers get: ``"basic"``, those that are read at a glance, or
            ``"full"``.
        custom_scalars: replace the run's layout of TensorBoard's custom scalars: drift beside loss.
        max_overhead: skip explanations that would take more than this share of the run's time;
            the first may be made early if it fits into the share of the whole run.
        on_error: ``"warn"`` reports an explanation that fails and goes on with training, and
            switches the callback off after three failures in a row; ``"raise"`` ends the run.
        name: put before all tags; needed when two callbacks use the same method.
        on_inapplicable: ``"raise"`` ends the run before training if a method does not apply to the
            module; ``"skip"`` says which and why, and the others run.
        report: write one HTML page about the run when a fit ends, ``saliency_report.html`` in the
            run's folder, see :func:`~lightning_saliency.report`; it needs no saved maps.

    Raises:
        InputError: a setting cannot be used. What depends on the module, the data or the other
            callbacks is checked before the first training step.
    """

    def __init__(
        self,
        method: list[Method] | Method,
        samples: SampleSpec = 8,
        dataloader_idx: int = 0,
        target: ClassChoice | list[ClassChoice] | tuple[ClassChoice, ClassChoice] = "label",
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
        evidence: Evidence | None = None,
        save_maps: bool = False,
        log: LogLevel = "basic",
        custom_scalars: bool = False,
        max_overhead: float | None = None,
        on_error: OnError = "warn",
        name: str | None = None,
        on_inapplicable: OnInapplicable = "raise",
        report: bool = False,
    ) -> None:
        super().__init__()
        check_schedule_settings(dataloader_idx, every_n_epochs, noise_every, name)
        check_reference_settings(pinned, warmup_epochs)
        check_log_level(log)
        self._log: LogLevel = log
        self._pinned, self._warmup_epochs = pinned, warmup_epochs
        self._every_n_epochs = every_n_epochs
        self._prefix = prefix = f"{name}/" if name else ""

        self._samples = Samples(samples, unpack)
        self._collector = SampleCollector(self._samples, dataloader_idx)
        self._change_detector = ChangeDetector(self._samples, dataloader_idx)

        self._budget = Budget(max_overhead)
        self._failures = FailureLog(on_error)
        self._runner = StageRunner(self._budget, self._failures)

        wants_evidence = checked_evidence(evidence, self._samples.count)
        # Evidence can be measured without any method.
        methods = [] if wants_evidence and method == [] else methods_of(method)
        choices = choices_of(target)
        if on_inapplicable not in ("raise", "skip"):
            raise InputError(
                f"Expected on_inapplicable to be 'raise' or 'skip', got {on_inapplicable!r}."
            )
        self._explainer = Explainer(methods, choices, forward, prefix, on_inapplicable, on_error)
        self._fingerprint = ResumeFingerprint(self._samples, dataloader_idx, methods, choices)
        self._pictures = Pictures(mean, std, class_names)

        checks = checked_trust(trust)
        names, measured = list(self._explainer.series), Regions(regions, self._samples.count)
        saver = MapSaver(prefix) if save_maps else None
        self._drift = DriftStage(names, measured, pinned, warmup_epochs)
        self._sanity = SanityStage(self._explainer, checks.sanity_check, prefix)
        settings: dict[str, Any] = {
            "target": [choice_name(choice) for choice in choices],
            "every_n_epochs": every_n_epochs,
            "pinned": pinned,
            "warmup_epochs": warmup_epochs,
            "dataloader_idx": dataloader_idx,
            "max_overhead": max_overhead,
        }
        self._history = HistoryStage(self._pictures, prefix, saver, custom_scalars, settings)
        # What belongs to an explanation, and what follows one whose numbers are there.
        self._explanation_stages: list[Stage] = [
            self._drift,
            SampleTableStage(self._pictures.class_name, log),
            ImagesStage(self._pictures, prefix),
        ]
        self._evidence: EvidenceStage | None = None
        if evidence is not None:
            self._evidence = EvidenceStage(self._explainer, evidence, pinned, warmup_epochs, prefix)
            self._explanation_stages.insert(1, self._evidence)
        self._filmstrips = FilmstripStage(self._pictures, prefix)
        if report and not methods:
            raise InputError("Expected a method, to report its maps (report=True), got none.")
        self._report = ReportStage(self._pictures, prefix, settings) if report else None
        self._later_stages: list[Stage] = []
        if noise_every is not None and any(entry.method.stochastic for entry in methods):
            self._later_stages.append(
                NoiseStage(self._explainer, self._drift.trackers, noise_every)
            )
        if checks.faithfulness:
            self._later_stages.append(
                FaithfulnessStage(self._explainer, checks.faithfulness, checks.every, prefix)
            )
        if checks.sanity_check is not False:
            self._later_stages.append(self._sanity)
        self._later_stages.append(self._history)

        self._last_epoch: int | None = None
        self._last_round: ExplanationRound | None = None
        self._undrawn: ExplanationRound | None = None
        self._is_set_up = self._saw_validation = self._was_tried = False
        self._fallback = FallbackMetrics()

    @property
    def series(self) -> dict[str, Series]:
        """What is followed over the run, by its name in the tags, such as ``"grad_cam"``."""
        return self._explainer.series

    @property
    def tags(self) -> KnownTags:
        """The tags of the numbers, as far as they are known before the samples are."""
        names = self._drift.number_tags(self.series.values())
        names += self._evidence.number_tags if self._evidence is not None else []
        return KnownTags(tuple(names), may_grow=self._samples.unpack is not None)

    def _repr_html_(self) -> str:
        """Show the filmstrips in a notebook."""
        return self._pictures.as_html() or f"<pre>{html.escape(repr(self))}</pre>"

    @property
    def needs_data(self) -> bool:
        """Whether the samples are still to be taken from validation data."""
        return self._samples.known is None

    def filmstrip(self, method: str | None = None) -> Tensor:
        """Return the filmstrip as last logged: samples down, explained epochs across.

        Args:
            method: the ``<method>`` of the tags, for instance ``"grad_cam"``; None for the first.

        Returns:
            (3, H, W), RGB, uint8, as torchvision's ``to_pil_image`` takes it; a notebook shows it.

        Raises:
            InputError: nothing was explained under that name.
        """
        return self._pictures.filmstrip(method).as_subclass(Picture)

    # When: the hooks of Lightning.

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Check the settings against the trainer and the module."""
        move_before_averaging(self, trainer)
        self._check_run(trainer, pl_module, stage)
        self._is_set_up = True

    @override
    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Be ready for another trainer; let a process that was spawned hand its numbers back."""
        self._last_round = self._undrawn = None
        if RunContext(trainer, pl_module).is_spawned:
            shorten_handed_back_metrics(trainer)

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check the layers that are there by now, start the clock, find room for what is kept."""
        self._explainer.check_model(pl_module)
        self._budget.start()
        # Not in setup, where it is not known yet whether the run resumes from a checkpoint.
        self._change_detector.open()
        self._history.begin(RunContext(trainer, pl_module))

    @override
    def on_sanity_check_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Try the methods on what the sanity check has shown, before the first training step."""
        probe = self._samples.known or self._samples.collected() or self._collector.probe
        self._prepare_before_training(RunContext(trainer, pl_module), probe)

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check what needs no validation batch, where there was no sanity check."""
        RunContext(trainer, pl_module).forget_later_files()
        if self._explainer.is_prepared:
            return
        context = RunContext(trainer, pl_module)
        if self._samples.known is not None:
            self._prepare_before_training(context, self._samples.known)
            return
        self._collector.check_loader(context)
        if self._sanity in self._later_stages and lazy_layer(pl_module) is None:
            self._sanity.check_module(pl_module)

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Try the methods on the first training batch, where no other sample has been seen.

        Nothing is read for it. What is wrong with this batch alone (its labels, its form, its size)
        says nothing of the validation data: the check then waits for these.
        """
        if self._was_tried or self._explainer.is_prepared:
            return
        self._was_tried = True
        context = RunContext(trainer, pl_module)
        probe = context.attempt(lambda: self._samples.of(batch)[:1])
        if not isinstance(probe, Failure) and lazy_layer(pl_module) is None:
            with self._budget.spending():
                outcome = context.attempt(partial(self._explainer.try_methods, context, probe))
            if isinstance(outcome, Failure) and isinstance(outcome.error, SaliencyError):
                raise outcome.error

    @override
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note that this epoch has not been validated yet."""
        self._saw_validation = False

    @override
    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin to collect the samples, as long as they are not known."""
        context = RunContext(trainer, pl_module)
        self._change_detector.begin(context)
        self._collector.begin(context)

    @override
    def on_validation_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collect samples in the form in which the model is about to see them."""
        context = RunContext(trainer, pl_module)
        self._change_detector.take(batch, batch_idx, dataloader_idx, context)
        predict = partial(self._predicted, context)
        self._collector.take(batch, batch_idx, dataloader_idx, context, predict)

    @override
    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Explain the samples, except in the sanity check."""
        if trainer.sanity_checking:
            return
        self._saw_validation = True
        context = RunContext(trainer, pl_module)
        if self._samples.known is None and not self._failures.is_disabled(_SAMPLES):
            failure, changed = self._collector.end(context)
            self._failures.record({_SAMPLES: failure}, context.epoch)
            if changed:
                self._start_over(changed)
        self._explain_if_due(context, context.step)
        self._fallback.set(context, self._is_number)

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the filmstrips; compare what was explained with what the data hold now."""
        context = RunContext(trainer, pl_module)
        self._draw_filmstrips(context)
        self._change_detector.end(context)

    # trainer.test runs the same loop under other names.
    on_test_start = on_validation_start
    on_test_batch_start = on_validation_batch_start
    on_test_epoch_end = on_validation_epoch_end
    on_test_end = on_validation_end

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Explain the samples, if the epoch ended without a validation run."""
        # After a resume this hook can come for an epoch that was explained before the checkpoint.
        if self._saw_validation or self._last_epoch == trainer.current_epoch:
            return
        context = RunContext(trainer, pl_module)
        with averaged_weights(trainer, pl_module):
            # Lightning logs the metrics of an epoch's end one step back, at its last batch.
            self._explain_if_due(context, context.step - 1)
        self._draw_filmstrips(context)
        self._fallback.set(context, self._is_number)

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Make the sanity check that was kept for the end."""
        if self._sanity.at_the_end and self._last_round is not None:
            context = RunContext(trainer, pl_module)
            check = partial(self._sanity.run, context, self._last_round)
            self._runner.run(self._sanity.name, check, context)

    @override
    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write films and page; say how often the budget was kept by leaving one out."""
        context = RunContext(trainer, pl_module)
        self._history.end(context)
        if self._report is not None:
            self._report.end(context)
        self._budget.stop()
        self._runner.report_skipped()

    @override
    def state_dict(self) -> dict[str, Any]:
        """Return the samples, the references, the filmstrips and the accounts."""
        return {
            "version": STATE_VERSION,
            "samples": self._samples.state_dict(),
            "monitor": {
                "drift": self._drift.state_dict(),
                "pictures": self._pictures.state_dict(),
            },
            "budget": self._budget.state_dict(),
            "trust": self._sanity.state_dict(),
            "last_epoch": self._last_epoch,
            "made_for": self._fingerprint.state_dict(),
            "history": self._history.state_dict(),
            **({"evidence": self._evidence.state_dict()} if self._evidence is not None else {}),
            **({"report": self._report.state_dict()} if self._report is not None else {}),
            "found": self._explainer.state_dict(),
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue where the checkpoint was saved: the same samples and references.

        A part that cannot be used is reported, and starts over; the run goes on.
        """
        parts = StateParts(state_dict)
        if parts.load("the samples", self._load_samples, "made_for", "samples"):
            changed = self._fingerprint.changed_methods(state_dict["made_for"])

            def load_drift(monitor: Mapping[str, Any]) -> None:
                self._drift.load_state_dict(_unchanged(monitor["drift"], changed))

            def load_pictures(monitor: Mapping[str, Any]) -> None:
                self._pictures.load_state_dict(_unchanged(monitor["pictures"], changed))

            parts.load("the drift", load_drift, "monitor")
            parts.load("the filmstrips", load_pictures, "monitor")
            if self._evidence is not None and "evidence" in state_dict:
                parts.load("the evidence", self._evidence.load_state_dict, "evidence")
            if self._report is not None and "report" in state_dict:
                parts.load("the report", self._report.load_state_dict, "report")
        parts.load("the time budget", self._budget.load_state_dict, "budget")
        parts.load("the sanity check", self._sanity.load_state_dict, "trust")
        # Not in checkpoints of version 0.1.0.
        if "history" in state_dict:
            parts.load("the folder of the maps", self._history.load_state_dict, "history")
        # Not in checkpoints of version 0.2.0.
        if "found" in state_dict:
            parts.load("the layers", self._explainer.load_state_dict, "found")
        parts.load("the last epoch", self._load_last_epoch, "last_epoch")
        parts.warn_of_lost(type(self).__name__)

    @property
    @override
    def state_key(self) -> str:
        """What this callback's state is filed under in a checkpoint: the tags that it writes."""
        # Those of the methods, so that evidence can be added to a run that goes on.
        key = self._generate_state_key(tags=sorted(self._families or self._written))
        # The Trainer asks for a key at once, and refuses equal ones without saying what to do;
        # setup, which comes before any checkpoint, looks for equal tags and says it. Once known,
        # the key stays: checkpoints are also saved after the run.
        return key if self._is_set_up else f"{key}@{id(self)}"

    # How the hooks do it.

    def _load_samples(self, fingerprint: Mapping[str, Any], samples: Mapping[str, Any]) -> bool:
        # Looked at here, so that what follows can rely on its form.
        if not isinstance(fingerprint["methods"], Mapping):
            raise TypeError("made_for")
        if not self._fingerprint.same_samples(fingerprint):
            return False
        self._samples.load_state_dict(samples)
        return True

    def _load_last_epoch(self, epoch: int | None) -> None:
        if epoch is not None and not isinstance(epoch, int):
            raise TypeError("last_epoch")
        self._last_epoch = epoch

    def _start_over(self, changed: Sequence[int]) -> None:
        """Forget the maps of the checkpoint, because they are of other pictures."""
        self._drift.load_state_dict({})
        self._pictures.load_state_dict({})
        if self._evidence is not None:
            self._evidence.load_state_dict({})
        if self._report is not None:
            self._report.load_state_dict({})
        indices = self._samples.indices or []
        rank_zero_warn(
            f"The validation data have changed: indices {[indices[n] for n in changed]} of the "
            "validation dataset show other pictures than when the checkpoint was saved. Drift and "
            "filmstrips start over with what is there now.",
            category=SaliencyWarning,
        )

    @property
    def _families(self) -> set[str]:
        """What the state is filed under in checkpoints: tags of the first version's pictures."""
        # Of all, also of those that do not apply.
        families = list(self._explainer.names)
        if len(families) > 1:
            families.append("compare")
        return {f"{self._prefix}saliency/{family}" for family in families}

    @property
    def _written(self) -> set[str]:
        """Tags that are written, and no other callback may write."""
        tags = {f"saliency/samples/{name}" for name in self.series}
        if len(tags) > 1:
            tags.add("saliency/methods")
        evidence = set() if self._evidence is None else self._evidence.families
        return {self._prefix + tag for tag in tags} | evidence

    def _check_run(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        callbacks = RunContext(trainer, pl_module).callbacks
        others = [c for c in callbacks if isinstance(c, SaliencyCallback) and c is not self]
        check_tags(self._written, [other._written for other in others], type(self).__name__)
        if stage == "fit":
            if self._samples.known is None and not trainer.enable_validation:
                raise InputError(
                    "Expected validation data to take the samples from, but this run has no "
                    "validation (no val_dataloader, no validation_step, or limit_val_batches=0). "
                    "Give the samples yourself: samples=(images, labels)."
                )
            check_pinned_in_run(self._pinned, self._warmup_epochs, trainer)
        elif self._pinned == "best" and RunContext(trainer, pl_module).follows_fit:
            raise InputError(
                "Expected pinned to be 'first' or an epoch in a replay, got 'best': which "
                "checkpoint was the best so far is not known there."
            )
        # What these make is not there yet.
        if not overrides(pl_module, "setup") and not overrides(pl_module, "configure_model"):
            self._explainer.check_model(pl_module)
        if stage != "predict" and not is_fast_dev_run(trainer):
            context = RunContext(trainer, pl_module)
            folder = context.open_files() if context.follows_fit else None
            warn_of_missing_images(trainer, folder)

    def _prepare_before_training(self, context: RunContext, probe: SampleSet | None) -> None:
        # Layers that wait for their first input must not get it from us. A process that has seen no
        # batch must not leave the others waiting.
        cannot = probe is None or lazy_layer(context.pl_module) is not None
        if context.any_process(cannot) or probe is None:
            return
        with self._budget.spending():
            outcome = context.attempt(partial(self._prepare, context, probe))
            if not isinstance(outcome, Failure):
                self._explainer.settle(context)
        if isinstance(outcome, Failure):
            raise outcome.error

    def _prepare(self, context: RunContext, probe: SampleSet) -> None:
        """Try everything on a sample; what raises here would fail in each explanation."""
        for stage in [*self._explanation_stages, *self._later_stages]:
            stage.prepare(context, probe)
        self._explainer.prepare(context, probe)
        self._pictures.check_classes(self._explainer.class_count)

    def _is_due(self, context: RunContext) -> bool:
        if self._last_epoch is None or not context.follows_fit:
            return True
        # Counting from the last explained epoch, and not in multiples, works together with every
        # schedule of validation; several runs within one epoch are all explained.
        since = context.epoch - self._last_epoch
        return since == 0 or since >= self._every_n_epochs

    def _explain_if_due(self, context: RunContext, step: int) -> None:
        samples = self._samples.known
        if samples is None or not self._is_due(context) or self._is_disabled():
            return
        rehearse = partial(self._rehearse, context, samples[:1], step)
        if self._runner.may_explain(context, len(samples), rehearse):
            self._last_epoch = context.epoch
            self._explain(context, samples, step)
        self._runner.log_overhead(self._prefix, context)

    def _is_disabled(self) -> bool:
        is_disabled = self._failures.is_disabled
        parts = list(self.series) or [EvidenceStage.name]
        return is_disabled(_EVERYTHING) or all(map(is_disabled, parts))

    def _rehearse(self, context: RunContext, sample: SampleSet, step: int) -> None:
        self._explain_samples(context, sample, step)
        if self._evidence is not None:
            self._evidence.rehearse(context, sample)

    def _explain(self, context: RunContext, samples: SampleSet, step: int) -> None:
        """Explain, and run the stages that follow; what fails is reported and left out."""
        run = self._runner.run
        with self._runner.explanation():
            explain = partial(self._explain_samples, context, samples, step)
            round = run(_EVERYTHING, explain, context)
            if round is not None:
                self._failures.record(round.failures, context.epoch)
                for stage in self._explanation_stages:
                    self._runner.run_stage(stage, context, round)
        if round is None or not round.is_measured:
            return
        round.count = self._budget.made
        self._undrawn = round
        self._last_round = round if self._sanity.at_the_end else None
        for stage in self._later_stages:
            self._runner.run_stage(stage, context, round)
        notify = partial(self._notify_listeners, context, round)
        run(_LISTENERS, lambda: context.require(notify), context)

    def _predicted(self, context: RunContext, samples: SampleSet) -> Tensor:
        """Return what the model predicts, to choose the samples by it."""
        with self._budget.spending():
            return self._explainer.predicted(context, samples)

    def _draw_filmstrips(self, context: RunContext) -> None:
        """Draw what was explained in this validation run, now that its loss is known."""
        round, self._undrawn = self._undrawn, None
        if round is not None:
            self._runner.run_stage(self._filmstrips, context, round)
            if self._report is not None:
                self._runner.run_stage(self._report, context, round)

    def _explain_samples(
        self, context: RunContext, samples: SampleSet, step: int
    ) -> ExplanationRound:
        if not self._explainer.is_prepared:
            context.require(partial(self._prepare, context, samples))
            self._explainer.settle(context)
        skip = [name for name in self.series if self._failures.is_disabled(name)]
        explanations, failures = self._explainer.explain(context, samples, skip)
        return ExplanationRound(
            epoch=context.epoch,
            step=step,
            samples=samples,
            sample_ids=self._samples.indices or list(range(len(samples))),
            series=self.series,
            explanations=explanations,
            failures=failures,
            pictures=self._pictures,
            count=self._budget.made + 1,
            log=self._log,
        )

    def _notify_listeners(self, context: RunContext, round: ExplanationRound) -> None:
        """Tell every callback with a method ``on_explained``, wherever it stands in the list."""
        for callback in context.callbacks:
            listen = getattr(callback, "on_explained", None)
            if listen is not None:
                listen(context.trainer, context.pl_module, self, round)

    def _is_number(self, tag: str) -> bool:
        """Whether a number is logged under a tag, sooner or later."""
        known = list(self.series)
        if self._evidence is not None:
            known += [f"evidence/{choice_name(choice)}" for choice in self._explainer.choices]
        return tag in self.tags or is_measured_apart(tag, self._prefix, known)


def _unchanged(entries: Mapping[str, Any], changed: Collection[str]) -> dict[str, Any]:
    """Return the entries, by series, of the methods that have not changed."""
    return {name: each for name, each in entries.items() if name.partition("/")[0] not in changed}
