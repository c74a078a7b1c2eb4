"""The facts that every measure states about itself."""

from __future__ import annotations

from typing import ClassVar, TypeVar

from torch import Tensor

__all__ = ["Measure"]

_Number = TypeVar("_Number", float, Tensor)


class Measure:
    """One number about a map; each measure is a subclass.

    Attributes:
        name: under which it is logged.
        best: its value in the ideal case: for equal maps, or for a map that lies entirely on the
            object.
    """

    name: ClassVar[str]
    best: ClassVar[float]

    def amount(self, value: _Number) -> _Number:
        """Return how far a value is from the best one; larger is worse. Alarms watch this.

        Args:
            value: what the measure gave; a number, or a tensor of any shape.
        """
        return abs(self.best - value)
