"""Console output about a search for masks."""

from torch import Tensor

from lightning_saliency.errors import InputError

__all__ = ["ConsoleProgress"]


class ConsoleProgress:
    """Prints the rewards and area terms in some iterations; each line waits for the device.

    Args:
        areas: of the masks of each image.
        every: print in every such iteration, from the first on; None for none.
        doubled: print whenever the strength of the area constraint has doubled.

    Raises:
        InputError: ``every`` is not positive.
    """

    def __init__(self, areas: tuple[float, ...], every: int | None, doubled: bool) -> None:
        if every is not None and every < 1:
            raise InputError(f"Expected print_iter >= 1, got {every}.")
        self._areas = areas
        self._every = every
        self._doubled = doubled
        self._last_strength = 0.0

    def __call__(self, iteration: int, strength: float, state: Tensor) -> None:
        """Print a line for each mask; see :data:`~.search.Progress`."""
        doubled = self._doubled and strength >= 2 * self._last_strength
        if doubled:
            self._last_strength = strength
        if not doubled and (self._every is None or iteration % self._every):
            return
        for row, (reward, area_term) in enumerate(state.tolist()):
            image, area = divmod(row, len(self._areas))
            print(
                f"iteration {iteration + 1}, image {image}, area {self._areas[area]:g}: reward "
                f"{reward:.4g}, area term {area_term:.4g}"
            )
