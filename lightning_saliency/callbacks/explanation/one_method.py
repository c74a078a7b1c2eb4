"""One method on this process's samples: stopped when the run ends, explained when it fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import lightning.pytorch as pl
from torch import nn

from lightning_saliency.callbacks.explanation.explain import (
    Begun,
    Explanation,
    NamedMethod,
    explain,
)
from lightning_saliency.callbacks.explanation.faults import (
    AbandonedError,
    describe,
    is_out_of_memory,
)
from lightning_saliency.network.sharded import is_sharded

__all__ = ["OneMethod", "abandoned_at_the_end"]


class OneMethod:
    """Explains this process's samples by one method; can say on which of them it fails.

    Args:
        begun: what all methods have in common.
        entry: the method and its name.
        place: of the method and of the choice of classes.
        while_explaining: takes the name of a method that explains alone, and makes the context in
            which it does.
    """

    def __init__(
        self,
        begun: Begun,
        entry: NamedMethod,
        place: tuple[int, int],
        while_explaining: Callable[[str], AbstractContextManager[object]],
    ) -> None:
        self.begun, self.entry, self.place = begun, entry, place
        self.while_explaining = while_explaining

    def __call__(self) -> Explanation:
        """Explain the samples.

        Raises:
            Exception: whatever goes wrong in the method.
        """
        shown = self.while_explaining(self.entry.name)
        return explain(self.begun, self.entry.method, self.place, while_explaining=shown)

    def told(self, numbers: Sequence[int]) -> Callable[[Exception], str]:
        """Return what puts an exception into words, and adds the sample that it comes from.

        Args:
            numbers: of the samples, as in the tags.
        """

        def again(place: int) -> object:
            one = slice(place, place + 1)
            return explain(self.begun, self.entry.method, self.place, one)

        def words(error: Exception) -> str:
            said = describe(error)
            # Where the weights are spread over the processes, one alone makes no pass.
            alone = None if is_sharded(self.begun.model) else again
            return said and f"{said} ({_culprit(error, numbers, alone)})"

        return words


@contextmanager
def abandoned_at_the_end(model: nn.Module, trainer: pl.Trainer) -> Iterator[None]:
    """Stop at the next pass through ``model`` when the run has been told to end.

    Args:
        model: that is explained.
        trainer: of the run; Lightning ends it as soon as it is given the word again.
    """

    def look(*_: object) -> None:
        if trainer.received_sigterm:
            raise AbandonedError

    handle = model.register_forward_pre_hook(look)
    try:
        yield
    finally:
        handle.remove()


def _culprit(
    error: Exception, numbers: Sequence[int], again: Callable[[int], object] | None
) -> str:
    """Return the sample that an exception comes from, for instance ``"sample 3"``.

    The samples are tried one by one until one fails again, if they can be. Not after too little
    memory, of which one sample alone would take less.
    """
    if again is not None and len(numbers) > 1 and not is_out_of_memory(error):
        for place, number in enumerate(numbers):
            try:
                again(place)
            except AbandonedError:
                break
            except Exception:
                return f"sample {number}"
    plural = "s" if len(numbers) > 1 else ""
    return f"sample{plural} {', '.join(map(str, numbers))}"
