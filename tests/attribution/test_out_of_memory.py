"""Fewer images at a time where a device runs out of memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from contract import METHODS, make_method
from tally import Tally
from tiny_models import in_training, make_images, make_model
from torch import Tensor, nn
from traces import leaves_no_trace

from lightning_saliency.attribution import GradCAM, Gradient, GuidedBackprop
from lightning_saliency.attribution.from_function import FromFunction
from lightning_saliency.attribution.shared_pass import shared_maps

IMAGES = make_images(5)
TARGETS = [1, 0, 2, 1, 3]


class Small(nn.Module):
    """The usual model, on a device that holds only a few images, and that it writes into."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.inner, self.most = in_training(make_model()), most
        self.batches = Tally()

    def forward(self, x: Tensor) -> Tensor:
        self.batches.append(len(x))
        x.add_(1)
        if len(x) > self.most:
            raise torch.OutOfMemoryError("on purpose")
        return self.inner(x)


# The others have batches of their own.
WHOLE = [name for name in METHODS if name not in ("RISE", "ExtremalPerturbation")]


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize(
    "target",
    [1, "predicted", TARGETS, torch.tensor(TARGETS)],
    ids=["one", "predicted", "list", "tensor"],
)
def test_the_maps_are_those_of_all_images_at_once(name: str, target: Any) -> None:
    method = make_method(name)
    wanted = method(Small(5), IMAGES, target)
    model = Small(2)
    with leaves_no_trace(model, IMAGES):
        found = method(model, IMAGES, target)
    torch.testing.assert_close(found, wanted)
    assert {5, 3, 1} <= set(model.batches)


def test_one_image_that_does_not_fit_is_the_devices_error() -> None:
    model = Small(0)
    with leaves_no_trace(model, IMAGES), pytest.raises(torch.OutOfMemoryError, match="on purpose"):
        Gradient()(model, IMAGES, 1)
    assert model.batches == [5, 3, 1]


def test_what_may_depend_on_all_images_is_not_divided() -> None:
    model = Small(2)
    labels = torch.tensor(TARGETS)
    with pytest.raises(torch.OutOfMemoryError):
        Gradient()(model, IMAGES, lambda output: output[range(5), labels])
    with pytest.raises(torch.OutOfMemoryError):
        FromFunction(lambda model, image, target: model(image.clone()).mean())(model, IMAGES, 1)
    assert model.batches == [5, 5]


def test_methods_that_share_a_pass_then_go_alone() -> None:
    model = Small(2)
    methods = [Gradient(), GuidedBackprop(), GradCAM("inner.features")]
    shared = shared_maps(methods, model, IMAGES, lambda logits: [logits.argmax(1)])
    assert shared.maps == {}
    torch.testing.assert_close(shared.logits, make_model()(IMAGES + 1).detach())
