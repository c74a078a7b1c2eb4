"""The objective of a search for masks: the pictures that masks make, rewards, derivatives."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_saliency.attribution.mask_search.presets import SearchConfig
from lightning_saliency.attribution.mask_search.rewards import Reward, Variant, contrastive_reward
from lightning_saliency.errors import InputError
from lightning_saliency.image.perturbation import blend
from lightning_saliency.image.smooth_mask import SmoothMask
from lightning_saliency.network.batching import Batches, BatchSize, batches_for
from lightning_saliency.network.layer_gradient import score_gradient
from lightning_saliency.network.score import Target, class_logits, class_scores, target_classes


@dataclass(frozen=True)
class MaskProblem:
    """Masks of all areas of all images, and the pictures by which they are rewarded.

    Attributes:
        config: how the search is done.
        areas: of the masks of each image, fractions in (0, 1].
        smooth_mask: makes masks out of grids.
        levels: (N, L, C, H, W), the images at each degree of perturbation.
        variant: whether masks keep the score, delete it, or both.
    """

    config: SearchConfig
    areas: tuple[float, ...]
    smooth_mask: SmoothMask
    levels: Tensor
    variant: Variant

    def pictures(self, masks: Tensor) -> list[Tensor]:
        """Return the pictures that are rewarded, (N * A, C, H, W): one tensor, two for ``"dual"``.

        Args:
            masks: (N, A, H, W).
        """
        kept = {"preserve": [masks], "delete": [1 - masks], "dual": [masks, 1 - masks]}
        return [
            blend(self.levels, mask, slope_at_one=self.config.slope_at_one).flatten(0, 1)
            for mask in kept[self.variant]
        ]


# In a batch, by default.
_FEWEST_PICTURES = 8


def picture_batches(size: BatchSize, image: Tensor, variant: Variant) -> Batches:
    """Return how many masks' pictures go through the model at once.

    Args:
        size: how many pictures; ``"auto"`` for what a training step with the images has room for.
        image: (N, C, H, W).
        variant: for ``"dual"`` each mask makes two pictures.
    """
    batches = batches_for(size, image)
    if size == "auto":
        batches.size = min(batches.size, max(_FEWEST_PICTURES, 2 * len(image)))
    if variant == "dual":
        batches.size = max(1, batches.size // 2)
    return batches


class PictureRewards:
    """A model and a reward, for pictures that are made of some images.

    Call everything inside :func:`~lightning_saliency.network.isolation.undisturbed.undisturbed`.
    The model runs once on the images as they are, to find their classes.

    Args:
        model: takes images; in eval mode, with frozen parameters.
        image: (N, C, H, W).
        target: see :data:`~lightning_saliency.network.score.Target`. The scores of a callable
            stand for the logits of a single class, 0.
        reward: see :data:`~lightning_saliency.attribution.mask_search.rewards.Reward`.
        variant: whether masks keep the score, delete it, or both.
        batches: how many pictures go through the model at once.
        autocast: run the model under autocast to bfloat16; what is computed from its logits stays
            in float32.

    Attributes:
        classes: (N,), int64; None where the target is a callable.

    Raises:
        InputError: a target is no class of the model, or there is not one for each image.
        ModelError: the model does not return logits.
    """

    def __init__(
        self,
        model: nn.Module,
        image: Tensor,
        target: Target,
        reward: Reward,
        variant: Variant,
        batches: Batches,
        autocast: bool = False,
    ) -> None:
        self._model = model
        self._reward = reward
        self._variant = variant
        self._batches = batches
        self._autocast = autocast
        self._callable = target if callable(target) and not isinstance(target, Tensor) else None
        if self._callable and reward is contrastive_reward:
            raise InputError(
                "Expected a class as target for the contrastive reward, which compares its logit "
                "with those of the other classes; got a callable. Take the simple reward, and let "
                "the callable return the difference."
            )
        self._count = len(image)
        self._single = target if isinstance(target, int) and not isinstance(target, bool) else None
        self.classes = None if self._callable else target_classes(self.logits(image), target)

    def select(self, images: Tensor) -> PictureRewards:
        """Return the rewards of the pictures of some of the images.

        Args:
            images: their indices, int64, (M,).
        """
        chosen = copy(self)
        chosen._count = len(images)
        chosen.classes = None if self.classes is None else self.classes[images]
        return chosen

    @torch.no_grad()
    def logits(self, pictures: Tensor) -> Tensor:
        """Return the model's logits (K, classes) on pictures (K, C, H, W)."""

        def work(batch: slice) -> Tensor:
            # A clone, because the model may write into its input.
            return self._read(self._run(pictures[batch].clone()), batch.stop - batch.start)

        return torch.cat(self._batches.run(work, len(pictures)))

    @torch.no_grad()
    def evaluate(self, pictures: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return rewards and probabilities.

        Args:
            pictures: one tensor (K, C, H, W), or two for ``"dual"``; the same number of consecutive
                ones belongs to each image.

        Returns:
            The rewards (K,), and the target's softmax probability for the pictures of the first
            tensor (K,), NaN where the target is a callable.
        """
        count = len(pictures[0])
        logits = self.logits(torch.cat(pictures))
        rewards = self._rewards(logits, slice(0, count), count)
        if self.classes is None:
            return rewards, torch.full_like(rewards, torch.nan)
        chosen = self.classes.repeat_interleave(count // self._count)
        return rewards, logits[:count].softmax(1).gather(1, chosen[:, None])[:, 0]

    def with_slopes(
        self, pictures: list[Tensor], jitter: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the rewards and their derivatives with respect to the pictures.

        Args:
            pictures: as for :meth:`evaluate`; not part of a graph.
            jitter: applied to the pictures before the model sees them; returns a copy.

        Returns:
            (K,), and a tensor like each of ``pictures``.

        Raises:
            InputError: the reward has no gradient.
        """
        count = len(pictures[0])

        def work(batch: slice) -> tuple[Tensor, tuple[Tensor, ...]]:
            leaf = torch.cat([some[batch] for some in pictures]).requires_grad_()
            # Also a copy, because a model that writes into its input may not write into a leaf.
            shown = jitter(leaf) if jitter else leaf.clone()
            logits = self._read(self._run(shown), len(shown))
            rewards = self._rewards(logits, batch, count)
            if logits.requires_grad and not rewards.requires_grad:
                raise InputError(
                    "Expected a reward that is computed from the logits in a differentiable way, "
                    "but no gradient passes it. Look for detach(), item(), argmax or rounding in "
                    "the reward function."
                )
            slope = score_gradient(rewards, leaf)
            return rewards.detach(), slope.chunk(len(pictures))

        results = self._batches.run(work, count)
        slopes = [torch.cat(parts) for parts in zip(*(part for _, part in results), strict=True)]
        return torch.cat([rewards for rewards, _ in results]), slopes

    def _run(self, pictures: Tensor) -> object:
        with torch.autocast(pictures.device.type, torch.bfloat16, enabled=self._autocast):
            output: object = self._model(pictures)
        return output

    def _read(self, output: object, count: int) -> Tensor:
        if self._callable:
            logits = class_scores(output, self._callable, count)[:, None]
        else:
            logits = class_logits(output, count)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def _rewards(self, logits: Tensor, batch: slice, count: int) -> Tensor:
        """Return the rewards for rows ``batch`` of ``count``."""
        rows = batch.stop - batch.start
        target: int | Tensor = 0
        if self._single is not None:
            target = self._single
        elif self.classes is not None:
            index = torch.arange(batch.start, batch.stop, device=logits.device)
            target = self.classes[index // (count // self._count)]
        rewards = self._reward(logits, target, variant=self._variant)
        if not isinstance(rewards, Tensor) or rewards.dim() == 0 or len(rewards) != rows:
            came = tuple(rewards.shape) if isinstance(rewards, Tensor) else type(rewards).__name__
            raise InputError(
                f"Expected the reward function to return one reward for each mask, a tensor of "
                f"shape ({rows},), but it returned {came}."
            )
        return rewards.reshape(rows, -1).to(logits.dtype).mean(1)
