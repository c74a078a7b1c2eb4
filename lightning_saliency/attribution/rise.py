"""RISE: how much better the score is on average while a pixel is kept.

Petsiuk, Das, Saenko. RISE: randomized input sampling for explanation of black-box models.
BMVC 2018, arXiv:1806.07421.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from lightning_saliency.attribution.mask_average import MaskAverage
from lightning_saliency.attribution.method import AttributionMethod, guarded
from lightning_saliency.errors import InputError
from lightning_saliency.image.random_mask import (
    MaskBlock,
    Upsampling,
    balanced_masks,
    independent_masks,
)
from lightning_saliency.image.resize import ResizeMode
from lightning_saliency.network.batching import Batches, BatchSize, check_batch_size
from lightning_saliency.network.masked_scores import masked_scores
from lightning_saliency.network.score import (
    Target,
    all_class_scores,
    class_logits,
    class_scores,
    target_classes,
)

__all__ = ["RISE", "RISEEstimate", "RISEPreset", "RISEScore", "rise", "rise_class"]

RISEScore: TypeAlias = Literal["probability", "logit", "log_probability", "sigmoid"]
"""What is averaged over the masks: the softmax of the logits, the logit itself, the logarithm of
the softmax, or the sigmoid of the logit."""

RISEPreset: TypeAlias = Literal["paper", "torchray"]
"""A published estimator."""


@dataclass(frozen=True)
class _Estimator:
    """How scores and masks become a map."""

    num_masks: int
    score: RISEScore
    balanced: bool  # balanced masks, not independent ones
    centred: bool  # the mean score is subtracted
    per_kept: bool  # divided by the probability that a cell is kept
    reflect: bool  # how the grid goes on beyond its border


_ESTIMATORS: dict[RISEPreset | None, _Estimator] = {
    None: _Estimator(1024, "probability", True, True, True, False),
    "paper": _Estimator(8000, "probability", False, False, True, False),
    "torchray": _Estimator(8000, "sigmoid", False, False, False, True),
}


@dataclass(frozen=True)
class RISEEstimate:
    """Maps, and how far they can be trusted.

    Attributes:
        saliency: (N, 1, H, W), the maps.
        split_half: (N,), Spearman correlation between the maps from one half of the masks and
            from the other; NaN where there are no two halves or one of them is constant. With a
            correlation of r, that of the whole map with the map of infinitely many masks is about
            ``sqrt(2 * r / (1 + r))`` (Spearman 1910, Brown 1910): 0.82 stands for 0.95.
        num_masks: (N,), int64, how many masks were used.
    """

    saliency: Tensor
    split_half: Tensor
    num_masks: Tensor


@dataclass(frozen=True)
class RISE(AttributionMethod):
    """The mean score over random masks that keep the pixel, minus the mean over all masks.

    The model sees each image times many smooth random masks (0 = black, in the units of the
    model's input). Maps are in units of the score, and have a sign: below 0 the score is better
    without the pixel. The model needs no gradient and is looked at from outside only.

    By default this is the paper's map with less noise at the same number of masks. The masks come
    in balanced blocks (:func:`~lightning_saliency.image.random_mask.balanced_masks`), and the mean
    score is subtracted before the scores are averaged; the latter changes the map by a constant,
    but without it the noise of the mean mask, times the mean score, lies over the map. With ``p``
    other than 0.5 there are no such blocks, and the masks are independent.

    Every image gets the same masks, in every call, so that maps of one image can be compared over
    the epochs; what the choice of masks adds to a map is then the same each time, not zero. See
    :meth:`estimate` for how large it is.

    Args:
        num_masks: how many masks, at most; balanced masks come in blocks (128 for 7 cells), and
            the number is rounded up to whole blocks. None for 1,024, or 8,000 with a preset.
        num_cells: cells of the coarse grid in each direction, or (rows, columns).
        p: probability that a cell is kept, above 0 and below 1.
        batch_size: how many masked images go through the model at once; halved when a GPU runs out
            of memory. ``"auto"``: 32 on a CPU, 128 elsewhere.
        seed: of the masks; no other random stream is used.
        score: ``"probability"`` (softmax, the paper's), ``"logit"``, ``"log_probability"`` or
            ``"sigmoid"``. None for ``"probability"``, or what the preset says. A class that hardly
            ever survives the masks has a probability near 0 almost everywhere, and a few masks
            decide on the map; the logit or the logarithm then need far fewer masks, but they are
            another quantity. Not used where the target is a callable.
        preset: None; ``"paper"`` for independent masks and the mean of score x mask over p;
            ``"torchray"`` for the map that TorchRay gives for the same seed on the CPU, which is
            the mean of sigmoid x mask, with masks that depend on the batch size (32 for
            ``"auto"``).
        until: stop an image's masks as soon as its split-half correlation (see
            :class:`RISEEstimate`) is at least this, looked at after every second block; None for
            all masks. It costs a host synchronisation each time.
        autocast: run the model under autocast to bfloat16.
        resize: see :class:`AttributionMethod`, as for ``resize_mode`` and ``smooth``.
    """

    name: ClassVar[str] = "rise"
    num_masks: int | None = None
    num_cells: int | tuple[int, int] = 7
    p: float = 0.5
    batch_size: BatchSize = "auto"
    seed: int = 0
    score: RISEScore | None = None
    preset: RISEPreset | None = None
    until: float | None = None
    autocast: bool = False

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            InputError: one of them is out of its range.
        """
        super().__post_init__()
        if self.num_masks is not None and not _is_positive_integer(self.num_masks):
            raise InputError(f"Expected num_masks >= 1, got {self.num_masks!r}.")
        cells = self.num_cells if isinstance(self.num_cells, (tuple, list)) else [self.num_cells]
        if len(cells) not in (1, 2) or not all(map(_is_positive_integer, cells)):
            raise InputError(
                f"Expected num_cells >= 1, or a pair (rows, columns) of such, got "
                f"{self.num_cells!r}."
            )
        if not 0 < self.p < 1:
            raise InputError(f"Expected p, the share of kept cells, in (0, 1), got {self.p}.")
        check_batch_size(self.batch_size)
        self._check_choices()

    def _check_choices(self) -> None:
        if self.score is not None and self.score not in get_args(RISEScore):
            raise InputError(
                f"Expected score to be one of {', '.join(get_args(RISEScore))}, got {self.score!r}."
            )
        if self.preset is not None and self.preset not in get_args(RISEPreset):
            raise InputError(
                f"Expected preset to be None or one of {', '.join(get_args(RISEPreset))}, got "
                f"{self.preset!r}."
            )
        if self.until is not None and not 0 < self.until < 1:
            raise InputError(
                f"Expected until, a split-half correlation, in (0, 1), got {self.until}."
            )

    def attribute(self, model: nn.Module, image: Tensor, target: Target) -> Tensor:
        """Return the maps (N, 1, H, W); see :meth:`AttributionMethod.attribute`."""
        return self._estimate(model, image, target).saliency

    def estimate(self, model: nn.Module, image: Tensor, target: Target) -> RISEEstimate:
        """Explain ``target`` for each image, and say how far the maps can be trusted.

        Args:
            model: see :meth:`AttributionMethod.__call__`, as for ``image`` and ``target``.
            image: (N, C, H, W).
            target: a class index, one for each image, ``"predicted"``, or a callable.

        Raises:
            InputError: the image, the target or a setting cannot be used.
            ModelError: the model does not return scores.
        """
        with guarded(model, image) as images:
            estimate = self._estimate(model, images, target)
            saliency = self._finish(estimate.saliency, images)
            return RISEEstimate(saliency, estimate.split_half, estimate.num_masks)

    def all_classes(self, model: nn.Module, image: Tensor) -> Tensor:
        """Explain every class for each image; as costly as one class, but for the memory.

        All masks are used, whatever ``until`` says.

        Args:
            model: see :meth:`AttributionMethod.__call__`, as for ``image``.
            image: (N, C, H, W).

        Returns:
            Saliency maps (N, classes, H, W), as :meth:`__call__` gives them for each class; a model
            with one output unit has two classes.

        Raises:
            InputError: the image or a setting cannot be used.
            ModelError: the model does not return class scores.
        """
        with guarded(model, image) as images, torch.no_grad():
            batches = Batches(self.batch_size, images.device)
            average = MaskAverage(halves=False)
            for block in self._blocks(images):
                average.add(
                    masked_scores(
                        model, images, block.masks, self._every_class, batches, self.autocast
                    ),
                    block,
                )
            return self._finish(self._map(average), images)

    def _prepare(self, model: nn.Module, image: Tensor) -> "RISE":
        self._upsampling(image)
        return self

    @property
    def _estimator(self) -> _Estimator:
        return _ESTIMATORS[self.preset]

    @torch.no_grad()
    def _estimate(self, model: nn.Module, image: Tensor, target: Target) -> RISEEstimate:
        batches = Batches(self.batch_size, image.device)
        score = self._one_score(model, image, target, batches)
        average = MaskAverage()
        running = torch.arange(len(image), device=image.device)
        settled: list[tuple[Tensor, RISEEstimate]] = []
        for block in self._blocks(image):
            scores = masked_scores(
                model,
                image[running],
                block.masks,
                partial(score, running),
                batches,
                self.autocast,
            )
            average.add(scores, block)
            if self.until is None or average.num_blocks % 2:
                continue
            reached = average.split_half(self._estimator.centred)[:, 0] >= self.until
            if bool(reached.any()):
                settled.append((running[reached], self._summary(average.select(reached))))
                average, running = average.select(~reached), running[~reached]
                if not len(running):
                    break
        if len(running):
            settled.append((running, self._summary(average)))
        return _in_order(settled)

    def _summary(self, average: MaskAverage) -> RISEEstimate:
        saliency = self._map(average)
        counts = torch.full((len(saliency),), average.num_masks, device=saliency.device)
        return RISEEstimate(saliency, average.split_half(self._estimator.centred)[:, 0], counts)

    def _map(self, average: MaskAverage) -> Tensor:
        saliency = average.mean(self._estimator.centred)
        return saliency.div_(self.p) if self._estimator.per_kept else saliency

    def _upsampling(self, image: Tensor) -> Upsampling:
        cells = self.num_cells
        return Upsampling(
            (image.shape[2], image.shape[3]),
            (cells, cells) if isinstance(cells, int) else (cells[0], cells[1]),
            self._estimator.reflect,
            image.device,
            torch.promote_types(image.dtype, torch.float32),
        )

    def _blocks(self, image: Tensor) -> Iterator[MaskBlock]:
        upsampling = self._upsampling(image)
        count = self.num_masks or self._estimator.num_masks
        if self._estimator.balanced and self.p == 0.5:
            return balanced_masks(upsampling, count, self.seed)
        size = 128
        if self.preset == "torchray":
            # TorchRay draws its masks batch by batch.
            size = 32 if isinstance(self.batch_size, str) else self.batch_size
        return independent_masks(upsampling, count, self.p, self.seed, size)

    def _one_score(
        self, model: nn.Module, image: Tensor, target: Target, batches: Batches
    ) -> Callable[[Tensor, object, Tensor], Tensor]:
        """Return what makes the target's score (rows, 1) from which images run, output, owner."""
        if callable(target) and not isinstance(target, Tensor):
            return lambda _, output, __: class_scores(output, target)[:, None]
        logits = batches.run(lambda batch: class_logits(model(image[batch])), len(image))
        classes = target_classes(torch.cat(logits), target)
        return lambda running, output, owner: self._every_class(output, owner).gather(
            1, classes[running[owner]][:, None]
        )

    def _every_class(self, output: object, _owner: Tensor) -> Tensor:
        score = self.score or self._estimator.score
        if score in ("probability", "log_probability"):
            logits = class_logits(output)
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            return logits.softmax(1) if score == "probability" else logits.log_softmax(1)
        scores = all_class_scores(output)
        return scores.sigmoid() if score == "sigmoid" else scores


def _in_order(parts: list[tuple[Tensor, RISEEstimate]]) -> RISEEstimate:
    """Put estimates of some of the images together, in the order of the images."""
    order = torch.cat([images for images, _ in parts]).argsort()
    return RISEEstimate(
        torch.cat([estimate.saliency for _, estimate in parts])[order],
        torch.cat([estimate.split_half for _, estimate in parts])[order],
        torch.cat([estimate.num_masks for _, estimate in parts])[order],
    )


def _is_positive_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def rise(
    model: nn.Module,
    input: Tensor,
    num_masks: int | None = None,
    num_cells: int | tuple[int, int] = 7,
    p: float = 0.5,
    batch_size: BatchSize = "auto",
    seed: int = 0,
    resize: bool | tuple[int, int] = False,
    resize_mode: ResizeMode = "bilinear",
    score: RISEScore | None = None,
    preset: RISEPreset | None = None,
    autocast: bool = False,
) -> Tensor:
    """Return the :class:`RISE` maps of all classes.

    Args:
        model: takes ``input`` and returns class scores; it is not changed.
        input: (N, C, H, W).
        num_masks: how many masks; None for 1,024, or 8,000 with a preset.
        num_cells: cells of the coarse grid in each direction, or (rows, columns).
        p: probability that a cell is kept.
        batch_size: how many masked images go through the model at once, or ``"auto"``.
        seed: of the masks.
        resize: a pair (height, width) resizes the maps, which have the size of the image.
        resize_mode: ``"bilinear"``, ``"bicubic"``, ``"nearest"`` or ``"area"``.
        score: ``"probability"``, ``"logit"``, ``"log_probability"`` or ``"sigmoid"``.
        preset: None, ``"paper"`` or ``"torchray"``.
        autocast: run the model under autocast to bfloat16.

    Returns:
        (N, classes, H, W).

    Raises:
        InputError: the image or a setting cannot be used.
        ModelError: the model does not return class scores.
    """
    method = RISE(
        num_masks,
        num_cells,
        p,
        batch_size,
        seed,
        score,
        preset,
        autocast=autocast,
        resize=resize,
        resize_mode=resize_mode,
    )
    return method.all_classes(model, input)


def rise_class(
    model: nn.Module,
    input: Tensor,
    target: Target,
    num_masks: int | None = None,
    num_cells: int | tuple[int, int] = 7,
    p: float = 0.5,
    batch_size: BatchSize = "auto",
    seed: int = 0,
    resize: bool | tuple[int, int] = False,
    resize_mode: ResizeMode = "bilinear",
    score: RISEScore | None = None,
    preset: RISEPreset | None = None,
    until: float | None = None,
    autocast: bool = False,
) -> Tensor:
    """Return the :class:`RISE` map of one class for each image, without holding the others.

    Args:
        model: takes ``input`` and returns class scores; it is not changed.
        input: (N, C, H, W).
        target: class index, one for each image, ``"predicted"``, or a callable.
        num_masks: how many masks at most; None for 1,024, or 8,000 with a preset.
        num_cells: cells of the coarse grid in each direction, or (rows, columns).
        p: probability that a cell is kept.
        batch_size: how many masked images go through the model at once, or ``"auto"``.
        seed: of the masks.
        resize: a pair (height, width) resizes the maps, which have the size of the image.
        resize_mode: ``"bilinear"``, ``"bicubic"``, ``"nearest"`` or ``"area"``.
        score: ``"probability"``, ``"logit"``, ``"log_probability"`` or ``"sigmoid"``.
        preset: None, ``"paper"`` or ``"torchray"``.
        until: stop when the maps of two halves of the masks correlate as well as this.
        autocast: run the model under autocast to bfloat16.

    Returns:
        (N, 1, H, W).

    Raises:
        InputError: the image, the target or a setting cannot be used.
        ModelError: the model does not return class scores.
    """
    method = RISE(
        num_masks,
        num_cells,
        p,
        batch_size,
        seed,
        score,
        preset,
        until,
        autocast,
        resize=resize,
        resize_mode=resize_mode,
    )
    return method(model, input, target)
