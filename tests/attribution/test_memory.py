"""How much memory explanations take beside a training step with the same images.

Measured is the largest sum of what torch's allocator has given out and not got back, on the CPU,
from the profiler's record of each allocation; the model and the images are not in it.
"""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torchvision.models import resnet18

from lightning_saliency.attribution import (
    RISE,
    AttributionMethod,
    DeconvNet,
    ExcitationBackprop,
    ExtremalPerturbation,
    GradCAM,
    Gradient,
    GuidedBackprop,
    LinearApprox,
)
from lightning_saliency.attribution.shared_pass import shared_maps

COUNT = 8
FIVE = [Gradient(), GradCAM("layer4"), LinearApprox("layer4"), GuidedBackprop(), DeconvNet()]


def peak(run: Callable[[], object]) -> float:
    """Return the largest number of MiB that are in use at a time while ``run`` runs."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        run()
    assert found.profiler is not None
    record = found.profiler.kineto_results.events()
    steps = sorted((e.start_ns(), e.nbytes()) for e in record if e.name() == "[memory]")
    in_use, most = 0, 0
    for _, change in steps:
        in_use += change
        most = max(most, in_use)
    return most / 2**20


def images_and_labels() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(COUNT, 3, 64, 64, generator=generator), torch.arange(COUNT)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return resnet18(num_classes=10)


@pytest.fixture(scope="module")
def training_step(model: nn.Module) -> float:
    images, labels = images_and_labels()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)

    def step() -> None:
        F.cross_entropy(model.train()(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return peak(step)


def test_the_measure_sees_what_is_held_and_what_is_given_back() -> None:
    def run() -> None:
        kept = torch.zeros(2**20)
        for _ in range(3):
            torch.zeros(2**18)
        kept.add_(1)

    assert peak(run) == pytest.approx(5, abs=0.1)


@pytest.mark.parametrize(
    "method",
    # A block of few masks: the batches are as large as with many.
    [*FIVE, ExcitationBackprop(), RISE(num_masks=64, num_cells=4)],
    ids=lambda method: method.name,
)
def test_explanation_takes_less_than_a_training_step(
    method: AttributionMethod, model: nn.Module, training_step: float
) -> None:
    images, labels = images_and_labels()
    assert peak(lambda: method(model, images, labels)) < 0.8 * training_step


@pytest.mark.slow
def test_extremal_perturbation_takes_less_than_a_training_step(
    model: nn.Module, training_step: float
) -> None:
    images, labels = images_and_labels()
    method = ExtremalPerturbation((0.05, 0.1, 0.2, 0.3), max_iter=1)
    assert peak(lambda: method(model, images, labels)) < training_step


def test_five_methods_at_once_take_less_than_a_training_step(
    model: nn.Module, training_step: float
) -> None:
    images, labels = images_and_labels()
    assert peak(lambda: shared_maps(FIVE, model, images, lambda _: [labels])) < training_step
