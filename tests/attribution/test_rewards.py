"""Rewards, worked out by hand and against TorchRay."""

import warnings

import pytest
import torch

from lightning_saliency.attribution.mask_search.rewards import (
    Variant,
    contrastive_reward,
    simple_reward,
)
from lightning_saliency.errors import InputError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torchray.attribution import extremal_perturbation as torchray

LOGITS = torch.tensor([[1.0, 4.0, 2.0], [5.0, -1.0, 0.5], [0.0, 3.0, 7.0], [2.0, 2.0, -4.0]])

BY_HAND: list[tuple[Variant, list[float], list[float]]] = [
    ("preserve", [4.0, 5.0, 7.0, 2.0], [2.0, 4.5, 4.0, 0.0]),
    ("delete", [-4.0, -5.0, -7.0, -2.0], [-2.0, -4.5, -4.0, 0.0]),
]


@pytest.mark.parametrize(("variant", "simple", "contrastive"), BY_HAND)
def test_one_target_for_each_picture(
    variant: Variant, simple: list[float], contrastive: list[float]
) -> None:
    target = torch.tensor([1, 0, 2, 0])
    assert simple_reward(LOGITS, target, variant=variant).tolist() == simple
    assert contrastive_reward(LOGITS, target, variant=variant).tolist() == contrastive


def test_dual_is_kept_minus_removed() -> None:
    target = torch.tensor([1, 0])
    assert simple_reward(LOGITS, target, variant="dual").tolist() == [4.0 - 3.0, 5.0 - 2.0]
    assert contrastive_reward(LOGITS, target, variant="dual").tolist() == [2.0 + 4.0, 4.5 - 0.0]


@pytest.mark.parametrize("variant", ["preserve", "delete", "dual"])
@pytest.mark.parametrize("target", [0, 2])
def test_simple_reward_is_that_of_torchray(variant: Variant, target: int) -> None:
    wanted = torchray.simple_reward(LOGITS, target, variant)
    assert torch.equal(simple_reward(LOGITS, target, variant), wanted)


@pytest.mark.parametrize("variant", ["preserve", "delete"])
def test_contrastive_reward_is_that_of_torchray_for_one_mask(variant: Variant) -> None:
    # With several masks TorchRay subtracts the best other logit of every mask from each of them.
    for row in LOGITS.split(1):
        wanted = torchray.contrastive_reward(row, 1, variant)
        assert torch.equal(contrastive_reward(row, 1, variant), wanted[0])


@pytest.mark.parametrize("reward", [simple_reward, contrastive_reward])
@pytest.mark.parametrize("variant", ["preserve", "delete", "dual"])
def test_slope_is_that_of_finite_differences(reward, variant: Variant) -> None:  # type: ignore[no-untyped-def]
    logits = LOGITS.double() + torch.arange(12.0).view(4, 3) / 100
    assert torch.autograd.gradcheck(lambda x: reward(x, 1, variant), logits.requires_grad_())


@pytest.mark.parametrize("reward", [simple_reward, contrastive_reward])
@pytest.mark.parametrize(
    ("target", "variant", "words"),
    [
        (1, "both", "'preserve', 'delete' or 'dual', got 'both'"),
        (torch.tensor([0, 1]), "preserve", "got 2 targets"),
        (torch.tensor([0, 1, 2, 1]), "dual", "got 4 targets"),
    ],
)
def test_bad_input(reward, target, variant: str, words: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match=words):
        reward(LOGITS, target, variant)


def test_dual_game_of_an_odd_number_of_pictures() -> None:
    with pytest.raises(InputError, match=r"logits of shape \(3, 3\)"):
        simple_reward(LOGITS[:3], 1, "dual")
