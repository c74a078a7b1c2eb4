"""What comes out of an explanation, and the names under which it is logged."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, Protocol, TypeAlias

from torch import Tensor, nn

from lightning_saliency.attribution.extras import Extras
from lightning_saliency.attribution.method import AttributionMethod
from lightning_saliency.callbacks.evidence_change import EvidenceChange
from lightning_saliency.callbacks.failures import Failure
from lightning_saliency.callbacks.samples.sample_set import SampleSet
from lightning_saliency.callbacks.tags import LogLevel, names_of, value_tag
from lightning_saliency.metrics.map_statistics import MapStatistics, canonical
from lightning_saliency.targets import ScoreTarget, name_of_target

Method: TypeAlias = AttributionMethod | Callable[[nn.Module, Tensor, Any], Tensor]
"""A method, or a function (model, image, target) -> maps (N, 1, H, W)."""

ClassChoice: TypeAlias = Literal["label", "predicted"] | int | ScoreTarget | Callable[[Any], Tensor]
"""What is explained: each sample's label, the class predicted now, one class, or a score: something
callable, from the module's output to (N,), see :mod:`lightning_saliency.targets`."""


def choice_name(choice: ClassChoice) -> str:
    """Return what a choice is called in tags.

    Args:
        choice: of what is explained.
    """
    return name_of_target(choice) if callable(choice) else str(choice)


@dataclass(frozen=True)
class NamedMethod:
    """A method and the name under which its maps are logged."""

    name: str
    method: AttributionMethod


@dataclass(frozen=True)
class Series:
    """What is followed over a run: the maps of one method for one choice of class.

    Attributes:
        name: as it stands in the tags, such as ``"grad_cam"`` or ``"grad_cam/predicted"``.
        method: makes the maps.
        prefix: stands before all tags of the callback.
        score: the callable of the user whose value is explained; None where that is a class.
    """

    name: str
    method: AttributionMethod
    prefix: str = ""
    score: Callable[[Any], Tensor] | None = None

    def tag(self, what: str) -> str:
        """Return the tag of a number, such as ``"saliency_drift/grad_cam/previous/ssim"``.

        Args:
            what: for instance ``"drift/previous/ssim"``.
        """
        return self.prefix + value_tag(self.name, what)


@dataclass(frozen=True)
class KnownTags:
    """The tags of a callback's numbers, before the first explanation.

    Attributes:
        names: the tags.
        may_grow: whether regions can come with the samples, whose tags are not known yet.
    """

    names: tuple[str, ...]
    may_grow: bool

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __contains__(self, tag: object) -> bool:
        return any(tag in names_of(name) for name in self.names)


@dataclass(frozen=True)
class Explanation:
    """What one method says about the samples at one time; all on the CPU.

    Attributes:
        saliency: (N, 1, H, W), float32.
        target: (N,), int64, the explained classes; -1 where a score of the user is explained.
        predicted: (N,), int64, the classes that the model predicts; -1 if it is no classifier.
        probability: (N,), float32, the explained classes' probabilities; NaN for scores.
        log_probability: (N,), float32, their natural logarithms; NaN for scores.
        extras: what the method found besides maps; None for most methods.
        score: (N,), float32, the values of the user's score; None where a class is explained.
        score_name: what it is called; empty where a class is explained.
    """

    saliency: Tensor
    target: Tensor
    predicted: Tensor
    probability: Tensor
    log_probability: Tensor
    extras: Extras | None = None
    score: Tensor | None = None
    score_name: str = ""

    def each(self, change: Callable[[Tensor], Tensor]) -> "Explanation":
        """Return the same with all tensors, of which the first dimension is N, changed alike."""
        tensors: dict[str, Any] = {
            name: change(each) for name, each in vars(self).items() if isinstance(each, Tensor)
        }
        return replace(self, **tensors, extras=self.extras and self.extras.each(change))

    @property
    def sureness(self) -> Tensor:
        """The probabilities of the explained classes, or the values of the score, (N,)."""
        return self.probability if self.score is None else self.score

    def explained(self, index: int, class_name: Callable[[int], str]) -> str:
        """Return what is explained of a sample, in words.

        Args:
            index: of the sample.
            class_name: from a class index to what is shown.
        """
        return self.score_name or class_name(int(self.target[index]))


@dataclass(frozen=True)
class Reference:
    """An explanation, as far as it is needed to compare with it.

    Attributes:
        maps: (N, 1, h, w), float32, on the CPU, at most 64 x 64.
        target: (N,), the classes that were explained.
        predicted: (N,), the classes that the model predicted.
        probability: (N,), of the explained classes; the values of a score.
        epoch: when it was made.
    """

    maps: Tensor
    target: Tensor
    predicted: Tensor
    probability: Tensor
    epoch: int

    @classmethod
    def of(cls, explanation: Explanation, epoch: int) -> "Reference":
        """Return what is kept of an explanation."""
        return cls(
            canonical(explanation.saliency),
            explanation.target,
            explanation.predicted,
            explanation.sureness,
            epoch,
        )

    @classmethod
    def of_state(cls, state: Mapping[str, Any]) -> "Reference":
        """Return what ``asdict`` made of a reference.

        Raises:
            Exception: there is something else in it.
        """
        found = cls(**state)
        count = len(found.maps)
        each = (found.target, found.predicted, found.probability)
        if found.maps.dim() != 4 or any(tuple(one.shape) != (count,) for one in each):
            raise ValueError(f"maps of shape {tuple(found.maps.shape)}")
        return replace(found, epoch=int(found.epoch))

    @cached_property
    def described(self) -> MapStatistics:
        """The maps with what the measures need of each: it is compared with more than once."""
        return MapStatistics(self.maps)


@dataclass(frozen=True)
class ReferencePair:
    """What an explanation was compared with.

    Attributes:
        current: the explanation.
        previous: the explanation before; of the first one, itself.
        pinned: the pinned explanation; as long as none is settled, the explanation itself.
        is_settled: whether later explanations are compared with the same pinned one.
    """

    current: Reference
    previous: Reference
    pinned: Reference
    is_settled: bool

    def others(self) -> dict[str, Reference]:
        """Return those of ``previous`` and ``pinned`` that are not the explanation itself."""
        both = {"previous": self.previous, "pinned": self.pinned}
        return {name: one for name, one in both.items() if one is not self.current}


@dataclass(frozen=True)
class DriftResult:
    """What has been measured of one explanation.

    Attributes:
        numbers: over the samples, by the name that stands in the tags, such as
            ``drift/previous/ssim``.
        samples: for each reference that the maps were compared with and each measure, such as
            ``previous/ssim``, one value for each sample, (N,); NaN for degenerate maps.
        flipped: for each reference, which samples have another predicted class, bool, (N,).
        references: what the maps were compared with.
    """

    numbers: dict[str, float]
    samples: dict[str, Tensor]
    flipped: dict[str, Tensor]
    references: ReferencePair


class Painter(Protocol):
    """Draws in the colors of the run."""

    def show(self, images: Tensor) -> Tensor:
        """Return the model's images (N, C, H, W) as RGB, (N, 3, H, W) in [0, 1], on the CPU."""

    def class_name(self, index: int) -> str:
        """Return what is shown for a class."""

    def before_and_after(
        self,
        series: str,
        images: Tensor,
        before: Reference,
        now: Reference,
        amounts: Tensor,
        labels: Tensor | None = None,
    ) -> Tensor:
        """Draw the samples that moved most, (3, height, width), RGB, uint8.

        Args:
            series: for instance ``"grad_cam"``.
            images: (N, C, H, W), as the model takes them.
            before: the explanation before.
            now: the explanation now.
            amounts: (N,), how far each sample has moved, NaN where that is not known.
            labels: (N,), the right classes; None if they are not known.
        """

    def mark_alarm(self, series: str) -> None:
        """An alarm sounded at the newest explanation of a series."""


@dataclass
class ExplanationRound:
    """One explanation of all samples by all methods, the same on all processes.

    The explainer makes it, the drift stage fills in what was measured, the stages after it and
    callbacks with a method ``on_explained`` read it.

    Attributes:
        epoch: of the run.
        step: at which the numbers and pictures of this explanation stand.
        samples: (N samples) as the model takes them.
        sample_ids: N indices into the validation dataset, or places among its first samples.
        series: what was to be explained, by name.
        explanations: what was, by series.
        failures: for each series that was tried, what went wrong, None if nothing did.
        pictures: draws in the colors of the run.
        count: explanations without failure so far, this one included.
        values: the numbers, by the tags under which they can be monitored.
        drift: by series, how far each sample has moved.
        located: by series, what each map lies on: values (N,) by the name of the number.
        evidence: by the choice of class, such as ``"label"``, what the network needs.
        log: which numbers the loggers get.
        alarms: that sounded at it, each its series, its reference and its text.
    """

    epoch: int
    step: int
    samples: SampleSet
    sample_ids: list[int]
    series: dict[str, Series]
    explanations: dict[str, Explanation]
    failures: dict[str, Failure | None]
    pictures: Painter
    count: int = 0
    values: dict[str, float] = field(default_factory=dict)
    drift: dict[str, DriftResult] = field(default_factory=dict)
    located: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    evidence: dict[str, EvidenceChange] = field(default_factory=dict)
    log: LogLevel = "basic"
    alarms: list[tuple[str, str, str]] = field(default_factory=list)

    @property
    def is_measured(self) -> bool:
        """Whether the drift stage, or that of the evidence, has filled in its part."""
        return bool(self.drift) or bool(self.evidence)

    @property
    def references(self) -> dict[str, ReferencePair]:
        """By series, what the maps were compared with."""
        return {name: drift.references for name, drift in self.drift.items()}
