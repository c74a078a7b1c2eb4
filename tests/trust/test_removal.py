"""The pictures that faithfulness is measured with, and the scores on them."""

from __future__ import annotations

import pytest
import torch
from tiny_models import make_images
from torch import Tensor, nn

from lightning_saliency.errors import InputError
from lightning_saliency.image.perturbation import perturbation_levels
from lightning_saliency.network.batching import Batches
from lightning_saliency.trust.removal import (
    Probe,
    insertion_and_deletion_curve,
    pixel_ranks,
    removal_scores,
)


def test_ranks_are_the_order_of_the_values() -> None:
    maps = torch.tensor([[[[3.0, -1.0], [7.0, 0.5]]], [[[0.0, 1.0], [2.0, 3.0]]]])
    assert pixel_ranks(maps).flatten(1).tolist() == [[1, 3, 0, 2], [3, 2, 1, 0]]


def test_equal_pixels_come_in_no_order_of_place_and_the_same_each_time() -> None:
    maps = torch.zeros(2, 1, 20, 20)
    maps[:, :, 5, 5] = 1
    ranks = pixel_ranks(maps)
    assert torch.equal(ranks, pixel_ranks(maps))
    assert torch.equal(ranks[0], ranks[1])
    assert (ranks[:, 0, 5, 5] == 0).all()
    assert ranks[0].flatten().sort().values.tolist() == list(range(400))
    # Of the first half of the order, about half lies in the upper half of the picture.
    assert 70 < int((ranks[0, 0, :10] < 200).sum()) < 130


class Recorder(nn.Module):
    """Keeps the pictures that it is shown; its scores are their means."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.clone())
        return x.mean((1, 2, 3))[:, None]


def recorded(batch: int = 4) -> tuple[Recorder, Probe, Tensor]:
    images = make_images(2, (6, 8))
    model = Recorder()
    probe = Probe.of(model, images, lambda output: output[:, 0], Batches(batch, images.device))
    model.seen.clear()
    return model, probe, images


@pytest.mark.parametrize("insert", [True, False])
@pytest.mark.parametrize("baseline", ["blur", "fade"])
def test_each_step_changes_the_next_share_of_the_pixels(insert: bool, baseline: str) -> None:
    model, probe, images = recorded()
    maps = torch.rand(2, 1, 6, 8, generator=torch.Generator().manual_seed(0))
    curve = insertion_and_deletion_curve(probe, pixel_ranks(maps), insert, 5, baseline)
    seen = torch.cat(model.seen).view(2, 5, 3, 6, 8)
    empty = perturbation_levels(images, baseline, 2, 20 * 6 / 224)[:, 0]
    for image, blank, saliency, pictures, scores in zip(
        images, empty, maps, seen, curve, strict=True
    ):
        order = sorted(range(48), key=lambda pixel: -float(saliency.flatten()[pixel]))
        wanted = []
        for step in range(6):
            picture = (blank if insert else image).clone()
            for pixel in order[: round(48 * step / 5)]:
                place = pixel // 8, pixel % 8
                picture[:, place[0], place[1]] = (image if insert else blank)[:, place[0], place[1]]
            wanted.append(picture)
        assert torch.equal(wanted[-1 if insert else 0], image)
        assert torch.equal(pictures, torch.stack(wanted[:-1] if insert else wanted[1:]))
        assert scores.tolist() == pytest.approx([float(p.mean()) for p in wanted], abs=1e-6)


def test_the_papers_baselines_are_the_default() -> None:
    _, probe, images = recorded()
    ranks = pixel_ranks(images.abs().sum(1, keepdim=True))
    for insert, baseline in ((True, "blur"), (False, "fade")):
        default = insertion_and_deletion_curve(probe, ranks, insert, 4)
        assert torch.equal(default, insertion_and_deletion_curve(probe, ranks, insert, 4, baseline))


def test_removal_takes_the_shares_from_both_ends_and_adds_noise() -> None:
    model, probe, images = recorded(batch=3)
    maps = torch.rand(2, 1, 6, 8, generator=torch.Generator().manual_seed(0))
    removal_scores(probe, pixel_ranks(maps), (0.25, 0.5), noise=0.0)
    seen = torch.cat(model.seen).view(2, 4, 3, 6, 8)
    for image, saliency, pictures in zip(images, maps, seen, strict=True):
        ordered = saliency.flatten().sort().values
        low, middle, high = (float(ordered[k]) for k in (12, 24, 36))
        for picture, kept in zip(
            pictures,
            (saliency < high, saliency < middle, saliency >= low, saliency >= middle),
            strict=True,
        ):
            same = (picture == image).all(0)
            assert torch.equal(same, kept[0])
    model.seen.clear()
    removal_scores(probe, pixel_ranks(maps), (0.25, 0.5), noise=0.1)
    noise = torch.cat(model.seen).view(2, 4, 3, 6, 8) - seen
    changed = noise != 0
    assert torch.equal(changed.any(2), (seen != images[:, None]).any(2))
    assert float(noise[changed].std()) == pytest.approx(0.1, rel=0.3)


def test_results_do_not_depend_on_the_batches() -> None:
    ranks = pixel_ranks(torch.rand(2, 1, 6, 8, generator=torch.Generator().manual_seed(0)))
    runs = []
    for batch in (1, 3, 50):
        _, probe, _ = recorded(batch)
        curve = insertion_and_deletion_curve(probe, ranks, True)
        runs.append(torch.cat((curve, *removal_scores(probe, ranks)), 1))
    for run in runs[1:]:
        torch.testing.assert_close(run, runs[0], rtol=0, atol=1e-4)


def test_bad_input() -> None:
    _, probe, images = recorded()
    ranks = pixel_ranks(images[:, :1])
    for steps in (0, 2.0, True):
        with pytest.raises(InputError, match="at least 1 step"):
            insertion_and_deletion_curve(probe, ranks, True, steps)
    with pytest.raises(InputError, match="'blur' or 'fade'"):
        insertion_and_deletion_curve(probe, ranks, True, 4, "noise")
    for shares, noise in (((), 0.0), ((0.5, 1.0), 0.0), ((0.5,), -1.0)):
        with pytest.raises(InputError, match="shares of the pixels"):
            removal_scores(probe, ranks, shares, noise)
