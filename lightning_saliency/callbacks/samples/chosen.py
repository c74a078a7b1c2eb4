"""Samples that are chosen by what they are, from what passes in validation."""

from collections import Counter
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

from lightning_saliency.errors import InputError


@dataclass(frozen=True)
class PerClass:
    """The first samples of each class.

    Args:
        count: of each class.
        most: of all classes together; the first that pass.

    Raises:
        InputError: one of them is not at least 1.
    """

    count: int
    most: int = 64

    def __post_init__(self) -> None:
        _check("PerClass", count=self.count, most=self.most)

    def places(self, labels: Tensor, predicted: Tensor | None, before: Tensor) -> list[int]:
        """Return which samples of a batch are chosen.

        Args:
            labels: (N,), int64, of the batch.
            predicted: not looked at.
            before: (M,), labels of the samples that were chosen before.
        """
        seen = Counter(before.tolist())
        chosen: list[int] = []
        for place, label in enumerate(labels.tolist()):
            if seen[label] < self.count and sum(seen.values()) < self.most:
                seen[label] += 1
                chosen.append(place)
        return chosen


@dataclass(frozen=True)
class Wrong:
    """The first samples that the model gets wrong in the first validation run that is explained.

    The model sees each batch of that run a second time, until there are enough.

    Args:
        count: how many.

    Raises:
        InputError: it is not at least 1.
    """

    count: int

    def __post_init__(self) -> None:
        _check("Wrong", count=self.count)

    def places(self, labels: Tensor, predicted: Tensor | None, before: Tensor) -> list[int]:
        """Return which samples of a batch are chosen.

        Args:
            labels: (N,), int64, of the batch.
            predicted: (N,), int64, what the model predicts for them; None chooses none.
            before: (M,), labels of the samples that were chosen before.
        """
        if predicted is None:
            return []
        wrong: list[int] = (labels != predicted.to(labels.device)).nonzero().flatten().tolist()
        return wrong[: max(0, self.count - len(before))]


Chosen: TypeAlias = PerClass | Wrong
"""Samples that are chosen by what they are."""


def _check(name: str, **counts: int) -> None:
    for setting, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"Expected {name}({setting}=) to be an integer >= 1, got {value!r}.")
