"""What the network needs: the evidence for the explained classes, measured by removing it."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_saliency.callbacks.evidence_change import NUMBERS, EvidenceTracker
from lightning_saliency.callbacks.explainer import Explainer, isolated_share, to_model_input
from lightning_saliency.callbacks.explanation import ExplanationRound, choice_name
from lightning_saliency.callbacks.failures import warn
from lightning_saliency.callbacks.forward import explained_model
from lightning_saliency.callbacks.method_call import chosen_classes, logits_of, read_answer
from lightning_saliency.callbacks.run_context import RunContext, best_score
from lightning_saliency.callbacks.samples.batch import class_indices
from lightning_saliency.callbacks.samples.sample_set import SampleSet
from lightning_saliency.callbacks.settings import Pinned, checked_evidence
from lightning_saliency.callbacks.stage_runner import Stage
from lightning_saliency.errors import InputError
from lightning_saliency.image.parts import cell_bounds
from lightning_saliency.metrics.evidence import evidence_overlap, prediction_information
from lightning_saliency.network.batching import Batches, batches_for
from lightning_saliency.network.score import class_logits, is_score_map
from lightning_saliency.trust.evidence import (
    Evidence,
    EvidenceShares,
    Removals,
    choose_partners,
    score_of_targets,
)

# So much of what predictions could tell of the samples (prediction_information) they tell when a
# network begins to learn its task. In ten runs of five tasks it was below 0.02 before, and above
# 0.2 within a few epochs.
_KNOWS = 0.1


class EvidenceStage(Stage):
    """Measures the evidence, each process that of its share of the samples, and logs its change.

    Every process makes the same number of passes of the model. Part of the explanation, so that the
    budget knows what it takes.

    Args:
        explainer: knows how the module is called, and which classes are explained.
        settings: of the grid and the ways of removing.
        pinned: which measurement is the pinned reference.
        warmup_epochs: before it is pinned.
        prefix: stands before all tags.
    """

    name: ClassVar[str] = "evidence"

    def __init__(
        self,
        explainer: Explainer,
        settings: Evidence,
        pinned: Pinned,
        warmup_epochs: int,
        prefix: str,
    ) -> None:
        self._explainer = explainer
        self._settings = settings
        self.every = settings.every
        self._prefix = prefix
        self._start = pinned if isinstance(pinned, int) else warmup_epochs
        self._follows_best = pinned == "best"
        self._trackers = self._new_trackers()
        # Chosen once, so that each explanation exchanges the same parts.
        self._partners: Tensor | None = None
        self._has_chosen = False

    @property
    def families(self) -> set[str]:
        """The beginnings of the tags that are written."""
        return {f"{self._prefix}saliency_evidence/{name}" for name in self._trackers}

    @property
    def number_tags(self) -> list[str]:
        """The tags of the numbers."""
        return [f"{family}/{name}" for family in sorted(self.families) for name in NUMBERS]

    def _new_trackers(self) -> dict[str, EvidenceTracker]:
        names = [choice_name(choice) for choice in self._explainer.choices]
        return {name: EvidenceTracker(self._start, self._follows_best) for name in names}

    @override
    def prepare(self, context: RunContext, probe: SampleSet) -> None:
        cell_bounds((probe.images.shape[2], probe.images.shape[3]), self._settings.grid)

    @override
    def is_due(self, context: RunContext, round: ExplanationRound) -> bool:
        return (round.count - 1) % self.every == 0

    def rehearse(self, context: RunContext, samples: SampleSet) -> None:
        """Measure one sample for the account alone, to know what all of them will take.

        Args:
            context: of the run.
            samples: the first of them.
        """
        with_itself = torch.zeros(1, dtype=torch.int64)
        context.require(lambda: self._measure(context, samples[:1], with_itself))

    @override
    def run(self, context: RunContext, round: ExplanationRound) -> None:
        count = len(round.samples)
        context.require(partial(checked_evidence, self._settings, count))
        partners = self._partners_of(context, round.samples)
        measured, probability = context.require(
            lambda: self._measure(context, round.samples, partners)
        )
        gather = partial(context.gather_shares, count=count)
        # What is monitored must be the same everywhere, on unlike machines too.
        shares, probability = context.broadcast(
            ({name: each.each(gather) for name, each in measured.items()}, gather(probability))
        )
        knows = _knows(probability)
        best = best_score(context.trainer)
        for name, each in shares.items():
            tracker = self._trackers[name]
            round.evidence[name] = tracker.advance(
                name, each, round.epoch, best, self._prefix, knows
            )
        values = {
            f"{self._prefix}saliency_evidence/{name}/{what}": value
            for name, change in round.evidence.items()
            for what, value in change.numbers.items()
        }
        round.values |= values
        context.log_numbers(values | self._overlaps(round), count, level=round.log)
        context.require(lambda: self._draw(context, round))

    def state_dict(self) -> dict[str, Any]:
        """Return the measurements and the partners for a checkpoint."""
        return {
            "grid": self._settings.grid,
            "probes": self._settings.probes,
            "trackers": {name: each.state_dict() for name, each in self._trackers.items()},
            "has_chosen": self._has_chosen,
            "partners": None if self._partners is None else self._partners.tolist(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the measurements of a checkpoint; with an empty state, start over.

        Raises:
            Exception: there is something else in it, or it was measured with other settings.
                Nothing has changed then.
        """
        trackers, partners = self._new_trackers(), None
        if state:
            settings = self._settings.grid, self._settings.probes
            if (state["grid"], state["probes"]) != settings:
                raise ValueError(f"grid={state['grid']}, probes={state['probes']!r}")
            for name, tracker in trackers.items():
                if name in state["trackers"]:
                    tracker.load_state_dict(state["trackers"][name])
            if state["partners"] is not None:
                partners = torch.tensor([int(index) for index in state["partners"]])
        self._trackers, self._partners = trackers, partners
        self._has_chosen = bool(state) and bool(state["has_chosen"])

    def _partners_of(self, context: RunContext, samples: SampleSet) -> Tensor | None:
        if not self._has_chosen and self._settings.probes == "both":
            classes = _label_classes(samples.labels, self._explainer.choices)
            if classes is None:
                found = context.require(lambda: self._predict(context, samples))
                classes = context.broadcast(context.gather_shares(found, len(samples)))
            self._partners = choose_partners(classes)
            if self._partners is None:
                warn(
                    "The samples are all of one class, so that no part of a picture can be "
                    "exchanged with another class's: the evidence is measured by filling in alone. "
                    "For both, explain samples of several classes, for instance samples=[0, 5, "
                    "17, ...] by their indices."
                )
        self._has_chosen = True
        return self._partners

    def _predict(self, context: RunContext, samples: SampleSet) -> Tensor:
        """Return the predicted classes of this process's samples."""
        model = explained_model(context.pl_module, self._explainer.forward)
        with isolated_share(context, model, samples) as share, torch.no_grad():
            parts = [
                class_logits(part(some.clone()), len(some)).argmax(1)
                for part, which in self._models(context, share)
                for some in [share.images[which]]
            ]
        return torch.cat(parts).cpu()

    def _measure(
        self, context: RunContext, samples: SampleSet, partners: Tensor | None
    ) -> tuple[dict[str, EvidenceShares], Tensor]:
        """Return the shares of this process's samples by the choice of class, and the predictions.

        These are probabilities (N, classes); (N, 1) where no class of the picture is explained.
        """
        model = explained_model(context.pl_module, self._explainer.forward)
        mine = context.numbers_of_this_rank(len(samples))
        ours = None if partners is None else partners[mine]
        everything = to_model_input(context, samples).images
        choices = self._explainer.choices
        score = self._score(samples.labels)
        column = _column(samples.labels, choices)
        parts: list[list[EvidenceShares]] = []
        probabilities: list[Tensor] = []
        with isolated_share(context, model, samples) as share, torch.no_grad():
            # One model, or one for each sample that has further inputs.
            for part, which in self._models(context, share):
                some = share[which]
                output = part(some.images.clone())
                answer = read_answer(output, len(some), choices).float()
                logits = logits_of(answer, choices)
                one_each = logits.shape[1] > 0 and not is_score_map(output, len(some))
                nothing = torch.ones(len(logits), 1)
                probabilities.append(_probability(logits, column) if one_each else nothing)
                targets = [chosen_classes(some, logits, choice) for choice in choices]
                theirs = None if ours is None else ours[which]
                removals = Removals(some.images, everything, theirs, self._settings)
                batches = batches_for("auto", some.images)
                if any(map(callable, choices)):
                    # What is called may know which picture is which.
                    batches = Batches(len(some), some.images.device)
                parts.append(removals.shares(part, score_of_targets(targets, score), batches))
        shares = {
            choice_name(choice): EvidenceShares(
                torch.cat([part[row].place for part in parts]),
                torch.cat([part[row].kind for part in parts]),
            )
            for row, choice in enumerate(choices)
        }
        return shares, torch.cat(probabilities)

    def _models(self, context: RunContext, share: SampleSet) -> list[tuple[nn.Module, slice]]:
        return self._explainer.models(context.pl_module, share)

    def _score(self, labels: Tensor | None) -> Literal["log_odds", "logit"]:
        if self._settings.score != "auto":
            return self._settings.score
        return "logit" if _are_multi_label(labels) else "log_odds"

    def _draw(self, context: RunContext, round: ExplanationRound) -> None:
        working = [adapter for adapter in context.adapters() if adapter.takes_images]
        if not context.is_rank_zero or not working:
            return
        for name, change in round.evidence.items():
            picture, tag = change.strip(), f"{self._prefix}saliency/evidence/{name}"
            for adapter in working:
                adapter.image(tag, picture, round.step, palette=True)

    def _overlaps(self, round: ExplanationRound) -> dict[str, float]:
        """Return for each series how much of its maps lies where removal matters."""
        found: dict[str, float] = {}
        for name, explanation in round.explanations.items():
            choices = list(round.evidence)
            change = round.evidence[choices[0] if len(choices) == 1 else name.rpartition("/")[2]]
            overlap = evidence_overlap(explanation.saliency, change.now.place).nanmean()
            found[f"{self._prefix}saliency_evidence_overlap/{name}"] = float(overlap)
        for name, change in round.evidence.items() if found else ():
            even = torch.ones(len(round.samples), 1, change.grid, change.grid)
            tag = f"{self._prefix}saliency_evidence_overlap/even/{name}"
            found[tag] = float(evidence_overlap(even, change.now.place).nanmean())
        return found


def _are_multi_label(labels: Tensor | None) -> bool:
    """Whether labels (N, classes) of 0 and 1 name none or several classes for some sample."""
    if labels is None or labels.dim() != 2 or labels.shape[1] < 2:
        return False
    are_binary = bool(((labels == 0) | (labels == 1)).all())
    return are_binary and bool((labels.sum(1) != 1).any())


def _label_classes(labels: Tensor | None, choices: Sequence[Any]) -> Tensor | None:
    """Return the classes (N,) that labels tell; None if they tell none."""
    if labels is not None and _are_multi_label(labels):
        column = _column(labels, choices)
        return None if column is None else labels[:, column].long()
    try:
        return class_indices(labels, "the samples")
    except InputError:
        return None


def _column(labels: Tensor | None, choices: Sequence[Any]) -> int | None:
    """Return which class of multi-label labels is explained first; None if none is, or others."""
    if labels is None or not _are_multi_label(labels):
        return None
    wanted = (each for each in choices if isinstance(each, int) and each < labels.shape[1])
    return next(wanted, None)


def _probability(logits: Tensor, column: int | None) -> Tensor:
    """Return the probabilities of the classes, or whether one of several at once is there, (N, 2).

    Args:
        logits: (N, classes).
        column: of the one class; None where a picture is of one class only.
    """
    if column is not None:
        one = logits[:, column]
        logits = torch.stack([torch.zeros_like(one), one], 1)
    return logits.softmax(1).cpu()


def _knows(probability: Tensor) -> bool:
    """Whether predictions (N, classes) tell the pictures apart; also if there are none."""
    if min(probability.shape) < 2:
        return True
    return bool(prediction_information(probability) >= _KNOWS)
