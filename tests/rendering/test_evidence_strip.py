"""The picture of where the evidence lay over a run."""

from typing import Any

import pytest
import torch

from lightning_saliency.errors import InputError
from lightning_saliency.rendering import apply_colormap, evidence_card, evidence_strip, to_bytes
from lightning_saliency.rendering.evidence import _INKS, stacked_areas

NAMES = ("fine", "middle", "coarse", "low", "level")


def profiles(count: int, grid: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    places = torch.rand(count, grid * grid, generator=generator).softmax(1)
    return places.view(count, grid, grid), torch.rand(count, 5, generator=generator).softmax(1)


@pytest.mark.parametrize("count", [1, 2, 16])
def test_one_tile_for_each_epoch_in_one_color_scale(count: int) -> None:
    places, kinds = profiles(count)
    places[0, 0, 0], places[-1, 4, 4] = 0.0, 0.4
    strip = evidence_strip(places, kinds, NAMES, [str(n) for n in range(count)], "evidence")
    assert strip.dtype == torch.uint8
    black, full = (
        to_bytes(apply_colormap(torch.full((1, 1, 1, 1), value)))[0, :, 0, 0] for value in (0, 1.0)
    )
    # The corners of the first and of the last tile.
    assert torch.equal(strip[:, 46, 10], black)
    assert torch.equal(strip[:, 46 + 50, 8 + (count - 1) * 59 + 52], full)


def test_areas_are_as_high_as_their_shares() -> None:
    shares = torch.tensor([[0.5, 0.25, 0.25, 0, 0], [0, 0, 0, 0, 1.0]])
    drawn = (stacked_areas(shares, 100, 40, 20) * 255).round()
    inks = torch.tensor(_INKS).float()

    def heights(column: int) -> list[int]:
        return [int((ink == drawn[:, :, column].T).all(1).sum()) for ink in inks]

    assert heights(0) == [50, 25, 25, 0, 0]
    assert heights(39) == [0, 0, 0, 0, 100]
    # The first is at the bottom.
    assert torch.equal(drawn[:, 99, 0], inks[0])
    # In the middle between the two, each has half of it.
    assert heights(19)[0] == pytest.approx(25, abs=2)


def test_what_could_not_be_measured_stays_empty() -> None:
    places, kinds = profiles(3)
    places[1], kinds[1] = float("nan"), float("nan")
    drawn = stacked_areas(kinds, 50, 3 * 59, 59)
    assert bool((drawn[:, :, 88] == 1).all())
    assert not bool((drawn[:, :, 10] == 1).all())
    evidence_strip(places, kinds, NAMES, ["0", "1", "2"])


@pytest.mark.parametrize(
    "change", [{"epochs": ["0"]}, {"names": NAMES[:4]}, {"places": torch.ones(2, 25)}]
)
def test_what_does_not_fit(change: dict[str, Any]) -> None:
    places, kinds = profiles(2)
    given: dict[str, Any] = {"places": places, "kinds": kinds, "names": NAMES, "epochs": ["0", "1"]}
    with pytest.raises(InputError, match=r"places \(T, G, G\)"):
        evidence_strip(**{**given, **change})


def test_nothing_of_the_card_is_cut_off() -> None:
    shares = torch.zeros(2, 1, 32, 32)
    shares[..., :8, :8] = 0.6
    card = evidence_card(
        torch.rand(2, 3, 32, 32), [shares, shares], ["1", "2"], ["a", "b"], "evidence"
    )
    # Beneath the second line of the legend.
    assert bool((card[:, -6:] == 255).all())
