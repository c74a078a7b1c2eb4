"""Extremal perturbation: the part of the image, of a given area, that matters most.

Fong, Patrick, Vedaldi. Understanding deep networks via extremal perturbations and smooth masks.
ICCV 2019, arXiv:1910.08485.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import get_args

from torch import Tensor, nn
from typing_extensions import Self

from lightning_saliency.attribution.extras import Attribution
from lightning_saliency.attribution.guard import run_guarded
from lightning_saliency.attribution.mask_search.objective import PictureRewards, picture_batches
from lightning_saliency.attribution.mask_search.presets import (
    CONFIGS,
    SearchConfig,
    SearchPreset,
    step_for,
)
from lightning_saliency.attribution.mask_search.result import (
    AreaMasks,
    ExtremalMasks,
    area_names,
    evaluate_masks,
)
from lightning_saliency.attribution.mask_search.rewards import (
    REWARDS,
    Reward,
    RewardName,
    Variant,
    contrastive_reward,
    simple_reward,
)
from lightning_saliency.attribution.mask_search.search import ConsoleProgress, MaskSearch, Progress
from lightning_saliency.attribution.method import AttributionMethod
from lightning_saliency.attribution.pointing import PointingSetup, PointingStyle
from lightning_saliency.attribution.validation import (
    check_choice,
    check_integer,
    check_positive,
    checked_areas,
)
from lightning_saliency.attribution.verdict import Verdict
from lightning_saliency.errors import InputError
from lightning_saliency.image.perturbation import PerturbationKind, perturbation_levels
from lightning_saliency.image.saliency_map import ResizeMode
from lightning_saliency.image.smooth_mask import SmoothMask
from lightning_saliency.network.batching import BatchSize, check_batch_size
from lightning_saliency.network.score import Target

__all__ = [
    "ExtremalMasks",
    "ExtremalPerturbation",
    "contrastive_reward",
    "extremal_perturbation",
    "simple_reward",
]


@dataclass(frozen=True)
class ExtremalPerturbation(AttributionMethod):
    """The mean, over some areas, of the mask of that area that keeps the score highest.

    For each area a smooth mask is found, almost 0 or 1 everywhere, that covers this share of the
    image; outside it the image is blurred (or faded out), and the class score of what is left is
    as large as possible. Maps are in [0, 1]: the share of the areas whose mask holds the pixel.
    The masks themselves, and how well they do, come from :meth:`masks`.

    By default the paper's masks are found by another search. It starts from the rewards of 16
    coarse masks and their opposites, forward passes alone
    (:mod:`~lightning_saliency.attribution.mask_search.initialization`). Masks have exactly their
    areas at all times, which shrink from 0.4 of the image
    (:class:`~lightning_saliency.attribution.mask_search.area_constraint.ShrinkingArea`); there is
    no penalty, and 12 iterations of Adam are enough: docs/costs.md has what they reach on scores
    with a known optimum, and beside the authors' 800 iterations of gradient descent. Masks are half
    as wide as the authors' (two thirds, where the score is to be deleted), which finds thin parts
    and such that lie apart; their lengths and the blur's shrink with the image. The area is
    measured on the image. A mask that does hardly better than that of the next
    smaller area, or worse, is compared with that one grown. Each search starts anew, so that maps
    of one image at different times of a training are alike only as far as the network is.

    Args:
        areas: fractions of the image, in (0, 1], rising; one mask is found for each.
        perturbation: ``"blur"`` or ``"fade"`` (towards 0, the mean color of normalized images).
        max_iter: iterations; None for 12, or 800 with the preset.
        num_levels: degrees of perturbation, at least 2, between which masks interpolate.
        step: distance of the points that a mask is made of, in pixels; None for a third of
            ``sigma`` in whole pixels, at least 1, or 7 with the preset.
        sigma: radius of a point's kernel, in pixels; None for three steps, if there is a ``step``,
            else 10.5 at a shorter side of 224 pixels, in proportion, at least 3 (4/3 of these for
            ``"delete"`` and ``"dual"``), or 21 with the preset.
        jitter: show the model pictures that are moved by a few pixels, in each iteration in
            another way, so that masks do not cling to single pixels. With the preset they are
            mirrored in every second iteration instead, which makes other pictures of digits.
        variant: ``"preserve"``: the area alone keeps the score; ``"delete"``: without the area the
            score is lost; ``"dual"``: both, at twice the cost.
        reward_func: ``"simple"`` (the logit), ``"contrastive"`` (how far it lies above the other
            logits), or a function, see
            :data:`~lightning_saliency.attribution.mask_search.rewards.Reward`.
        preset: None; ``"torchray"`` for what TorchRay does in each iteration: 800 steps of
            gradient descent, lengths that do not depend on the image, a blur that darkens the
            edges, an area that is measured on a canvas larger than the image.
        batch_size: how many pictures go through the model at once; halved when a GPU runs out of
            memory. ``"auto"``: as many as for :class:`~lightning_saliency.attribution.rise.RISE`,
            but no more than twice as many as there are images (or 8, if that is more), so that it
            takes no more memory than a training step with them.
        autocast: run the model under autocast to bfloat16.
        seed: of the order in which the pictures are moved or mirrored, the only chance in it.
        tolerance: end before ``max_iter`` when no mask has changed by more than this share of its
            area within five iterations, and each area is right to this share; checked in every
            fifth iteration. None never ends early.
        rounds: after the search, go on with each mask that still gains from it, by more than 1 % of
            the way from the perturbed image to the clean one: so many rounds of eight iterations
            at most. 0 by default: on pictures of digits masks gain less from 8 rounds than they
            cost (see docs/costs.md).
        resize: see :class:`AttributionMethod`, as for ``resize_mode`` and ``smooth``.
    """

    name = "extremal_perturbation"
    shows = "the parts of given areas that keep the score"
    cost = "12 to 20 forward + backward for each area, and 32 forwards"
    not_for = "score not differentiable"
    stochastic = True
    verdict = Verdict(
        "not tested", "The masks depend on the network through its scores and their gradient."
    )
    flat_top_blur = 0.09
    pointing = PointingStyle(flat_top_blur, "shorter", whole=True)
    areas: tuple[float, ...] = (0.1,)
    perturbation: PerturbationKind = "blur"
    max_iter: int | None = None
    num_levels: int = 8
    step: int | None = None
    sigma: float | None = None
    jitter: bool = True
    variant: Variant = "preserve"
    reward_func: RewardName | Reward = "simple"
    preset: SearchPreset | None = None
    batch_size: BatchSize = "auto"
    autocast: bool = False
    seed: int = 0
    tolerance: float | None = None
    rounds: int = 0

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            InputError: one of them is out of its range.
        """
        super().__post_init__()
        object.__setattr__(self, "areas", checked_areas(self.areas))
        for name, reward in REWARDS.items():
            # By name, so that the settings can be written down.
            if self.reward_func is reward:
                object.__setattr__(self, "reward_func", name)
        if not callable(self.reward_func) and self.reward_func not in REWARDS:
            raise InputError(
                "Expected reward_func to be 'simple', 'contrastive' or a function, got "
                f"{self.reward_func!r}."
            )
        check_choice("perturbation", self.perturbation, get_args(PerturbationKind))
        check_choice("variant", self.variant, get_args(Variant))
        check_choice("preset", self.preset, (None, *get_args(SearchPreset)))
        check_integer("max_iter", self.max_iter, 1, optional=True)
        check_integer("step", self.step, 1, optional=True)
        check_integer("num_levels", self.num_levels, 2)
        check_integer("seed", self.seed, 0)
        check_integer("rounds", self.rounds, 0)
        if self.rounds and self.preset is not None:
            raise InputError(
                f"Expected rounds=0 with preset='{self.preset}', whose masks have no fixed area, "
                f"got rounds={self.rounds}. Take preset=None, or a larger max_iter."
            )
        check_positive("sigma", self.sigma, "pixels")
        check_positive("tolerance", self.tolerance, "as a share of the area")
        check_batch_size(self.batch_size)

    def attribute(self, model: nn.Module, image: Tensor, target: Target) -> Tensor:
        """Return the maps (N, 1, H, W); see :meth:`AttributionMethod.attribute`."""
        search = self._search(image)
        masks, _ = search.run(self._rewards(model, image, target))
        return masks.mean(1, keepdim=True)

    @classmethod
    def for_pointing_game(cls, setup: PointingSetup) -> Self:
        """Return the method for the areas of the dataset."""
        return cls(setup.areas, preset=setup.preset, resize=False)

    def extra_names(self) -> list[str]:
        """Return the names of the numbers of each area, see :class:`AreaMasks`."""
        return area_names(self.areas)

    def explain(self, model: nn.Module, image: Tensor, target: Target) -> Attribution:
        """Return the maps and the :class:`AreaMasks` that they are the means of.

        Args:
            model: see :meth:`AttributionMethod.__call__`, as for ``image`` and ``target``.
            image: (N, C, H, W).
            target: a class index, one for each image, ``"predicted"``, or a callable.
        """
        found = self.masks(model, image, target)
        extras = AreaMasks.of(found, self.areas, self.variant)
        return Attribution(found.masks.mean(1, keepdim=True), extras)

    def masks(self, model: nn.Module, image: Tensor, target: Target) -> ExtremalMasks:
        """Find the mask of each area, and say how well it does.

        Args:
            model: see :meth:`AttributionMethod.__call__`, as for ``image`` and ``target``.
            image: (N, C, H, W).
            target: a class index, one for each image, ``"predicted"``, or a callable.

        Raises:
            InputError: the image, the target or a setting cannot be used.
            ModelError: the model does not return scores, or they cannot be differentiated.
        """
        return self._find(model, image, target, None)

    def _find(
        self, model: nn.Module, image: Tensor, target: Target, progress: Progress | None
    ) -> ExtremalMasks:
        def find(model: nn.Module, images: Tensor) -> ExtremalMasks:
            search = self._search(images)
            rewards = self._rewards(model, images, target)
            masks, history = search.run(rewards, progress)
            found = evaluate_masks(search, rewards, masks, history)
            shown = self._finish(masks.flatten(0, 1)[:, None], images)
            return replace(found, masks=shown.reshape(*masks.shape[:2], *shown.shape[2:]))

        return run_guarded(find, model, image)

    @property
    def _config(self) -> SearchConfig:
        return CONFIGS[self.preset]

    def _search(self, image: Tensor) -> MaskSearch:
        size = (image.shape[2], image.shape[3])
        scale = self._config.scale(min(size), self.variant)
        levels = perturbation_levels(
            image,
            self.perturbation,
            self.num_levels,
            scale.max_blur,
            padding=self._config.blur_padding,
            truncate=self._config.blur_truncate,
        )
        sigma = self.sigma or (scale.sigma if self.step is None else 3.0 * self.step)
        step = self.step or (step_for(sigma) if self.preset is None else scale.step)
        return MaskSearch(
            self._config,
            self.areas,
            SmoothMask(size, step, sigma),
            levels,
            self.variant,
            self.max_iter or self._config.max_iter,
            self.jitter,
            self.seed,
            self.tolerance,
            self.rounds,
        )

    def _rewards(self, model: nn.Module, image: Tensor, target: Target) -> PictureRewards:
        reward = self.reward_func if callable(self.reward_func) else REWARDS[self.reward_func]
        batches = picture_batches(self.batch_size, image, self.variant)
        return PictureRewards(model, image, target, reward, self.variant, batches, self.autocast)


def extremal_perturbation(
    model: nn.Module,
    input: Tensor,
    target: Target,
    areas: Sequence[float] | float = (0.1,),
    perturbation: PerturbationKind = "blur",
    max_iter: int | None = None,
    num_levels: int = 8,
    step: int | None = None,
    sigma: float | None = None,
    jitter: bool = True,
    variant: Variant = "preserve",
    print_iter: int | None = None,
    debug: bool = False,
    reward_func: Reward = simple_reward,
    resize: bool | tuple[int, int] = False,
    resize_mode: ResizeMode = "bilinear",
    smooth: float = 0.0,
    preset: SearchPreset | None = None,
    batch_size: BatchSize = "auto",
    autocast: bool = False,
    tolerance: float | None = None,
    rounds: int = 0,
) -> tuple[Tensor, Tensor]:
    """Return the masks of :class:`ExtremalPerturbation`, and how the search went.

    Args:
        model: takes ``input`` and returns class scores; it is not changed.
        input: (N, C, H, W).
        target: class index, one for each image, ``"predicted"``, or a callable.
        areas: one or more fractions of the image.
        perturbation: ``"blur"`` or ``"fade"``.
        max_iter: iterations; None for 12, or 800 with the preset.
        num_levels: degrees of perturbation.
        step: distance of the points of a mask, in pixels; None for one that suits the image.
        sigma: radius of a point's kernel, in pixels; None for three steps, or one that suits the
            image.
        jitter: move the pictures a little in each iteration (with the preset, mirror them).
        variant: ``"preserve"``, ``"delete"`` or ``"dual"``.
        print_iter: print a line in every such iteration.
        debug: print the settings, and a line whenever the strength of the area constraint has
            doubled: the contrast of the masks, or the area term's weight.
        reward_func: :func:`simple_reward`, :func:`contrastive_reward`, or one of your own.
        resize: a pair (height, width) resizes the masks, which have the size of the image.
        resize_mode: ``"bilinear"``, ``"bicubic"``, ``"nearest"`` or ``"area"``.
        smooth: sigma of a Gaussian blur of the masks, as a fraction of their longer side.
        preset: None or ``"torchray"``.
        batch_size: how many pictures go through the model at once, or ``"auto"``.
        autocast: run the model under autocast to bfloat16.
        tolerance: end when the masks change by less than this share of their areas.
        rounds: at most so many rounds of eight more iterations for masks that still gain from them.

    Returns:
        The masks and the history. For one image they are (A, 1, H, W) and (A, 2, iterations), for
        A areas; for N > 1 images they have a dimension N in front. The history holds the rewards
        and minus the weighted area terms, 0 by default; it lies on the CPU.

    Raises:
        InputError: the image, the target or a setting cannot be used.
        ModelError: the model does not return scores, or they cannot be differentiated.
    """
    method = ExtremalPerturbation(
        checked_areas(areas),
        perturbation,
        max_iter,
        num_levels,
        step,
        sigma,
        jitter,
        variant,
        reward_func,
        preset,
        batch_size,
        autocast,
        tolerance=tolerance,
        rounds=rounds,
        resize=resize,
        resize_mode=resize_mode,
        smooth=smooth,
    )
    if debug:
        print(method)
    printed = debug or print_iter is not None
    progress = ConsoleProgress(method.areas, print_iter, debug) if printed else None
    found = method._find(model, input, target, progress)
    masks = found.masks[:, :, None]
    return (masks[0], found.history[0]) if len(masks) == 1 else (masks, found.history)
