"""The methods that run a model many times can do so in bfloat16."""

from typing import Any

import pytest
import torch
from tally import Tally
from tiny_models import make_images, make_model
from torch import Tensor, nn

from lightning_saliency.attribution import RISE, AttributionMethod, ExtremalPerturbation


def outputs_of(model: nn.Module) -> Tally:
    """Collect the dtypes that the model's features put out."""
    seen = Tally()

    def note(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        seen.append(output.dtype)

    model.get_submodule("features.0").register_forward_hook(note)
    return seen


@pytest.mark.parametrize(
    ("make", "settings", "correlation"),
    [
        (RISE, {"num_masks": 256}, 0.99),
        # A search goes another way after a few steps, whatever the rounding error.
        (ExtremalPerturbation, {"max_iter": 5, "areas": (0.2, 0.5)}, 0.75),
    ],
)
def test_model_runs_in_bfloat16_and_maps_are_nearly_the_same(
    make: type[AttributionMethod], settings: dict[str, Any], correlation: float
) -> None:
    model, images = make_model(), make_images(2)
    wanted = make(**settings)(model, images, [1, 2])
    seen = outputs_of(model)
    came = make(**settings, autocast=True)(model, images, [1, 2])
    assert seen.count(torch.bfloat16) >= len(seen) - 1 >= 2
    assert came.dtype == torch.float32
    assert not torch.equal(came, wanted)
    together = torch.stack([came.flatten(), wanted.flatten()])
    assert float(torch.corrcoef(together)[0, 1]) > correlation
    assert not torch.is_autocast_enabled("cpu")


def test_rewards_are_computed_in_float32() -> None:
    seen: list[torch.dtype] = []

    def reward(logits: Tensor, target: object, variant: str) -> Tensor:
        seen.append(logits.dtype)
        return logits[:, 1]

    method = ExtremalPerturbation(max_iter=2, reward_func=reward, autocast=True)
    found = method.masks(make_model(), make_images(), 1)
    assert set(seen) == {torch.float32}
    assert found.rewards.dtype == torch.float32
