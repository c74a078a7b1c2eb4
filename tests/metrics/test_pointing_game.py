import copy
import pickle
import random
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_saliency.errors import InputError
from lightning_saliency.metrics import PointingGame, PointingTally, point_hit, pointing_hit
from lightning_saliency.metrics.pointing_game import largest_point


def peak(row: int, column: int, size: tuple[int, int] = (20, 30)) -> Tensor:
    maps = torch.zeros(1, 1, *size)
    maps[0, 0, row, column] = 1.0
    return maps


def one_pixel(row: int, column: int, size: tuple[int, int] = (20, 30)) -> Tensor:
    return peak(row, column, size) > 0


def random_games(seed: int, count: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Noise as maps; as masks nothing, single pixels, boxes and scattered pixels, in turn."""
    generator = random.Random(seed)
    maps = torch.rand(count, 1, *size, generator=torch.Generator().manual_seed(seed))
    masks = torch.zeros(count, 1, *size, dtype=torch.bool)
    for i in range(count):
        row, column = generator.randrange(size[0]), generator.randrange(size[1])
        if i % 4 == 1:
            masks[i, 0, row, column] = True
        elif i % 4 == 2:
            masks[i, 0, row : row + generator.randrange(20), column : column + 9] = True
        elif i % 4 == 3:
            masks[i] = torch.rand(1, *size, generator=torch.Generator().manual_seed(i)) > 0.997
    return maps, masks


def torchray_game(num_classes: int, tolerance: int) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = pytest.importorskip("torchray.benchmark.pointing_game")
    return module.PointingGame(num_classes, tolerance=tolerance)


@pytest.mark.parametrize("tolerance", [0, 1, 4, 15])
@pytest.mark.parametrize("size", [(40, 60), (33, 17)])
def test_the_same_hits_and_accuracies_as_torchray(tolerance: int, size: tuple[int, int]) -> None:
    count, num_classes = 200, 6
    maps, masks = random_games(tolerance, count, size)
    # The last class never occurs.
    classes = torch.arange(count) % (num_classes - 1)
    theirs = torchray_game(num_classes, tolerance)
    hits = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for image, mask, label in zip(maps[:, 0], masks[:, 0], classes.tolist(), strict=True):
            place = int(image.argmax())
            result = theirs.evaluate(mask, (place % size[1], place // size[1]))
            theirs.aggregate(result, label)
            hits.append(result == 1)
    assert pointing_hit(maps, masks, tolerance).tolist() == hits
    game = PointingGame(num_classes, tolerance)
    each = PointingGame(num_classes, tolerance, average="none")
    for part in torch.arange(count).split(64):
        game.update(maps[part], masks[part], classes[part])
        each.update(maps[part], masks[part], classes[part])
    torch.testing.assert_close(game.compute(), theirs.accuracy.float())
    torch.testing.assert_close(each.compute(), theirs.class_accuracies.float())
    assert game.hits.tolist() == theirs.hits.tolist()
    assert game.misses.tolist() == theirs.misses.tolist()


@pytest.mark.parametrize(
    ("row", "column", "tolerance", "hit"),
    [
        (5, 7, 0, False),
        (5, 7, 1, True),
        (5, 8, 1, False),
        (5, 8, 1.1, True),
        (8, 11, 5, False),
        (8, 11, 5.01, True),
        (8, 10, 5, True),
        (5, 21, 15, True),
        (5, 22, 15, False),
    ],
)
def test_a_hit_is_strictly_nearer_than_the_tolerance(
    row: int, column: int, tolerance: float, hit: bool
) -> None:
    assert pointing_hit(peak(row, column), one_pixel(5, 7), tolerance).tolist() == [hit]


def test_the_tolerance_of_the_paper_is_the_default() -> None:
    assert pointing_hit(peak(0, 14), one_pixel(0, 0)).tolist() == [True]
    assert pointing_hit(peak(0, 15), one_pixel(0, 0)).tolist() == [False]


def test_nothing_hits_an_empty_mask() -> None:
    assert not pointing_hit(peak(3, 3), torch.zeros(1, 1, 20, 30, dtype=torch.bool), 1000)


@pytest.mark.parametrize("value", [0.0, 2.0, torch.nan, torch.inf])
def test_a_degenerate_map_misses(value: float) -> None:
    maps = torch.full((1, 1, 8, 8), value)
    assert pointing_hit(maps, torch.ones(1, 1, 8, 8, dtype=torch.bool)).tolist() == [False]


def test_one_mask_for_all_maps() -> None:
    maps = torch.cat([peak(5, 7), peak(19, 29)])
    assert pointing_hit(maps, one_pixel(5, 7), 3).tolist() == [True, False]


def test_the_largest_point_is_the_first_of_equal_ones() -> None:
    maps = torch.cat([peak(5, 7), -peak(0, 0), torch.zeros(1, 1, 20, 30)])
    maps[0, 0, 9, 2] = 1.0
    assert largest_point(maps).tolist() == [[5, 7], [0, 1], [0, 0]]


def test_no_maps() -> None:
    maps, masks = torch.rand(0, 1, 8, 8), torch.zeros(0, 1, 8, 8, dtype=torch.bool)
    assert pointing_hit(maps, masks).shape == (0,)
    game = PointingGame(3)
    game.update(maps, masks, torch.zeros(0, dtype=torch.long))
    assert float(game.compute()) == 0.0


def test_reset_pickle_and_copy() -> None:
    maps, masks = random_games(0, 20, (20, 20))
    game = PointingGame(2, tolerance=5, average="none")
    game.update(maps, masks, torch.arange(20) % 2)
    for other in (pickle.loads(pickle.dumps(game)), copy.deepcopy(game)):
        assert torch.equal(other.compute(), game.compute())
        assert other.tolerance == 5
    assert game.compute().sum() > 0
    game.reset()
    assert game.hits.tolist() == game.misses.tolist() == [0, 0]


def test_classes_of_any_integer_type_and_in_inference_mode() -> None:
    maps, masks = random_games(0, 12, (20, 20))
    classes = torch.arange(12) % 3
    game = PointingGame(3)
    game.update(maps, masks, classes)
    for dtype in (torch.uint8, torch.int32):
        other = PointingGame(3)
        with torch.inference_mode():
            other.update(maps, masks, classes.to(dtype))
        assert torch.equal(other.compute(), game.compute())


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (torch.tensor([0, 3, 1]), "classes from 0 to 2, got 3"),
        (torch.tensor([0, -1, 1]), "classes from 0 to 2, got -1"),
        (torch.tensor([0, 1]), r"one class for each of 3 maps, got shape \(2,\)"),
        (torch.tensor([0.0, 1.0, 2.0]), r"integer tensor \(3,\), got torch\.float32"),
        ([0, 1, 2], "got list"),
    ],
)
def test_classes_that_do_not_fit_are_refused_and_not_counted(classes: Any, message: str) -> None:
    game = PointingGame(3)
    maps, masks = random_games(0, 3, (20, 20))
    with pytest.raises(InputError, match=message):
        game.update(maps, masks, classes)
    assert int((game.hits + game.misses).sum()) == 0


def test_other_input_that_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="0 pixels or more, got -1"):
        pointing_hit(peak(0, 0), one_pixel(0, 0), -1)
    with pytest.raises(InputError, match="0 pixels or more, got nan"):
        PointingGame(3, tolerance=float("nan"))
    with pytest.raises(InputError, match="at least 1, got 0"):
        PointingGame(0)
    with pytest.raises(InputError, match="'macro' or 'none', got 'micro'"):
        PointingGame(3, average="micro")
    with pytest.raises(InputError, match="bool tensor"):
        pointing_hit(peak(0, 0), peak(0, 0))
    with pytest.raises(InputError, match=r"got \(1, 1, 8, 8\)"):
        pointing_hit(peak(0, 0), one_pixel(0, 0, (8, 8)))


def test_a_thousand_random_points_hit_as_with_torchray() -> None:
    # Also between the pixels and outside the picture: the center of an even side is a half.
    generator = random.Random(7)
    count, size, tolerance = 1200, (40, 60), 9
    _, masks = random_games(7, count, size)
    points = torch.tensor(
        [
            [generator.randrange(-6, 2 * size[0] + 6) / 2, generator.randrange(130) / 2]
            for _ in range(count)
        ]
    )
    classes = torch.arange(count) % 7
    theirs = torchray_game(7, tolerance)
    hits = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for (row, column), mask, label in zip(
            points.tolist(), masks[:, 0], classes.tolist(), strict=True
        ):
            result = theirs.evaluate(mask, (column, row))
            theirs.aggregate(result, label)
            hits.append(result == 1)
    assert 100 < sum(hits) < count - 100
    assert point_hit(points, masks, tolerance).tolist() == hits
    game = PointingGame(7, tolerance, average="none")
    game.update(points, masks, classes)
    torch.testing.assert_close(game.compute(), theirs.class_accuracies.float())


def test_hits_that_are_known_already() -> None:
    game = PointingTally(3, average="none")
    game.update(torch.tensor([True, False, True, True]), torch.tensor([0, 0, 0, 2]))
    torch.testing.assert_close(game.compute(), torch.tensor([2 / 3, 0.0, 1.0]))
    with pytest.raises(InputError, match="bool tensor"):
        game.update(torch.tensor([1, 0]), torch.tensor([0, 0]))
    with pytest.raises(InputError, match="classes from 0 to 2, got 3"):
        game.update(torch.tensor([True]), torch.tensor([3]))


def test_points_that_do_not_fit_are_refused() -> None:
    mask = one_pixel(0, 0)
    with pytest.raises(InputError, match=r"points as a tensor \(N, 2\)"):
        point_hit(torch.zeros(3), mask)
    with pytest.raises(InputError, match=r"masks of shape \(2, 1, H, W\)"):
        point_hit(torch.zeros(2, 2), mask)
    with pytest.raises(InputError, match="bool tensor"):
        point_hit(torch.zeros(1, 2), mask.float())
    assert point_hit(torch.tensor([[torch.nan, 0.0]]), mask).tolist() == [False]
