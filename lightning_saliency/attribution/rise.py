"""RISE: how much better the score is on average while a pixel is kept.

Petsiuk, Das, Saenko. RISE: randomized input sampling for explanation of black-box models.
BMVC 2018, arXiv:1806.07421.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import get_args

import torch
from torch import Tensor, nn
from typing_extensions import Self

from lightning_saliency.attribution.guard import guarded
from lightning_saliency.attribution.method import AttributionMethod
from lightning_saliency.attribution.pointing import PointingSetup, PointingStyle
from lightning_saliency.attribution.rise_estimation.estimators import (
    MaskEstimator,
    MaskScoring,
    RISEEstimate,
    ScoreRange,
    estimate_maps,
)
from lightning_saliency.attribution.rise_estimation.presets import (
    ESTIMATORS,
    RISEEstimator,
    RISEPreset,
)
from lightning_saliency.attribution.validation import (
    check_choice,
    check_fraction,
    check_integer,
    check_num_cells,
)
from lightning_saliency.attribution.verdict import Verdict
from lightning_saliency.image.random_mask import MaskBlock
from lightning_saliency.image.saliency_map import ResizeMode
from lightning_saliency.network.batching import BatchSize, batches_for, check_batch_size
from lightning_saliency.network.masked_scores import target_score
from lightning_saliency.network.score import ScoreKind, Target, all_class_scores

__all__ = ["RISE", "rise", "rise_class"]


@dataclass(frozen=True)
class RISE(AttributionMethod):
    """The mean score over random masks that keep the pixel, minus the mean over all masks.

    The model sees each image times many smooth random masks, so that what is masked out becomes 0
    (the mean color, if the images are normalized). Maps are in units of the score, and have a
    sign: below 0 the score is better without the pixel. The model is a black box: it
    needs no gradient and no particular layers.

    By default this is the paper's map with less noise at the same number of masks. The masks come
    in balanced blocks (:func:`~lightning_saliency.image.random_mask.balanced_masks`); the mean
    score is subtracted, which changes the map by a constant; and with up to 1,024 masks a kernel
    regression on their scores predicts those of far more masks, over which the mean is taken
    (:class:`~lightning_saliency.attribution.rise_estimation.regression.MaskRegression`). On scores
    with a known map it is not smoothed measurably (see docs/costs.md); probabilities that are seen
    under very few masks come out too small by some percent. With ``p`` other than 0.5 the masks are
    independent and there is no regression.

    Every image gets the same masks, in every call, so that maps of one image can be compared over
    the epochs; what the choice of masks adds to a map is then the same each time, not zero. See
    :meth:`estimate` for how large it is.

    Args:
        num_masks: how many masks, at most; balanced masks come in blocks (128 for 7 cells), and
            the number is rounded up to whole blocks. None for 256, or with a preset for 1,024
            (``"balanced"``) or 8,000.
        num_cells: cells of the coarse grid in each direction, or (rows, columns).
        p: probability that a cell is kept, above 0 and below 1.
        batch_size: how many masked images go through the model at once; halved when a GPU runs out
            of memory. ``"auto"``: on a CPU 32 of up to 112 pixels, 8 of 224; elsewhere 128.
        seed: of the masks; no other random stream is used.
        score: ``"probability"`` (softmax, the paper's), ``"logit"``, ``"log_probability"`` or
            ``"sigmoid"``. None for ``"probability"``, or what the preset says. A class that hardly
            ever survives the masks has a probability near 0 almost everywhere, and a few masks
            decide on the map; the logit or the logarithm then need far fewer masks, but they are
            another quantity. Where a network is so sure that the probability is the same under all
            masks, there is a warning. Not used where the target is a callable.
        preset: None; ``"balanced"`` for the mean over balanced masks without a fit; ``"paper"``
            for independent masks and the mean of score x mask over p; ``"torchray"`` for the map
            that TorchRay gives for the same seed on the CPU, which is the mean of sigmoid x mask,
            with masks that depend on the batch size (32 for ``"auto"``).
        until: stop an image's masks as soon as its split-half correlation (see
            :class:`RISEEstimate`) is at least this, checked after every second block; None for
            all masks. It costs a host synchronization each time.
        autocast: run the model under autocast to bfloat16.
        resize: see :class:`AttributionMethod`, as for ``resize_mode`` and ``smooth``.
    """

    name = "rise"
    shows = "how much better the score is while a pixel is kept"
    cost = "256 forwards"
    signed = True
    stochastic = True
    needs_gradient = False
    verdict = Verdict("not tested", "The maps depend on the network through its scores alone.")
    pointing = PointingStyle(square=True, whole=True)
    num_masks: int | None = None
    num_cells: int | tuple[int, int] = 7
    p: float = 0.5
    batch_size: BatchSize = "auto"
    seed: int = 0
    score: ScoreKind | None = None
    preset: RISEPreset | None = None
    until: float | None = None
    autocast: bool = False

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            InputError: one of them is out of its range.
        """
        super().__post_init__()
        check_integer("num_masks", self.num_masks, 1, optional=True)
        check_num_cells(self.num_cells)
        check_fraction("p", self.p, "the share of kept cells")
        check_integer("seed", self.seed)
        check_fraction("until", self.until, "a split-half correlation")
        check_batch_size(self.batch_size)
        check_choice("score", self.score, (None, *get_args(ScoreKind)))
        check_choice("preset", self.preset, (None, *get_args(RISEPreset)))

    @property
    def has_offset(self) -> bool:
        """Whether the mean score is not subtracted, as in the published estimators."""
        return not self._estimator.centered

    @classmethod
    def for_pointing_game(cls, setup: PointingSetup) -> Self:
        """Return the method with the dataset's number of masks, or the preset's."""
        published = setup.preset is not None
        return cls(
            None if published else setup.num_masks,
            score="sigmoid" if setup.multi_label and not published else None,
            preset=setup.preset,
            resize=False,
        )

    def attribute(self, model: nn.Module, image: Tensor, target: Target) -> Tensor:
        """Return the maps (N, 1, H, W); see :meth:`AttributionMethod.attribute`."""
        return self._estimate(model, image, target, with_split_half=False).saliency

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
            return replace(estimate, saliency=saliency)

    def all_classes(self, model: nn.Module, image: Tensor) -> Tensor:
        """Explain every class for each image; as costly as one class, but for the memory.

        All masks are used, regardless of ``until``.

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
        kind = self.score or self._estimator.score
        with guarded(model, image) as images, torch.no_grad():
            scoring = self._scoring(model, images)
            estimate = self._mask_estimator(kind, halves=False)
            for block in self._blocks(images):
                scores = scoring(
                    images, block, lambda output, owner: all_class_scores(output, kind, len(owner))
                )
                estimate.add(scores, block)
            saliency = estimate.mean(self._estimator.centered).div_(self._estimator.divisor(self.p))
            return self._finish(saliency, images)

    def _prepare(self, model: nn.Module, image: Tensor, target: Target) -> Self:
        self._blocks(image)
        return self

    @torch.no_grad()
    def _estimate(
        self, model: nn.Module, image: Tensor, target: Target, with_split_half: bool = True
    ) -> RISEEstimate:
        estimator, scoring = self._estimator, self._scoring(model, image)
        kind = self.score or estimator.score
        score = target_score(model, image, target, kind, scoring.batches)

        known = None if callable(target) and not isinstance(target, Tensor) else kind
        seen = ScoreRange(image, known)

        def scores(block: MaskBlock, running: Tensor) -> Tensor:
            found = scoring(
                image[running], block, lambda output, owner: score(output, running[owner])
            )
            seen.add(found, running)
            return found

        indices = torch.arange(len(image), device=image.device)
        found = estimate_maps(
            self._blocks(image),
            scores,
            indices,
            self._mask_estimator(known),
            estimator.centered,
            self.until,
            with_split_half,
        )
        seen.warn_if_flat()
        return replace(found, saliency=found.saliency / estimator.divisor(self.p))

    def _scoring(self, model: nn.Module, image: Tensor) -> MaskScoring:
        batches = batches_for(self.batch_size, image)
        return MaskScoring(model, batches, self.autocast, self._count)

    def _mask_estimator(self, kind: ScoreKind | None, halves: bool = True) -> MaskEstimator:
        return self._estimator.mask_estimator(self._count, self.p, kind, halves)

    @property
    def _count(self) -> int:
        return self._estimator.count(self.num_cells, self.num_masks, self.p)

    @property
    def _estimator(self) -> RISEEstimator:
        estimator = ESTIMATORS[self.preset]
        if self.preset == "torchray" and not isinstance(self.batch_size, str):
            return replace(estimator, block_size=self.batch_size)
        return estimator

    def _blocks(self, image: Tensor) -> Iterator[MaskBlock]:
        upsampling = self._estimator.upsampling(image, self.num_cells)
        return self._estimator.masks(upsampling, self.num_masks, self.p, self.seed)


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
    score: ScoreKind | None = None,
    preset: RISEPreset | None = None,
    autocast: bool = False,
) -> Tensor:
    """Return the :class:`RISE` maps of all classes.

    Args:
        model: takes ``input`` and returns class scores; it is not changed.
        input: (N, C, H, W).
        num_masks: how many masks; None for 256, or what the preset says.
        num_cells: cells of the coarse grid in each direction, or (rows, columns).
        p: probability that a cell is kept.
        batch_size: how many masked images go through the model at once, or ``"auto"``.
        seed: of the masks.
        resize: a pair (height, width) resizes the maps, which have the size of the image.
        resize_mode: ``"bilinear"``, ``"bicubic"``, ``"nearest"`` or ``"area"``.
        score: ``"probability"``, ``"logit"``, ``"log_probability"`` or ``"sigmoid"``.
        preset: None, ``"balanced"``, ``"paper"`` or ``"torchray"``.
        autocast: run the model under autocast to bfloat16.

    Returns:
        (N, classes, H, W).

    Raises:
        InputError: the image or a setting cannot be used.
        ModelError: the model does not return class scores.
    """
    method = RISE(num_masks, num_cells, p, batch_size, seed, score, preset, autocast=autocast)
    method = replace(method, resize=resize, resize_mode=resize_mode)
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
    score: ScoreKind | None = None,
    preset: RISEPreset | None = None,
    until: float | None = None,
    autocast: bool = False,
) -> Tensor:
    """Return the :class:`RISE` map of one class for each image, without holding the others.

    Args:
        model: see :func:`rise`, as for all that is not explained here.
        input: (N, C, H, W).
        target: class index, one for each image, ``"predicted"``, or a callable.
        num_masks: how many masks at most.
        num_cells: see :func:`rise`.
        p: see :func:`rise`.
        batch_size: see :func:`rise`.
        seed: see :func:`rise`.
        resize: see :func:`rise`.
        resize_mode: see :func:`rise`.
        score: see :func:`rise`.
        preset: see :func:`rise`.
        until: stop when the maps of two halves of the masks correlate as well as this.
        autocast: see :func:`rise`.

    Returns:
        (N, 1, H, W).

    Raises:
        InputError: the image, the target or a setting cannot be used.
        ModelError: the model does not return class scores.
    """
    method = RISE(num_masks, num_cells, p, batch_size, seed, score, preset, until, autocast)
    return replace(method, resize=resize, resize_mode=resize_mode)(model, input, target)
