"""An alarm for a network that begins to look elsewhere."""

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from typing_extensions import override

from lightning_saliency.callbacks.drift_alarm.evidence_report import (
    EvidenceReport,
    evidence_of,
    gain_tags,
)
from lightning_saliency.callbacks.drift_alarm.report import Finding, Report
from lightning_saliency.callbacks.drift_alarm.rules import (
    Rules,
    Watched,
    alarm_amount,
    limit_said,
)
from lightning_saliency.callbacks.drift_alarm.watched_tags import WatchedTags, series_of
from lightning_saliency.callbacks.explanation import ExplanationRound
from lightning_saliency.callbacks.failures import describe_error, warn
from lightning_saliency.callbacks.resume import STATE_VERSION, StateParts
from lightning_saliency.callbacks.run_context import RunContext
from lightning_saliency.callbacks.saliency import SaliencyCallback
from lightning_saliency.callbacks.tags import alarm_tag

_log = logging.getLogger(__name__)


class DriftAlarm(pl.Callback):
    """Sound when the numbers of a saliency callback are out of the usual.

    Stands in the Trainer beside the saliency callbacks, in any order, and judges their numbers
    after each explanation of ``fit``:

    - drift from the ``previous`` explanation, and any other number: is it higher than the median of
      the last ``window`` ones by more than ``factor`` * max(1.4826 MAD, 0.02)? See
      :func:`~lightning_saliency.metrics.change_detection.spike_score`;
    - drift from the ``pinned`` explanation: did it rise above its trend? See
      :func:`~lightning_saliency.metrics.change_detection.page_hinkley_score`;
    - where the evidence is measured (:class:`~lightning_saliency.trust.Evidence`), the gain of one
      place, or of one kind of content, within three explanations: is it higher than usual? This
      hears a shortcut that joins valid evidence, when the maps hardly move. Evidence moves when a
      network begins to learn its task, so a gain is judged only if three explanations ago the
      predictions told the samples apart
      (:func:`~lightning_saliency.metrics.evidence.prediction_information`).

    A drift sounds when two of its measures agree; as many drifts are watched, each must then be out
    of the usual by twice that. Similarities, and what lies on an object, count as 1 - value, so
    that more is always worse.

    An alarm is a warning, a line in the log, and for TensorBoard a text and a picture that shows
    before and after of the samples that moved most. It sounds once when a number leaves the usual,
    and again only after it came back. How far a drift is from sounding is always logged, as
    ``saliency_alarm/<method>/<reference>`` (for other numbers than drift ``saliency_alarm/<the tag
    after "saliency_">``), from the first explanation on that there is enough to judge by: an alarm
    above 1. The scores of each measure, ``saliency_alarm/<method>/<reference>/<measure>``, are in
    ``trainer.callback_metrics``, and logged with ``log="full"`` of the saliency callback.

    Guided backprop and DeconvNet hardly depend on the later layers' weights, so their maps can stay
    where they are while the network changes: Adebayo et al. Sanity checks for saliency maps.
    NeurIPS 2018, arXiv:1810.03292; Nie, Zhang, Patel. A theoretical explanation for perplexing
    behaviors of backpropagation-based visualizations. ICML 2018, arXiv:1805.07039; Sixt, Granz,
    Landgraf. When explanations lie. ICML 2020, arXiv:1912.09818. They are not watched unless they
    are named in full. That a network looks at what nobody thinks of, no alarm tells (Adebayo et
    al. Post hoc explanations may be ineffective for detecting unknown spurious correlation. ICLR
    2022, arXiv:2212.04629).

    Args:
        monitor: which numbers: tags that a saliency callback logs, in full or with ``*`` for any
            part; one or several. None for ``top10_iou``, ``spearman`` and ``ssim`` of all methods,
            against both references, and the gains of the evidence, if it is measured.
        warmup: first explanations that are not judged, nor judged by: every network finds its way
            then.
        window: explanations that the newest one is compared with.
        factor: how many standard deviations make an alarm.
        limit: sound also if a number is above this (a similarity below 1 - this), from the first
            explanation on; for instance for the share of the map in a region.
        agree: how many of the watched measures of one drift must be out of the usual together, or
            all of them if there are fewer: one by itself is, once in a few runs, by chance. If it
            is 1, or a single measure is watched, that one need not be twice as far out.
        stop: let the Trainer end the run at an alarm.
        save_checkpoint: save one at an alarm, beside the run's other checkpoints; or the folder.

    Raises:
        InputError: a setting cannot be used; or, before the first training step, there is no
            saliency callback, or none logs what is to be watched.
    """

    def __init__(
        self,
        monitor: str | Sequence[str] | None = None,
        warmup: int = 5,
        window: int = 8,
        factor: float = 4.0,
        limit: float | None = None,
        agree: int = 2,
        stop: bool = False,
        save_checkpoint: bool | str = False,
    ) -> None:
        super().__init__()
        self._tags = WatchedTags(monitor)
        self._rules = Rules(warmup, window, factor, limit, agree)
        self.stop = stop
        self.save_checkpoint = save_checkpoint
        self._watched: dict[str, Watched] = {}
        self._save_as: str | None = None
        self._is_set_up = False

    @property
    @override
    def state_key(self) -> str:
        """What this callback's state is filed under in a checkpoint: what it watches."""
        key = self._generate_state_key(monitor=self._tags.patterns)
        return key if self._is_set_up else f"{key}@{id(self)}"

    @property
    def sounding(self) -> list[str]:
        """The tags of the numbers that are out of the usual now."""
        return [tag for tag, watched in self._watched.items() if watched.sounding]

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Check that what is to be watched is logged."""
        if stage == "fit":
            callbacks = RunContext(trainer, pl_module).callbacks
            alarms = [c for c in callbacks if isinstance(c, DriftAlarm) and c is not self]
            self._tags.check(_sources(callbacks), [alarm._tags for alarm in alarms])
        self._is_set_up = True

    def on_explained(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        source: SaliencyCallback,
        round: ExplanationRound,
    ) -> None:
        """Judge the numbers of an explanation, log the scores, and raise the alarm.

        Args:
            trainer: of the run.
            pl_module: the module that was explained.
            source: the saliency callback that explained it.
            round: what it found.
        """
        context = RunContext(trainer, pl_module)
        if not context.follows_fit:
            return
        self._tags.check_again(_sources(context.callbacks), list(round.values))
        come_later = [*_still_to_come(source, round), *gain_tags(round)]
        tags = self._tags.watched(source, dict.fromkeys([*round.values, *come_later]))
        for tag in tags:
            self._watched.setdefault(tag, Watched(tag))
        members = Counter(self._watched[tag].group for tag in tags)
        findings = {
            tag: self._judge(tag, round, source, members[self._watched[tag].group]) for tag in tags
        }
        scores = {alarm_tag(tag): finding.score for tag, finding in findings.items()}
        deciding, agreeing = self._deciding(findings)
        judged = {tag: each for tag, each in (scores | deciding).items() if math.isfinite(each)}
        # A chart of what decides says how near an alarm is, and not one for each that must agree.
        unlogged = agreeing if round.log == "basic" else ()
        context.log_numbers(judged, len(round.samples), level=round.log, unlogged=unlogged)
        found = self._new_alarms(findings, source, round)
        # The numbers are the same on all processes; that all do the same must not depend on it.
        if trainer.strategy.reduce_boolean_decision(bool(found), all=False):
            self._raise_alarm(context, round, found)

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say if the evidence was never judged, because the network knew nothing."""
        withheld = [tag for tag, watched in self._watched.items() if watched.judged is False]
        if withheld:
            warn(
                f"Nothing was judged of {', '.join(withheld)}: the model's predictions never told "
                "the samples apart, and as long as they do not, the evidence moves because the "
                "model learns. Explain samples of several classes; if the model is no classifier, "
                "explain a score of your own with target=."
            )

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the checkpoint of an alarm, now that all callbacks have seen the validation run."""
        if self._save_as is not None:
            path, self._save_as = self._save_as, None
            _save(trainer, path)

    @override
    def state_dict(self) -> dict[str, Any]:
        """Return the numbers so far."""
        watched = {tag: each.state_dict() for tag, each in self._watched.items()}
        return {"version": STATE_VERSION, "watched": watched}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the numbers of a checkpoint; those that cannot be used start over."""
        if "watched" not in state_dict:
            # Version 1 held nothing else.
            state_dict = {"watched": state_dict}
        parts = StateParts(state_dict)
        parts.load("the watched numbers", self._load_watched, "watched")
        parts.warn_of_lost(type(self).__name__)

    def _load_watched(self, entries: Mapping[str, Any]) -> None:
        self._watched = {tag: Watched.of(entry) for tag, entry in entries.items()}

    def _judge(
        self, tag: str, round: ExplanationRound, source: SaliencyCallback, members: int
    ) -> Finding:
        watched, value = self._watched[tag], round.values.get(tag, math.nan)
        pinned, evidence = None, evidence_of(tag, round)
        if evidence is None:
            pinned = round.references[str(series_of(tag, source))].pinned.epoch
        alone = min(self._rules.agree, members) == 1
        means_something = evidence is None or evidence.knew
        score = watched.judge(value, self._rules, pinned, alone, means_something)
        usual = watched.usual(self._rules)
        if usual is not None and alarm_amount(tag, 0.0) == 1.0:
            usual = 1 - usual[1], 1 - usual[0]
        return Finding(tag, value, score, usual, limit_said(tag, value, self._rules))

    def _deciding(self, findings: Mapping[str, Finding]) -> tuple[dict[str, float], set[str]]:
        """Return the scores of drifts of several measures, and the tags of those measures' scores.

        Such a drift sounds when its score is above 1: so many of its measures' scores are then.
        """
        groups: dict[str, dict[str, float]] = {}
        for tag, finding in findings.items():
            groups.setdefault(self._watched[tag].group, {})[alarm_tag(tag)] = finding.score
        groups = {group: scores for group, scores in groups.items() if len(scores) > 1}
        deciding = {}
        for group, scores in groups.items():
            loudest = sorted(-math.inf if each != each else each for each in scores.values())
            deciding[alarm_tag(group)] = loudest[-min(self._rules.agree, len(loudest))]
        return deciding, {tag for scores in groups.values() for tag in scores}

    def _new_alarms(
        self, findings: Mapping[str, Finding], source: SaliencyCallback, round: ExplanationRound
    ) -> dict[tuple[str, str], list[Finding]]:
        """Return what sounds now and did not before, by series and reference."""
        groups: dict[str, list[Finding]] = {}
        for tag, finding in findings.items():
            groups.setdefault(self._watched[tag].group, []).append(finding)
        found: dict[tuple[str, str], list[Finding]] = {}
        for members in groups.values():
            loud = [finding for finding in members if finding.score > 1]
            sounds = len(loud) >= min(self._rules.agree, len(members))
            did = any(self._watched[finding.tag].sounding for finding in members)
            for finding in members:
                self._watched[finding.tag].sounding = sounds and finding.score > 1
            if sounds and not did:
                tag = loud[0].tag
                change = evidence_of(tag, round)
                series = str(series_of(tag, source)) if change is None else change.name
                key = series, "evidence" if change else self._watched[tag].reference
                found.setdefault(key, []).extend(loud)
        return found

    def _raise_alarm(
        self,
        context: RunContext,
        round: ExplanationRound,
        found: Mapping[tuple[str, str], Sequence[Finding]],
    ) -> None:
        trainer = context.trainer
        for (series, reference), findings in found.items():
            report: Report | EvidenceReport
            if reference == "evidence":
                report = EvidenceReport(round.evidence[series], findings, round)
            else:
                report = Report(series, reference, findings, round)
                round.pictures.mark_alarm(series)
            _log.info("%s", report.line())
            warn(report.line())
            round.alarms.append((series, reference, report.text(_picture_tag(report, round))))
            if context.is_rank_zero:
                _show(report, context, round)
        if self.save_checkpoint and context.is_fitting:
            name = f"saliency_alarm-epoch={round.epoch}-step={trainer.global_step}.ckpt"
            path = str(self._folder(context) / name)
            if trainer.validating:
                self._save_as = path
            else:
                _save(trainer, path)
        trainer.should_stop = trainer.should_stop or self.stop

    def _folder(self, context: RunContext) -> Path:
        if isinstance(self.save_checkpoint, str):
            return Path(self.save_checkpoint)
        beside = getattr(context.trainer.checkpoint_callback, "dirpath", None)
        return Path(beside) if beside else context.folder() / "checkpoints"


def _sources(callbacks: Sequence[pl.Callback]) -> list[SaliencyCallback]:
    return [one for one in callbacks if isinstance(one, SaliencyCallback)]


def _still_to_come(source: SaliencyCallback, round: ExplanationRound) -> list[str]:
    """Return the numbers that there will be once there is something to compare with."""
    tags = [tag for tag in source.tags if tag not in round.values]
    # Of flipped samples there are numbers now and then.
    tags = [tag for tag in tags if "saliency_drift_flipped/" not in tag]
    return [tag for tag in tags if series_of(tag, source) in round.drift]


def _show(report: Report | EvidenceReport, context: RunContext, round: ExplanationRound) -> None:
    tag = (
        report.tag
        if isinstance(report, EvidenceReport)
        else f"{_prefix(report, round)}saliency_alarm/{report.series}/{report.reference}"
    )
    picture_tag = _picture_tag(report, round)
    try:
        picture = report.picture()
        for adapter in context.adapters():
            adapter.text(tag, report.text(picture_tag), round.step)
            adapter.image(picture_tag, picture, round.step)
    except Exception as error:
        warn(
            f"The alarm of epoch {context.epoch} could not be logged; training goes on. "
            f"{describe_error(error)}"
        )


def _picture_tag(report: Report | EvidenceReport, round: ExplanationRound) -> str:
    return f"{_prefix(report, round)}saliency/alarm/{report.series}"


def _prefix(report: Report | EvidenceReport, round: ExplanationRound) -> str:
    if isinstance(report, EvidenceReport):
        return report.prefix
    return round.series[report.series].prefix


def _save(trainer: pl.Trainer, path: str) -> None:
    try:
        trainer.save_checkpoint(path)
    except OSError as error:
        warn(
            f"The checkpoint of the alarm could not be saved as {path}; training goes on. "
            f"{describe_error(error)}"
        )
        # Where the other processes wait for this one.
        trainer.strategy.barrier("Trainer.save_checkpoint")
