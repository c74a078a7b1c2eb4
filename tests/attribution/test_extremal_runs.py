"""Whole searches of the preset against whole runs of the installed TorchRay.

Such a search is chaotic: what differs in the last digit after one iteration differs everywhere
after fifty. So the masks are not compared, but what they are worth: how much of the score each
keeps, at exactly its area.
"""

import warnings

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from lightning_saliency.attribution import ExtremalPerturbation
from lightning_saliency.image.perturbation import blend, perturbation_levels

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torchray.attribution import extremal_perturbation as torchray

AREAS = (0.1, 0.2)
COUNT = 3


def digits_in_corners() -> tuple[Tensor, Tensor]:
    """Return handwritten digits, each in a quarter of a picture of 32 pixels, and their labels."""
    data = load_digits()
    small = torch.from_numpy(data.images).float()[:, None] / 8 - 1
    images = torch.full((len(small), 1, 32, 32), -1.0)
    for n, digit in enumerate(F.interpolate(small, (16, 16), mode="bilinear")):
        row, column = divmod(n % 4, 2)
        images[n, :, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16] = digit
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return images + 0.2 * noise, torch.from_numpy(data.target)


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, Tensor, Tensor]:
    """Return a network, and pictures with labels that it was not trained with."""
    images, labels = digits_in_corners()
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 16, 5, 2, 2),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, 1, 1),
            nn.ReLU(),
            nn.AdaptiveMaxPool2d(1),
            nn.Flatten(),
            nn.Linear(64, 10),
        )
        optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
        for _ in range(8):
            for batch in torch.randperm(1600).split(64):
                loss = F.cross_entropy(model(images[batch]), labels[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    model.eval().requires_grad_(False)
    right = model(images[1600:]).argmax(1) == labels[1600:]
    assert right.float().mean() > 0.85
    return model, images[1600:][right][:COUNT], labels[1600:][right][:COUNT]


def gains(model: nn.Module, images: Tensor, labels: Tensor, masks: Tensor) -> Tensor:
    """Return (N, A): the logit with the largest pixels of each mask kept, over that with none.

    Args:
        model: takes the images.
        images: (N, C, H, W).
        labels: (N,).
        masks: (N, A, H, W); as many pixels of each are kept as its area has.
    """
    levels = perturbation_levels(images, "blur", 8, 20.0, padding="constant", truncate=4.0)
    kept = torch.zeros(len(masks), len(AREAS) + 1, *masks.shape[2:])
    for n in range(len(masks)):
        for a, area in enumerate(AREAS):
            largest = masks[n, a].flatten().argsort(descending=True)
            kept[n, a + 1].view(-1)[largest[: round(area * largest.numel())]] = 1
    shown = blend(levels, kept)
    logits = model(shown.flatten(0, 1)).reshape(*shown.shape[:2], -1)
    scores = torch.stack([logits[n, :, label] for n, label in enumerate(labels.tolist())])
    return scores[:, 1:] - scores[:, :1]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:torch.meshgrid:UserWarning")
def test_preset_keeps_as_much_of_the_score_as_torchray(
    trained: tuple[nn.Module, Tensor, Tensor],
) -> None:
    model, images, labels = trained
    lengths = {"step": 3, "sigma": 9}
    runs = [
        torchray.extremal_perturbation(model, image[None], int(label), areas=list(AREAS), **lengths)
        for image, label in zip(images, labels, strict=True)
    ]
    theirs = torch.stack([masks[:, 0] for masks, _ in runs])
    preset = ExtremalPerturbation(AREAS, preset="torchray", step=3, sigma=9.0)
    ours = preset.masks(model, images, labels)
    assert ours.history.shape[-1] == 800
    wanted, came = (gains(model, images, labels, masks) for masks in (theirs, ours.masks))
    print(f"gains of TorchRay {wanted.tolist()}\ngains of the preset {came.tolist()}")
    # Each run is as if drawn by chance; the means are not.
    assert wanted.mean() > 1
    assert came.mean().item() == pytest.approx(wanted.mean().item(), rel=0.1)
    for a in range(len(AREAS)):
        share = (theirs[:, a].mean(), ours.masks[:, a].mean())
        assert share[1].item() == pytest.approx(share[0].item(), rel=0.1)
