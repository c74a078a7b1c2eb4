"""The base of the adapters: the same verbs for every logger, and which methods a logger really has.

Lightning's ``DummyLogger`` (under ``fast_dev_run``) and the experiment of every rank above zero
have an attribute of any name and do nothing, so ``hasattr`` is useless for them.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor
from typing_extensions import override

from lightning_saliency.loggers.event_file import LEAST_RESERVE
from lightning_saliency.loggers.pixels import check_image


def has_method(owner: object, name: str) -> bool:
    """Return whether ``owner`` defines the method, rather than answering to any name.

    Args:
        owner: anything.
        name: of the method.
    """
    return has_attribute(owner, name) and callable(getattr(owner, name))


def has_attribute(owner: object, name: str) -> bool:
    """Return whether ``owner`` or its class holds the attribute; runs no code of theirs.

    Args:
        owner: anything.
        name: of the attribute, method or property.
    """
    missing = object()
    return inspect.getattr_static(owner, name, missing) is not missing


def answers_to_any_name(owner: object) -> bool:
    """Return whether ``owner`` has an attribute of any name, as Lightning's placeholders do.

    Args:
        owner: anything.
    """
    return hasattr(owner, "no_logger_has_an_attribute_of_this_name")


# What each logger was reported to lack. Weak, so that no logger is kept alive.
_REPORTED: WeakKeyDictionary[object, set[str]] = WeakKeyDictionary()


class LogAdapter:
    """Writes to one logger of Lightning.

    Each verb returns whether the logger supports it. If not, nothing is written, and one line in
    the log says so, once for each logger and verb. A subclass overrides the verbs that its logger
    has; numbers are taken by every logger.

    It is meant for rank zero. Above it, Lightning's loggers drop what they are given.

    Args:
        logger: the logger.

    Attributes:
        logger: as given.
        reserve: bytes that are left free on the disk for what the run itself writes.
        elsewhere: the folder in which what no logger takes is written as files; "" if it is not.
    """

    def __init__(self, logger: object) -> None:
        self.logger: Any = logger
        self.reserve = LEAST_RESERVE
        self.elsewhere = ""

    def flush(self) -> None:
        """Wait until all is written, where a logger writes later than it is told.

        Raises:
            OSError: it could not be written.
        """

    @property
    def takes_images(self) -> bool:
        """Whether :meth:`image` writes; asking it reports nothing."""
        return False

    def scalars(self, values: Mapping[str, float | Tensor], step: int) -> bool:
        """Write numbers.

        Args:
            values: number by tag; a tensor is a scalar (one element).
            step: the global step that they belong to.
        """
        if not has_method(self.logger, "log_metrics"):
            return self.lacks("numbers")
        self.logger.log_metrics({tag: float(value) for tag, value in values.items()}, step=step)
        return True

    def image(self, tag: str, image: Tensor, step: int, *, palette: bool = False) -> bool:
        """Write an image.

        Args:
            tag: for instance ``"saliency/samples/grad_cam/0"``.
            image: (3, H, W), floating point in [0, 1] or uint8, on any device. Each value is
                rounded to the nearest of the 256 steps of a PNG.
            step: the global step that it belongs to.
            palette: True lets TensorBoard have the image in the 256 colors that suit it best: a
                quarter of the size and of the time, but colors are off by about 1 %. For large
                pictures that are written again and again, such as filmstrips. Other loggers get
                all colors.

        Raises:
            InputError: ``image`` has another shape or type.
        """
        check_image(image)
        return self.lacks("images")

    def text(self, tag: str, text: str, step: int) -> bool:
        """Write a text, Markdown where the logger renders it (TensorBoard).

        Args:
            tag: for instance ``"saliency_alarm"``.
            text: one or more lines.
            step: the global step that it belongs to.
        """
        return self.lacks("texts")

    def histogram(self, tag: str, values: Tensor, step: int) -> bool:
        """Write the distribution of values.

        Args:
            tag: for instance ``"saliency_drift_samples/grad_cam/previous/spearman"``.
            values: floating point or integer, of any shape; those that are not finite are left
                out. If none is finite, nothing is written, and the result is False.
            step: the global step that they belong to.
        """
        return self.lacks("histograms")

    def film(self, tag: str, file: bytes, step: int) -> bool:
        """Write an animated GIF among the images.

        Args:
            tag: for instance ``"saliency/timelapse/grad_cam"``.
            file: the GIF.
            step: the global step that it belongs to.
        """
        return self.lacks("animations")

    def charts(self, charts: Mapping[str, Mapping[str, Sequence[str]]]) -> bool:
        """Lay out charts that hold several numbers; of several layouts of a run the last counts.

        Args:
            charts: by category and title the tags, as regular expressions, whose numbers are in
                one chart.
        """
        return self.lacks("chart layouts")

    def lacks(self, what: str) -> bool:
        """Report, the first time, that the logger does not take something.

        Args:
            what: in the plural, such as ``"images"``.

        Returns:
            False, always.
        """
        try:
            reported = _REPORTED.setdefault(self.logger, set())
        except TypeError:
            # No weak references to it, as there are to every logger of Lightning.
            return False
        if what not in reported:
            reported.add(what)
            where = f" They are files in {self.elsewhere}." if self.elsewhere else ""
            rank_zero_info(
                f"{type(self.logger).__name__} takes no {what}: those of the saliency callbacks "
                f"are not logged there.{where} TensorBoardLogger takes everything."
            )
        return False


class NullAdapter(LogAdapter):
    """No logger, or one that does nothing: under ``fast_dev_run``, and above rank zero."""

    @override
    def scalars(self, values: Mapping[str, float | Tensor], step: int) -> bool:
        return False

    @override
    def lacks(self, what: str) -> bool:
        return False


def finite_values(values: Tensor) -> Tensor:
    """Return those of the values that are finite.

    Args:
        values: floating point or integer, of any shape.

    Returns:
        (M,), float64, on the CPU.
    """
    kept = values.detach().cpu().double().flatten()
    return kept[torch.isfinite(kept)]


class CSVAdapter(LogAdapter):
    """Takes numbers alone."""

    @override
    def flush(self) -> None:
        # Of the CSV logger; what saving means to others is not known.
        if has_attribute(getattr(self.logger, "experiment", None), "metrics_file_path"):
            self.logger.save()
