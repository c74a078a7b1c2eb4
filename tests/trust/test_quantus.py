"""The same numbers as Quantus, where it is installed and has the same definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_saliency.attribution import Gradient
from lightning_saliency.network.batching import Batches
from lightning_saliency.trust import sanity_check
from lightning_saliency.trust.removal import (
    Probe,
    insertion_and_deletion_curve,
    pixel_ranks,
)

# Not among the dependencies for development: it brings pandas and a second OpenCV.
quantus = pytest.importorskip("quantus")

pytestmark = pytest.mark.filterwarnings("ignore")

IMAGES = torch.randn(3, 1, 12, 12, generator=torch.Generator().manual_seed(0))
LABELS = np.array([0, 2, 1])


def seeded(kind: type[nn.Module]) -> type[nn.Module]:
    """A layer whose random weights depend on its size alone, and not on who asks for them."""

    class Seeded(kind):  # type: ignore[misc,valid-type]
        def reset_parameters(self) -> None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.weight.numel())
                super().reset_parameters()

    return Seeded


def make_network() -> nn.Module:
    conv, linear = seeded(nn.Conv2d), seeded(nn.Linear)
    model = nn.Sequential(
        *(conv(1, 4, 3, padding=1), nn.ReLU(), conv(4, 6, 3, padding=1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(3), nn.Flatten(), linear(54, 8), nn.ReLU(), linear(8, 3)),
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def explain(model: Any, inputs: Any, targets: Any, **_: Any) -> Any:
    images = torch.as_tensor(np.asarray(inputs), dtype=torch.float32)
    return Gradient()(model, images, torch.as_tensor(np.asarray(targets))).numpy()


@pytest.mark.parametrize(
    ("order", "theirs"), [("cascading", "top_down"), ("independent", "independent")]
)
def test_randomisation(order: Any, theirs: str) -> None:
    metric = quantus.MPRT(
        similarity_func=quantus.similarity_func.correlation_spearman,
        layer_order=theirs,
        abs=False,
        normalise=False,
        return_sample_correlation=False,
        disable_warnings=True,
    )
    found = metric(
        model=make_network(),
        x_batch=IMAGES.numpy(),
        y_batch=LABELS,
        explain_func=explain,
        device="cpu",
    )
    check = sanity_check(
        make_network(), Gradient(), IMAGES, torch.from_numpy(LABELS), order, max_stages=99
    )
    wanted = {name: np.asarray(values) for name, values in found.items()}
    assert set(check.labels) <= set(wanted)
    for stage, name in enumerate(check.labels):
        came = check.similarity["spearman"][:, stage].numpy()
        np.testing.assert_allclose(came, wanted[name], atol=1e-5)


def test_deletion() -> None:
    model = make_network()
    maps = torch.randn(3, 1, 12, 12, generator=torch.Generator().manual_seed(2))
    metric = quantus.PixelFlipping(
        features_in_step=9,
        perturb_baseline=0.0,
        normalise=False,
        disable_warnings=True,
    )
    wanted = metric(
        model=model,
        x_batch=IMAGES.numpy(),
        y_batch=LABELS,
        a_batch=maps.numpy(),
        device="cpu",
        softmax=True,
    )
    with torch.no_grad():
        targets: Tensor = torch.from_numpy(LABELS)
        probe = Probe.of(model, IMAGES, targets, Batches(8, IMAGES.device))
        curve = insertion_and_deletion_curve(probe, pixel_ranks(maps), insert=False, steps=16)
    np.testing.assert_allclose(curve[:, 1:].numpy(), np.asarray(wanted), atol=1e-5)
