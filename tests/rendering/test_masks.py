import pytest
import torch

from lightning_saliency.errors import InputError
from lightning_saliency.rendering import mask_rows

IMAGE = torch.rand(3, 8, 10, generator=torch.Generator().manual_seed(0))


def masks(count: int) -> torch.Tensor:
    drawn = torch.zeros(count, 8, 10)
    for index in range(count):
        drawn[index, : index + 1] = 1.0
    return drawn


def test_one_mask_has_its_pixels_beside_it() -> None:
    ((mask, kept),) = mask_rows(IMAGE, masks(1), [0.1], [0.934])
    assert mask.title == "area 0.1"
    assert kept.title == "kept, p 0.93"
    assert mask.picture is not None
    assert kept.picture is not None
    assert torch.equal(mask.picture, masks(1).expand(3, -1, -1))
    assert torch.equal(kept.picture[:, :1], IMAGE[:, :1])
    assert (kept.picture[:, 1:] == 0.5).all()


def test_what_a_mask_deletes_is_gray() -> None:
    ((_, rest),) = mask_rows(IMAGE, masks(1), [0.1], [float("nan")], deleted=True)
    assert rest.title == "rest"
    assert rest.picture is not None
    assert torch.equal(rest.picture[:, 1:], IMAGE[:, 1:])
    assert (rest.picture[:, :1] == 0.5).all()


def test_more_masks_stand_above_their_pixels_four_in_a_row() -> None:
    rows = mask_rows(IMAGE, masks(6), [0.1 * i for i in range(1, 7)], [0.5] * 6)
    assert [len(row) for row in rows] == [4, 4, 2, 2]
    assert [cell.title[:4] for row in rows for cell in row[:1]] == ["area", "kept"] * 2


def test_a_mask_of_another_size_is_stretched() -> None:
    ((mask, _),) = mask_rows(IMAGE, torch.ones(1, 2, 2), [1.0], [1.0])
    assert mask.picture is not None
    assert mask.picture.shape == IMAGE.shape


@pytest.mark.parametrize(
    ("shape", "areas"), [((2, 8, 10), [0.1]), ((8, 10), [0.1]), ((0, 8, 10), [])]
)
def test_what_does_not_fit_together_is_refused(shape: tuple[int, ...], areas: list[float]) -> None:
    with pytest.raises(InputError, match=r"masks of shape \(A, h, w\)"):
        mask_rows(IMAGE, torch.zeros(shape), areas, areas)
