"""How far the maps of the fixed samples have moved, against two references."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lightning_saliency.callbacks.explain import Explanation
from lightning_saliency.metrics.comparable import comparable, degenerate
from lightning_saliency.metrics.drift import SaliencyDrift

__all__ = ["DriftTracker"]


@dataclass(frozen=True)
class _Reference:
    """An earlier explanation, as far as it is needed to compare with it.

    Attributes:
        maps: (N, 1, h, w), float32, on the CPU, at most 64 x 64.
        predicted: (N,), the classes that the model predicted then.
    """

    maps: Tensor
    predicted: Tensor


class DriftTracker:
    """Compares each explanation of one method with the previous and with the first one.

    The first explanation is its own reference: it has not moved. So the numbers exist from the
    first validation run on, and EarlyStopping and ModelCheckpoint can monitor them.
    """

    def __init__(self) -> None:
        self._previous: _Reference | None = None
        self._pinned: _Reference | None = None

    def measure(self, explanation: Explanation) -> dict[str, float]:
        """Compare with the references, and take the explanation as the next previous one.

        Args:
            explanation: of the same samples as before.

        Returns:
            ``drift/<reference>/<measure>`` for the references ``previous`` and ``pinned``, means
            over the samples, NaN if every map is degenerate; ``target/probability``, the mean
            probability of the explained classes; ``target/flips``, the share of samples whose
            predicted class is not the previous one; ``target/degenerate_frac``, the share of maps
            that are constant or not finite.
        """
        current = _Reference(comparable(explanation.saliency), explanation.predicted)
        if self._previous is None or self._pinned is None:
            self._previous = self._pinned = current
        values = {}
        for name, reference in (("previous", self._previous), ("pinned", self._pinned)):
            drift = SaliencyDrift(sync_on_compute=False)
            drift.update(current.maps, reference.maps)
            for measure, value in drift.compute().items():
                if measure != "degenerate_frac":
                    values[f"drift/{name}/{measure}"] = float(value)
        flips = (current.predicted != self._previous.predicted).float().mean()
        values["target/probability"] = float(explanation.probability.mean())
        values["target/flips"] = float(flips)
        values["target/degenerate_frac"] = float(degenerate(current.maps).float().mean())
        self._previous = current
        return values

    def state_dict(self) -> dict[str, Any]:
        """Return the references for a checkpoint; empty before the first explanation."""
        return {
            name: {"maps": reference.maps, "predicted": reference.predicted}
            for name, reference in (("previous", self._previous), ("pinned", self._pinned))
            if reference is not None
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the references of a checkpoint.

        Args:
            state: from :meth:`state_dict`.
        """
        if state:
            self._previous = _Reference(**state["previous"])
            self._pinned = _Reference(**state["pinned"])
