"""Regions: in which forms they are given, what they cover, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_saliency.callbacks.samples.regions import PLACES, Regions, region_masks
from lightning_saliency.errors import InputError, SaliencyWarning

SIZE = (20, 40)


def mask(spec: object, count: int = 3) -> np.ndarray:
    (found,) = Regions({"it": spec}, count).masks(SIZE, count).values()  # type: ignore[dict-item]
    assert found.dtype == torch.bool
    assert found.shape in ((1, 1, *SIZE), (count, 1, *SIZE))
    return found[:, 0].numpy()


def test_places_by_hand() -> None:
    expected = {name: np.zeros(SIZE, bool) for name in PLACES}
    expected["border"][:2] = expected["border"][-2:] = True
    expected["border"][:, :2] = expected["border"][:, -2:] = True
    expected["center"][5:15, 10:30] = True
    expected["top_left"][:5, :10] = True
    expected["top_right"][:5, 30:] = True
    expected["bottom_left"][15:, :10] = True
    expected["bottom_right"][15:, 30:] = True
    for name in PLACES:
        assert (mask(name)[0] == expected[name]).all(), name


def test_a_box_covers_the_pixels_that_it_touches() -> None:
    expected = np.zeros(SIZE, bool)
    expected[2:5, 3:7] = True
    for box in [(3, 2, 7, 5), [3.0, 2.0, 7.0, 5.0], (3.2, 2.9, 6.1, 4.5)]:
        assert (mask(box)[0] == expected).all()
    assert mask((-5, -5, 1, 1))[0].sum() == 1
    assert mask((39, 19, 100, 100))[0].sum() == 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-5, 45), min_size=4, max_size=4))
def test_boxes_against_a_loop(box: list[float]) -> None:
    found = region_masks(box, SIZE, "it")[0, 0]
    values = torch.tensor(box)
    left, top, right, bottom = values.tolist()
    for row in range(SIZE[0]):
        for column in range(SIZE[1]):
            overlap = min(right, column + 1) > max(left, column) and min(bottom, row + 1) > max(
                top, row
            )
            assert bool(found[row, column]) == overlap


def test_masks_in_all_their_shapes() -> None:
    drawn = torch.rand(3, *SIZE, generator=torch.Generator().manual_seed(0)) > 0.5
    for form in (drawn, drawn[:, None], drawn.float(), drawn.long()):
        assert (mask(form) == drawn.numpy()).all()
    assert (mask(drawn[1]) == drawn[1:2].numpy()).all()
    boxes = torch.tensor([[0, 0, 2, 2], [1, 1, 3, 3], [5, 5, 5, 9]])
    assert mask(boxes).sum((1, 2)).tolist() == [4, 4, 0]


def test_a_tensor_alone_is_the_object_and_a_list_names_places() -> None:
    assert Regions(torch.ones(3, *SIZE), 3).names == ["object"]
    assert Regions(["border", "top_left"], 3).names == ["border", "top_left"]
    assert Regions(None, 3).masks(SIZE, 3) == {}


def test_fewer_samples_than_masks_take_the_first() -> None:
    drawn = torch.zeros(3, *SIZE, dtype=torch.bool)
    drawn[1] = True
    found = Regions(drawn, 3).masks(SIZE, 2)["object"]
    assert found.flatten(1).any(1).tolist() == [False, True]


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"it": "middle"}, "border, center, .*got 'middle'"),
        ({"it": (0, 0, 8)}, r"a box \(left, top, right, bottom\)"),
        ({"it": (8, 0, 0, 8)}, "left < right"),
        ({"it": (0, 0, "8", 8)}, "a place"),
        ({"it": torch.zeros(3, *SIZE)}, "its masks are empty"),
        ({"it": torch.ones(2, *SIZE)}, "each of the 3 samples, got 2"),
        ({"it": torch.ones(4, 4)}, "each of the 3 samples, got 4"),
        ({"it": torch.ones(0, *SIZE)}, "a place"),
        ({"it": 5}, "a place"),
        ({"it": None}, "a place"),
        ({"a/b": "border"}, "without slashes"),
        ({"": "border"}, "stand in a tag"),
        ({3: "border"}, "stand in a tag"),
        ([(0, 0, 8, 8)], "mapping from names"),
        ("border", "mapping from names"),
        (["edge"], "got 'edge'"),
    ],
    ids=str,
)
def test_what_is_no_region_is_refused(spec: object, says: str) -> None:
    with pytest.raises(InputError, match=says):
        Regions(spec, 3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (torch.ones(3, 20, 20), r"\(N, 20, 40\), got shape \(3, 20, 20\). Resize"),
        (torch.ones(3, 2, 20, 40), r"got shape \(3, 2, 20, 40\)"),
        ({"corner": (100, 100, 120, 120)}, "'corner' to have a pixel in the images of 20 x 40"),
    ],
    ids=["size", "channels", "outside"],
)
def test_what_does_not_fit_the_images_is_refused(spec: object, says: str) -> None:
    with pytest.raises(InputError, match=says):
        Regions(spec, 3).check(SIZE)  # type: ignore[arg-type]


def test_samples_without_a_pixel_are_warned_of() -> None:
    drawn = torch.ones(3, *SIZE)
    drawn[[0, 2]] = 0
    with pytest.warns(SaliencyWarning, match="'object' has no pixel in sample 0, 2; .* leave them"):
        Regions(drawn, 3).check(SIZE)
