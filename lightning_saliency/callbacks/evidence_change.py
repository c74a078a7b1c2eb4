"""How the evidence has changed since three explanations ago: what gained, in how many samples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import isqrt
from typing import Any

import torch
from torch import Tensor

from lightning_saliency.image.parts import CONTENTS
from lightning_saliency.metrics.evidence import (
    evidence_gain,
    evidence_moved,
    gained_cells,
    sign_flip_test,
)
from lightning_saliency.rendering import evidence_strip, select_frames
from lightning_saliency.trust.evidence import EvidenceShares

LAG = 3
"""So many explanations lie between the two profiles of a gain: over one, a shortcut that is learned
in a few epochs does not stand out; over more, it is heard later. 1, 2 and 4 were worse."""


@dataclass(frozen=True)
class Gain:
    """What has gained most of the evidence.

    Attributes:
        value: the largest rise of the mean share of one part, in [0, 1]; NaN if unknown.
        index: of that part; -1 if unknown.
        parts: all that belong to it: of places, the cells that touch and have gained at least half
            as much.
        before: their mean share together, three explanations ago.
        now: the same now.
        rose: in how many samples their share rose.
        count: samples that have evidence at both times.
        probability: of such a rise by chance, see
            :func:`~lightning_saliency.metrics.evidence.sign_flip_test`.
    """

    value: float
    index: int
    parts: tuple[int, ...]
    before: float
    now: float
    rose: int
    count: int
    probability: float

    @classmethod
    def of(cls, before: Tensor, now: Tensor, is_place: bool) -> "Gain":
        """Compare shares of the same samples at two times.

        Args:
            before: (N, J).
            now: (N, J).
            is_place: whether the parts are the cells of a square grid.
        """
        first, last = before.nanmean(0), now.nanmean(0)
        value = float(evidence_gain(first, last))
        if value != value:
            return cls(value, -1, (), value, value, 0, 0, value)
        gain = last - first
        index = int(gain.argmax())
        chosen = torch.zeros(len(gain), dtype=torch.bool)
        chosen[index] = True
        if is_place and value > 0:
            side = isqrt(len(gain))
            chosen = gained_cells(gain.view(side, side)).flatten()
        risen = (now[:, chosen] - before[:, chosen]).sum(1)
        known = risen.isfinite()
        return cls(
            value,
            index,
            tuple(chosen.nonzero().flatten().tolist()),
            float(first[chosen].sum()),
            float(last[chosen].sum()),
            int((risen[known] > 0).sum()),
            int(known.sum()),
            sign_flip_test(risen),
        )


@dataclass(frozen=True)
class Profile:
    """The mean shares over the samples at one time.

    Attributes:
        place: (G * G,), cells row by row.
        kind: (5,), in the order of :data:`~lightning_saliency.image.parts.CONTENTS`.
        epoch: when it was measured.
    """

    place: Tensor
    kind: Tensor
    epoch: int

    @classmethod
    def of(cls, shares: EvidenceShares, epoch: int) -> "Profile":
        """Return the means over the samples in which something was lost."""
        return cls(shares.place.nanmean(0), shares.kind.nanmean(0), epoch)


@dataclass(frozen=True)
class _Measured:
    """The shares of each sample at one time, and whether predictions told the samples apart."""

    shares: EvidenceShares
    epoch: int
    knows: bool


@dataclass(frozen=True)
class EvidenceChange:
    """What has been measured of the evidence for one choice of class.

    Attributes:
        name: of the choice, such as ``"label"``, as it stands in the tags.
        now: the shares of each sample.
        before: the same, :data:`LAG` measurements ago; None before there are as many.
        epochs: of ``before`` and of ``now``; of a missing ``before``, that of ``now``.
        moved: how far the profile has moved from each reference, half the sum of the differences.
        history: profiles so far, thinned out.
        prefix: stands before all tags of the callback.
        knew: whether the model's predictions told the samples apart at the time of ``before``, or
            nobody can say.
    """

    name: str
    now: EvidenceShares
    before: EvidenceShares | None
    epochs: tuple[int, int]
    moved: Mapping[str, float] = field(default_factory=dict)
    history: Sequence[Profile] = ()
    prefix: str = ""
    knew: bool = True

    @cached_property
    def place(self) -> Gain | None:
        """The place that gained most; None as long as there is nothing to compare with."""
        return None if self.before is None else Gain.of(self.before.place, self.now.place, True)

    @cached_property
    def kind(self) -> Gain | None:
        """The kind of content that gained most; None as long as there is nothing to compare."""
        return None if self.before is None else Gain.of(self.before.kind, self.now.kind, False)

    @property
    def grid(self) -> int:
        """Cells a side."""
        return isqrt(self.now.place.shape[1])

    def strip(self) -> Tensor:
        """Draw where the evidence lay over the run, (3, height, width), RGB, uint8."""
        return evidence_strip(
            torch.stack([profile.place.view(self.grid, self.grid) for profile in self.history]),
            torch.stack([profile.kind for profile in self.history]),
            CONTENTS,
            [str(profile.epoch) for profile in self.history],
            f"evidence for {score_owner(self.name)} score, by epoch",
        )

    @property
    def numbers(self) -> dict[str, float]:
        """What is logged, by the names in the tags; gains only once there are some."""
        kinds = self.now.kind.nanmean(0)
        found = {f"kind_{n}": float(v) for n, v in zip(CONTENTS, kinds, strict=True)}
        found |= {f"moved/{name}": value for name, value in self.moved.items()}
        if self.place is not None and self.kind is not None:
            place = self.place
            index = place.index
            share = self.now.place.nanmean(0)[index] if index >= 0 else float("nan")
            found["place_gain"] = place.value
            found["place_share"] = float(share)
            found["place_index"] = float(index)
            found["place_samples"] = place.rose / max(place.count, 1)
            found["kind_gain"] = self.kind.value
        return found


def score_owner(name: str) -> str:
    """Return whose score is supported, in words.

    Args:
        name: of a choice of class, such as ``"label"`` or ``"3"``.
    """
    words = {"label": "the label's", "predicted": "the predicted class's"}
    return words.get(name, f"class {name}'s")


NUMBERS = (
    *(f"kind_{name}" for name in CONTENTS),
    *("moved/previous", "moved/pinned"),
    *("place_gain", "place_share", "place_index", "place_samples", "kind_gain"),
)
"""The names of all numbers of an :class:`EvidenceChange`."""


class EvidenceTracker:
    """Follows the evidence for one choice of class over a run, with a state that does not grow.

    Args:
        start: the epoch from which on a profile may be pinned.
        follows_best: whether the pinned profile is exchanged for the last one before each better
            checkpoint.
    """

    def __init__(self, start: int = 0, follows_best: bool = False) -> None:
        self._start, self._follows_best = start, follows_best
        self._best: float | None = None
        self._recent: list[_Measured] = []
        self._pinned: Profile | None = None
        self._count = 0
        self._history: dict[int, Profile] = {}

    def advance(
        self,
        name: str,
        shares: EvidenceShares,
        epoch: int,
        best: float | None = None,
        prefix: str = "",
        knows: bool = True,
    ) -> EvidenceChange:
        """Compare the newest shares with the earlier ones, and keep them.

        Args:
            name: of the choice of class.
            shares: of the same samples as before.
            epoch: when they were measured.
            best: the score of the best checkpoint so far, None if there is none.
            prefix: stands before all tags of the callback.
            knows: whether the model's predictions tell the samples apart.
        """
        profile = Profile.of(shares, epoch)
        moved: dict[str, float] = {}
        last = self._recent[-1] if self._recent else None
        if last is not None:
            previous = Profile.of(last.shares, last.epoch)
            moved["previous"] = float(evidence_moved(previous.place, profile.place))
            if self._follows_best and best is not None and best != self._best:
                self._best = best
                self._pinned = previous if previous.epoch >= self._start else self._pinned
        if self._pinned is None:
            self._pinned = profile if epoch >= self._start else None
        else:
            moved["pinned"] = float(evidence_moved(self._pinned.place, profile.place))
        self._recent = [*self._recent, _Measured(shares, epoch, knows)][-LAG - 1 :]
        self._keep(profile)
        before = self._recent[0] if len(self._recent) > LAG else None
        return EvidenceChange(
            name,
            shares,
            None if before is None else before.shares,
            (epoch if before is None else before.epoch, epoch),
            moved,
            list(self._history.values()),
            prefix,
            before is None or before.knows,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return plain values and tensors for a checkpoint."""
        return {
            "recent": [
                {
                    "place": each.shares.place,
                    "kind": each.shares.kind,
                    "epoch": each.epoch,
                    "knows": each.knows,
                }
                for each in self._recent
            ],
            "pinned": None if self._pinned is None else vars(self._pinned),
            "best": self._best,
            "count": self._count,
            "history": {number: vars(profile) for number, profile in self._history.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the evidence of a checkpoint.

        Args:
            state: from :meth:`state_dict`.

        Raises:
            Exception: there is something else in it. Nothing has changed then.
        """
        recent = [
            _Measured(
                EvidenceShares(each["place"], each["kind"]),
                int(each["epoch"]),
                # Of older versions it is not known.
                bool(each.get("knows", True)),
            )
            for each in state["recent"]
        ]
        pinned = None if state["pinned"] is None else Profile(**state["pinned"])
        history = {int(n): Profile(**profile) for n, profile in state["history"].items()}
        if any(each.shares.place.dim() != 2 or each.shares.kind.dim() != 2 for each in recent):
            raise ValueError("shares")
        best, count = state["best"], int(state["count"])
        self._best = None if best is None else float(best)
        self._recent, self._pinned, self._count, self._history = recent, pinned, count, history

    def _keep(self, profile: Profile) -> None:
        self._history[self._count] = profile
        self._count += 1
        self._history = {n: self._history[n] for n in select_frames(self._count)}
