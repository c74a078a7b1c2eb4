"""One watched series of numbers: what it is called, how it is judged, and what it was so far."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from lightning_saliency.errors import InputError
from lightning_saliency.metrics.change_detection import PageHinkley, spike_score
from lightning_saliency.metrics.coarse import COMPARED
from lightning_saliency.metrics.map_similarity import MEASURES
from lightning_saliency.metrics.object_measures import OBJECT_MEASURES

# How much further out of the usual several measures of many drifts must be than one that is watched
# alone. In 20 clean runs the second highest score of a drift reached 1.7 (of RISE); where the
# weights were lost, it was at least 2.7 (tests/performance/alarm_rates.py).
_TOGETHER = 2.0


# Lower bounds of the deviation: shares of single places move less than maps do, those of the few
# kinds of content more.
_FLOORS = {"place_gain": 0.01, "kind_gain": 0.03}
_FLOOR = 0.02


@dataclass(frozen=True)
class Rules:
    """When a number is out of the usual.

    Attributes:
        warmup: first explanations that are not judged, nor judged by.
        window: explanations before the newest that it is compared with.
        factor: how many standard deviations make an alarm.
        limit: an alarm from the first explanation on if the amount is above it; None for none.
        agree: how many measures of one drift must be out of the usual together, each by twice what
            one alone must be.

    Raises:
        InputError: one of them is out of its range.
    """

    warmup: int = 5
    window: int = 8
    factor: float = 4.0
    limit: float | None = None
    agree: int = 2

    def __post_init__(self) -> None:
        for name, least in {"warmup": 0, "window": 4, "agree": 1}.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InputError(
                    f"Expected {name} to be an integer of at least {least}, got {value!r}."
                )
        for name in ("factor", "limit"):
            value = getattr(self, name)
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if value is not None and not (is_number and 0 < value < math.inf):
                raise InputError(f"Expected {name} to be a number above 0, got {value!r}.")


def alarm_amount(tag: str, value: float) -> float:
    """Turn a logged number into one of which more is worse.

    Args:
        tag: that the number is logged under.
        value: the number.

    Returns:
        For a measure of drift and of what lies on an object its :meth:`~.Measure.amount`; for
        probabilities 1 - value; else the value.
    """
    family, _, rest = tag.rpartition("saliency_")[2].partition("/")
    measure = rest.rpartition("/")[2]
    if family == "drift" and measure in COMPARED:
        return COMPARED[measure].amount(value)
    if family == "object" and measure in OBJECT_MEASURES:
        return OBJECT_MEASURES[measure].amount(value)
    return 1 - value if measure == "probability" else value


@dataclass
class Watched:
    """The numbers under one tag.

    Attributes:
        tag: that they are logged under.
        amounts: those of the newest explanations, more is worse; as many as are looked at again.
        count: explanations so far.
        begin: the number of the first one that is compared with the present pinned reference.
        creep: what is known of the amounts since then.
        pinned: the epoch of that reference, None if it is not known.
        sounding: whether the newest one is out of the usual.
        judged: whether a number was scored or has a limit; False if all scores were withheld, and
            None if there were none.
    """

    tag: str
    amounts: list[float] = field(default_factory=list)
    count: int = 0
    begin: int = 0
    creep: PageHinkley = field(default_factory=PageHinkley)
    pinned: int | None = None
    sounding: bool = False
    judged: bool | None = None

    @property
    def group(self) -> str:
        """What the numbers are a measure of: one drift, for which there are several measures."""
        before, _, measure = self.tag.rpartition("/")
        return before if "saliency_drift/" in self.tag and measure in MEASURES else self.tag

    @property
    def reference(self) -> str:
        """``"pinned"`` or ``"previous"``: what the numbers tell the distance from."""
        return "pinned" if "/pinned/" in f"{self.tag}/" else "previous"

    def judge(
        self,
        value: float,
        rules: Rules,
        pinned: int | None = None,
        alone: bool = True,
        means_something: bool = True,
    ) -> float:
        """Take the newest number and score it.

        Args:
            value: as it is logged; NaN if there is none.
            rules: when it is out of the usual.
            pinned: the epoch of the pinned reference, None if it is not known.
            alone: whether this number makes an alarm by itself, or only with others.
            means_something: whether to score it; if not, later numbers are compared with it all the
                same.

        Returns:
            The score, an alarm if above 1; NaN as long as there is nothing to compare with, and
            for a number that is missing.
        """
        if pinned != self.pinned:
            # Distances from another reference are another series.
            self.begin, self.creep, self.pinned = self.count, PageHinkley(), pinned
        amount = alarm_amount(self.tag, value)
        self.amounts = [*self.amounts, amount][-rules.window - 1 :]
        self.count += 1
        if self.reference == "pinned":
            warmup = max(0, rules.warmup - self.begin)
            score = self.creep.add(amount, warmup, factor=rules.factor)
        else:
            floor = _FLOORS.get(self.tag.rpartition("/")[2], _FLOOR)
            warmup = self._warmup(rules)
            score = spike_score(self.amounts, warmup, rules.window, rules.factor, floor)
        if math.isfinite(score):
            has_limit = rules.limit is not None
            self.judged = bool(self.judged) or means_something or has_limit
            score = score if means_something else math.nan
        score = score if alone else score / _TOGETHER
        scores = [score, amount / rules.limit] if rules.limit else [score]
        return max((each for each in scores if math.isfinite(each)), default=math.nan)

    def usual(self, rules: Rules) -> tuple[float, float] | None:
        """Return the smallest and largest amount that the newest was compared with.

        Args:
            rules: as for :meth:`judge`.

        Returns:
            None if there was none.
        """
        known = [value for value in self.amounts[self._warmup(rules) : -1] if math.isfinite(value)]
        return (min(known), max(known)) if known else None

    def state_dict(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        return asdict(self)

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> "Watched":
        """Return what :meth:`state_dict` was made of.

        Args:
            state: plain values.
        """
        return cls(**{**state, "creep": PageHinkley(**state["creep"])})

    def _warmup(self, rules: Rules) -> int:
        """Return how many of the amounts that are still there belong to the warm-up."""
        return max(0, rules.warmup - (self.count - len(self.amounts)))


def limit_said(tag: str, value: float, rules: Rules) -> str:
    """Say which limit a number has passed and in which direction; "" if it has not.

    Args:
        tag: that the number is logged under.
        value: as it is logged.
        rules: with the limit.
    """
    if rules.limit is None or not alarm_amount(tag, value) > rules.limit:
        return ""
    if alarm_amount(tag, 0.0) == 1.0:
        return f"below {1 - rules.limit:g}, as limit={rules.limit:g} demands"
    return f"above limit={rules.limit:g}"
