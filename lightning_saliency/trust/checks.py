"""Which signs of trust are looked for while a network trains, and when."""

from collections.abc import Sequence
from dataclasses import dataclass

from lightning_saliency.errors import InputError
from lightning_saliency.metrics.faithfulness import check_measures


@dataclass(frozen=True)
class TrustChecks:
    """Faithfulness on a schedule, and a sanity check once: settings of a callback.

    What they take, for each method, target and sample: with every measured explanation, one forward
    pass, and 16 more for ``"insertion"``, 16 for ``"deletion"``, 1 for ``"average_drop"`` and
    ``"increase"`` together, 18 for ``"road"``; for the sanity check 18 explanations, once. All is
    booked on the callback's ``max_overhead``, which holds back everything but the sanity check.

    Attributes:
        faithfulness: names of :data:`~lightning_saliency.metrics.FAITHFULNESS`; see
            :func:`~lightning_saliency.trust.measure_faithfulness`.
        every: measure the first explanation, and then every ``every``-th.
        sanity_check: make the check of :func:`~lightning_saliency.trust.sanity_check`, in both
            orders: True when training ends, an epoch (0, 1, ...) with its explanation or the next
            one, False never.

    Raises:
        InputError: a measure is unknown or there twice, ``every`` is below 1, or ``sanity_check``
            is neither a truth value nor an epoch.
    """

    faithfulness: Sequence[str] = ()
    every: int = 1
    sanity_check: bool | int = False

    def __post_init__(self) -> None:
        """Check the settings."""
        check_measures(self.faithfulness)
        if isinstance(self.every, bool) or not isinstance(self.every, int) or self.every < 1:
            raise InputError(
                f"Expected every to be a number of explanations, at least 1, got {self.every!r}."
            )
        if not isinstance(self.sanity_check, int) or self.sanity_check < 0:
            raise InputError(
                "Expected sanity_check to be True (when training ends), an epoch (0, 1, ...) or "
                f"False, got {self.sanity_check!r}."
            )
