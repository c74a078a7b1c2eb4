"""Rewards: what extremal perturbation makes as large as it can.

Section 3 of Fong, Patrick, Vedaldi. Understanding deep networks via extremal perturbations and
smooth masks. ICCV 2019, arXiv:1910.08485.
"""

from collections.abc import Callable
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from lightning_saliency.errors import InputError

Variant: TypeAlias = Literal["preserve", "delete", "dual"]
"""Whether the masked area alone keeps the score, its removal deletes it, or both."""

Reward: TypeAlias = Callable[..., Tensor]
"""A function ``(activation, target, variant)`` that returns one reward for each mask.

It is called with ``activation`` (K, classes), the model's logits for K masks; ``target``, the int
that the caller gave, or an int64 tensor (K,) with the class of each mask's image; and ``variant``
by keyword. For ``"preserve"`` and ``"delete"`` the logits are those of the pictures in which the
masked area was kept or removed. For ``"dual"`` there are 2 K of them (and ``target`` still has K
entries): first those with the area kept, then those with the area removed. It returns (K,), or
(K, ...), which is averaged; larger is better, and a gradient is taken through it."""

RewardName: TypeAlias = Literal["simple", "contrastive"]
"""A reward of the paper's authors."""


def simple_reward(activation: Tensor, target: int | Tensor, variant: Variant) -> Tensor:
    """Return the target's logit: kept, lost (its negative), or kept minus lost.

    Args:
        activation: (K, classes); (2 K, classes) for ``"dual"``, the kept ones first.
        target: class of all pictures, or one for each, (K,).
        variant: ``"preserve"``, ``"delete"`` or ``"dual"``.

    Returns:
        (K,)

    Raises:
        InputError: the variant is unknown, or the numbers of pictures and targets differ.
    """
    return _reward(
        lambda logits, chosen: logits.gather(1, chosen)[:, 0], activation, target, variant
    )


def contrastive_reward(activation: Tensor, target: int | Tensor, variant: Variant) -> Tensor:
    """Return how far the target's logit lies above the largest of the others.

    Args:
        activation: (K, classes); (2 K, classes) for ``"dual"``, the kept ones first.
        target: class of all pictures, or one for each, (K,).
        variant: ``"preserve"``; ``"delete"`` gives the negative; ``"dual"`` the difference.

    Returns:
        (K,)

    Raises:
        InputError: the variant is unknown, or the numbers of pictures and targets differ.
    """

    def lead(logits: Tensor, chosen: Tensor) -> Tensor:
        others = logits.scatter(1, chosen, -torch.inf)
        return logits.gather(1, chosen)[:, 0] - others.amax(1)

    return _reward(lead, activation, target, variant)


def _reward(
    score: Callable[[Tensor, Tensor], Tensor],
    activation: Tensor,
    target: int | Tensor,
    variant: Variant,
) -> Tensor:
    if variant not in get_args(Variant):
        raise InputError(f"Expected variant 'preserve', 'delete' or 'dual', got '{variant}'.")
    parts = 2 if variant == "dual" else 1
    chosen = torch.as_tensor(target, device=activation.device).reshape(-1)
    count = len(activation) // parts
    if len(activation) % parts or len(chosen) not in (1, count):
        raise InputError(
            f"Expected one target for all or for each of the pictures, got {len(chosen)} targets "
            f"and logits of shape {tuple(activation.shape)} for variant '{variant}'."
        )
    chosen = chosen.expand(count).repeat(parts)[:, None]
    scores = score(activation, chosen)
    if variant == "dual":
        return scores[:count] - scores[count:]
    return -scores if variant == "delete" else scores


REWARDS: dict[RewardName, Reward] = {"simple": simple_reward, "contrastive": contrastive_reward}
