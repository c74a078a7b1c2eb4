"""What is kept of one series of explanations, to draw its history again and again."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from lightning_saliency.image.saliency_map import degenerate
from lightning_saliency.rendering import (
    ColorScale,
    Heatmap,
    color_scale,
    heatmap,
    select_columns,
    select_frames,
)
from lightning_saliency.rendering.colors import strength

# Alarms of which the frames stay, each with the one before it.
_MOST_ALARMS = 3
# Points of the curves; of more, every second one is dropped.
_MOST_POINTS = 256


@dataclass
class Kept:
    """What is kept of one explanation: 8 KiB for each sample.

    Attributes:
        epoch: when it was made.
        shares: (N, 1, h, w), float16, at most 64 x 64: the maps, divided by their strength.
        strength: (N,), float64, the maps' mean absolute values.
        predicted: (N,), int64, the predicted classes.
    """

    epoch: int
    shares: Tensor
    strength: Tensor
    predicted: Tensor

    @classmethod
    def of(cls, maps: Tensor, predicted: Tensor, epoch: int) -> "Kept":
        """Return what is kept.

        Args:
            maps: (N, 1, h, w), in the form in which they are compared.
            predicted: (N,), the predicted classes.
            epoch: of the explanation.
        """
        mean = strength(maps)
        divisor = torch.where(mean > 0, mean, 1.0).view(-1, 1, 1, 1)
        shares = (maps.double() / divisor).clamp(*_HALF).half()
        return cls(epoch, shares, mean, predicted.clone())

    @property
    def maps(self) -> Tensor:
        """The maps, (N, 1, h, w), float64; rounded to a thousandth."""
        mean = torch.where(self.strength > 0, self.strength, 1.0)
        return self.shares.double() * mean.view(-1, 1, 1, 1)


_HALF = torch.finfo(torch.half).min, torch.finfo(torch.half).max


@dataclass
class Point:
    """One explanation in the curves.

    Attributes:
        number: of the explanation.
        moved: the mean movement since the one before, or NaN.
        loss: the validation loss, or NaN.
    """

    number: int
    moved: float = math.nan
    loss: float = math.nan


@dataclass
class Strip:
    """What a filmstrip needs of one series; the explanations that it has thinned out are gone.

    Attributes:
        scale: settled with the first maps that show anything.
        signed: whether these had negative values.
        count: explanations so far.
        kept: by the number of the explanation.
        points: of the curves, oldest first.
        alarms: numbers of explanations at which an alarm sounded, the newest last.
        moved: (N,), float64, the sum of each sample's movements; empty before the first.
        loss_name: what the loss is called.
    """

    scale: ColorScale | None = None
    signed: bool = False
    count: int = 0
    kept: dict[int, Kept] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)
    alarms: list[int] = field(default_factory=list)
    moved: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))
    loss_name: str = "val loss"

    def paint(self, saliency: Tensor) -> Heatmap:
        """Paint maps (N, 1, H, W), with the signs of the first that showed anything."""
        if self.scale is None:
            self.scale = color_scale(saliency)
            if self.scale is not None:
                self.signed = bool((saliency[~degenerate(saliency)] < 0).any())
        return heatmap(saliency, self.scale or ColorScale(), self.signed)

    def add(self, kept: Kept, moved: Tensor | None = None) -> None:
        """Add an explanation, and forget those that will not be shown any more.

        Args:
            kept: of the explanation.
            moved: (N,), how far each map has moved since the one before, in [0, 1], NaN where that
                is not known; None for the first.
        """
        number = self.count
        self.kept[number] = kept
        self.count += 1
        if len(self.moved) != len(kept.predicted):
            self.moved = torch.zeros(len(kept.predicted), dtype=torch.float64)
        mean = math.nan
        if moved is not None:
            self.moved = self.moved + moved.double().nan_to_num(0.0)
            mean = float(moved.nanmean())
        if len(self.points) >= _MOST_POINTS:
            self.points = self.points[::2]
        self.points.append(Point(number, mean))
        # The one before the newest is shown beside it if an alarm sounds.
        wanted = {*select_frames(self.count), number - 1, *self.pinned}
        self.kept = {index: each for index, each in self.kept.items() if index in wanted}

    def mark_alarm(self) -> None:
        """An alarm sounded at the newest explanation."""
        number = self.count - 1
        if number >= 0 and number not in self.alarms:
            self.alarms = [*self.alarms, number][-_MOST_ALARMS:]

    def set_loss(self, loss: float, name: str) -> None:
        """Note the validation loss at the newest explanation."""
        if self.points and self.points[-1].number == self.count - 1:
            self.points[-1].loss, self.loss_name = loss, name

    @property
    def color_scale(self) -> ColorScale:
        """The scale of all pictures."""
        return self.scale or ColorScale()

    @property
    def pinned(self) -> set[int]:
        """The numbers of the explanations that stay because of an alarm."""
        return {number - before for number in self.alarms for before in (0, 1)}

    @property
    def shown(self) -> list[int]:
        """The numbers of the explanations that are columns, oldest first."""
        return select_columns(self.kept, self.pinned)

    def most_moved(self, most: int) -> list[int]:
        """Return the samples with the largest movements so far, in their order."""
        order = self.moved.argsort(descending=True, stable=True).tolist()
        return sorted(order[:most])

    def places(self) -> list[float]:
        """Return where each point of the curves lies between the columns."""
        columns = self.shown
        return [_place(point.number, columns) for point in self.points]

    def state_dict(self) -> dict[str, Any]:
        """Return plain values and tensors for a checkpoint."""
        return {
            "scale": None if self.scale is None else asdict(self.scale),
            "signed": self.signed,
            "count": self.count,
            "kept": {index: vars(each).copy() for index, each in self.kept.items()},
            "points": [(each.number, each.moved, each.loss) for each in self.points],
            "alarms": list(self.alarms),
            "moved": self.moved,
            "loss_name": self.loss_name,
        }

    @classmethod
    def of_state(cls, state: Mapping[str, Any]) -> "Strip":
        """Return what :meth:`state_dict` was made of.

        Raises:
            Exception: there is something else in it.
        """
        if "frames" in state:
            raise ValueError("filmstrips of version 0.1 hold painted pictures, and start over")
        scale = None if state["scale"] is None else ColorScale(**state["scale"])
        kept = {int(index): Kept(**each) for index, each in state["kept"].items()}
        for each in kept.values():
            count = len(each.predicted)
            if each.shares.dim() != 4 or len(each.shares) != count or len(each.strength) != count:
                raise ValueError(f"maps of shape {tuple(each.shares.shape)}")
        points = [Point(int(n), float(moved), float(loss)) for n, moved, loss in state["points"]]
        if max(kept, default=-1) != int(state["count"]) - 1:
            raise ValueError(f"{state['count']} explanations, without the newest of them")
        return cls(
            scale=scale,
            signed=bool(state["signed"]),
            count=int(state["count"]),
            kept=kept,
            points=points,
            alarms=[int(number) for number in state["alarms"]],
            moved=state["moved"].double(),
            loss_name=str(state["loss_name"]),
        )


def _place(number: int, columns: Sequence[int]) -> float:
    """Return where an explanation lies, in columns."""
    for place, (start, end) in enumerate(pairwise(columns)):
        if start <= number <= end:
            return place + (number - start) / (end - start)
    return float(len(columns) - 1)
