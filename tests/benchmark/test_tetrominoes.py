"""Tetrominoes in noise: what is in the pictures, by hand, and that the network can tell."""

from itertools import product

import pytest
import torch
from scipy.ndimage import gaussian_filter
from traces import bits

from lightning_saliency.benchmark import tetrominoes
from lightning_saliency.benchmark.tetrominoes import (
    Tetrominoes,
    TetrominoNetwork,
    TetrominoNoise,
    TetrominoTask,
    make_tetrominoes,
    train_on_tetrominoes,
)
from lightning_saliency.errors import InputError

T = {(1, 1), (2, 1), (2, 2), (3, 1)}
L = {(4, 5), (5, 5), (6, 5), (6, 6)}
TASKS: tuple[TetrominoTask, ...] = ("linear", "multiplicative", "translated", "xor")
NOISES: tuple[TetrominoNoise, ...] = ("white", "correlated")


def pixels(region: torch.Tensor) -> set[tuple[int, int]]:
    return {(int(row), int(column)) for row, column in region[0].nonzero()}


def mean_difference(data: Tetrominoes) -> torch.Tensor:
    """Return the mean picture of class 0 less that of class 1, by its standard error."""
    zero, one = (data.images[data.labels == label, 0] for label in (0, 1))
    error = (zero.var(0) / len(zero) + one.var(0) / len(one)).sqrt()
    return (zero.mean(0) - one.mean(0)) / error


@pytest.mark.parametrize(("task", "noise"), list(product(TASKS, NOISES)))
def test_pictures(task: TetrominoTask, noise: TetrominoNoise) -> None:
    data = make_tetrominoes(task, noise, 400, seed=3)
    assert data.images.shape == data.regions.shape == (400, 1, 8, 8)
    assert data.images.dtype == torch.float32
    assert float(data.images.abs().max()) == 1
    assert data.labels.bincount().tolist() == [200, 200]
    assert not data.labels[:200].all()
    again, other = make_tetrominoes(task, noise, 400, 3), make_tetrominoes(task, noise, 400, 4)
    assert bits(data.images) == bits(again.images) != bits(other.images)
    if task == "translated":
        assert (data.regions.sum((1, 2, 3)) == 4).all()
    else:
        assert all(pixels(region) == T | L for region in data.regions)


def test_one_of_two_tetrominoes_is_added() -> None:
    difference = mean_difference(make_tetrominoes("linear", length=4000))
    for row, column in product(range(8), range(8)):
        value = float(difference[row, column])
        assert value > 9 if (row, column) in T else value < -9 if (row, column) in L else True
        assert abs(value) < 5 or (row, column) in T | L


def test_noise_is_smaller_where_a_tetromino_scales_it() -> None:
    data = make_tetrominoes("multiplicative", length=4000)
    assert mean_difference(data).abs().max() < 5
    deviation = torch.stack([data.images[data.labels == label, 0].std(0) for label in (0, 1)])
    ratio = deviation[0] / deviation[1]
    for row, column in product(range(8), range(8)):
        wanted = 0.3 if (row, column) in T else 1 / 0.3 if (row, column) in L else 1
        assert float(ratio[row, column]) == pytest.approx(wanted, rel=0.1)


def test_signs_agree_in_one_class_alone() -> None:
    data = make_tetrominoes("xor", length=4000)
    # No pixel alone says anything about the class, and both signs are as frequent.
    assert mean_difference(data).abs().max() < 5
    t, el = (
        torch.stack([data.images[:, 0, row, column] for row, column in some]).mean(0)
        for some in (T, L)
    )
    agree = (t * el > 0).float()
    assert agree[data.labels == 0].mean() > 0.9
    assert agree[data.labels == 1].mean() < 0.1
    assert 0.4 < (t > 0).float().mean() < 0.6


def test_tetrominoes_move_and_turn() -> None:
    data = make_tetrominoes("translated", length=3000)
    shapes: dict[int, set[frozenset[tuple[int, int]]]] = {0: set(), 1: set()}
    for region, label in zip(data.regions, data.labels.tolist(), strict=True):
        found = pixels(region)
        top, left = (min(place[side] for place in found) for side in (0, 1))
        shapes[label].add(frozenset((row - top, column - left) for row, column in found))
    # Four rotations of each; mirrored they would be more.
    assert len(shapes[0]) == len(shapes[1]) == 4
    assert not shapes[0] & shapes[1]
    assert data.regions.any(0).all()
    where = data.regions
    assert data.images[where].mean() > data.images[~where].mean() + 0.2


def test_correlated_noise_is_smoothed_as_scipy_does() -> None:
    plain = torch.randn(5, 8, 8, dtype=torch.float64)
    smoothing = tetrominoes._smoothing().double()
    wanted = torch.stack([torch.from_numpy(gaussian_filter(some.numpy(), 3)) for some in plain])
    torch.testing.assert_close(smoothing @ plain @ smoothing.T, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"task": "cubic"}, "a task out of .*'cubic'"),
        ({"task": "xor", "noise": "pink"}, "'white' or 'correlated', got 'pink'"),
        ({"task": "xor", "length": 3}, "at least 4 pictures, got 3"),
    ],
)
def test_settings_that_cannot_be_used(settings: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        make_tetrominoes(**settings)


# --- the network ------------------------------------------------------------------------------


def test_network_is_the_papers() -> None:
    network = TetrominoNetwork()
    kinds = [type(layer).__name__ for layer in network.features]
    assert kinds == ["Conv2d", "ReLU", "MaxPool2d"] * 4
    assert network.features(torch.zeros(1, 1, 8, 8)).shape == (1, 4, 1, 1)


def test_training_touches_no_random_stream_and_gives_the_same_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tetrominoes, "_PICTURES", 1500)
    monkeypatch.setattr(tetrominoes, "_HELD_OUT", 500)
    monkeypatch.setattr(tetrominoes, "_EPOCHS", 2)
    monkeypatch.setattr(tetrominoes, "_STARTS", 2)
    before = torch.get_rng_state()
    with torch.no_grad():
        first, second = (train_on_tetrominoes("linear", seed=1) for _ in range(2))
    assert bits(torch.get_rng_state()) == bits(before)
    for one, other in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert bits(one.detach()) == bits(other.detach())
    assert not first.model.training
    # All that are explained are classified correctly, and they are the held-out ones.
    right = first.model(first.pictures.images).argmax(1) == first.pictures.labels
    assert right.all()
    assert len(first.pictures) == round(500 * first.accuracy)
    held_out = make_tetrominoes("linear", length=1500, seed=1).images[-500:]
    assert (held_out[:, None] == first.pictures.images[None]).all((2, 3, 4)).any(0).all()


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_network_learns_the_task(task: TetrominoTask) -> None:
    assert train_on_tetrominoes(task, "white").accuracy > 0.8
