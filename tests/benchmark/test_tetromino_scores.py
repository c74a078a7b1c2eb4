"""The measures of XAI-TRIS by hand, and the table of methods."""

import csv
import math
from itertools import product

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from torch import Tensor, nn

from lightning_saliency.attribution import METHODS
from lightning_saliency.benchmark import tetromino_scores
from lightning_saliency.benchmark.tetromino_scores import (
    BASELINES,
    earth_mover_similarity,
    run_tetrominoes,
    tetromino_explainers,
    top_pixel_precision,
)
from lightning_saliency.benchmark.tetrominoes import (
    TetrominoNetwork,
    TetrominoNoise,
    TetrominoTask,
    TrainedTetrominoes,
    make_tetrominoes,
)
from lightning_saliency.errors import InputError


def as_map(rows: list[list[float]]) -> Tensor:
    return torch.tensor([[rows]])


REGION = as_map([[1, 1, 0], [0, 0, 0], [0, 0, 0]]).bool()


# --- precision --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("saliency", "wanted"),
    [
        ([[9, 8, 0], [0, 0, 0], [0, 0, 7]], 1.0),
        ([[9, 0, 0], [0, 0, 8], [0, 0, 7]], 0.5),
        ([[1, 2, 3], [4, 5, 6], [7, 8, 9]], 0.0),
        # The size counts, not the sign.
        ([[-9, -8, 0], [0, 0, 0], [0, 0, 7]], 1.0),
        # What is 0 was not chosen.
        ([[9, 0, 0], [0, 0, 0], [0, 0, 0]], 0.5),
        ([[0, 0, 0], [0, 0, 0], [0, 0, 0]], 0.0),
    ],
)
def test_precision(saliency: list[list[float]], wanted: float) -> None:
    assert float(top_pixel_precision(as_map(saliency), REGION)) == wanted


def test_precision_of_several_maps_with_regions_of_several_sizes() -> None:
    maps = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    regions = make_tetrominoes("linear", length=20).regions
    regions[10:] = make_tetrominoes("translated", length=10).regions
    wanted = [
        len(
            set(one.flatten().topk(int(region.sum())).indices.tolist())
            & set(region.flatten().nonzero()[:, 0].tolist())
        )
        / int(region.sum())
        for one, region in zip(maps, regions, strict=True)
    ]
    assert top_pixel_precision(maps, regions).tolist() == pytest.approx(wanted)


# --- the earth mover's distance ---------------------------------------------------------------

FARTHEST = math.hypot(2, 2)


@pytest.mark.parametrize(
    ("saliency", "distance"),
    [
        ([[2, 2, 0], [0, 0, 0], [0, 0, 0]], 0),
        ([[-2, 2, 0], [0, 0, 0], [0, 0, 0]], 0),
        # One half goes one pixel to the right.
        ([[1, 0, 0], [0, 0, 0], [0, 0, 0]], 0.5),
        ([[0, 1, 1], [0, 0, 0], [0, 0, 0]], 1),
        ([[0, 0, 0], [1, 1, 0], [0, 0, 0]], 1),
        ([[0, 0, 0], [0, 0, 0], [0, 0, 1]], (FARTHEST + math.hypot(2, 1)) / 2),
    ],
)
def test_earth_movers_distance(saliency: list[list[float]], distance: float) -> None:
    found = float(earth_mover_similarity(as_map(saliency), REGION))
    assert found == pytest.approx(1 - distance / FARTHEST, abs=1e-9)


def test_earth_movers_distance_is_that_of_the_best_assignment() -> None:
    # With as many equal grains as there are pixels in the region, moving earth is assigning.
    generator = torch.Generator().manual_seed(1)
    for region in make_tetrominoes("translated", length=8).regions:
        chosen = torch.randperm(64, generator=generator)[:4]
        one = torch.zeros(64).index_fill(0, chosen, 0.3).view(1, 1, 8, 8)
        distances = cdist(one[0, 0].nonzero().double(), region[0].nonzero().double())
        wanted = 1 - distances[linear_sum_assignment(distances)].mean() / math.hypot(7, 7)
        assert float(earth_mover_similarity(one, region[None])) == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
def test_there_is_no_distance_from_nothing(value: float) -> None:
    maps = torch.full((2, 1, 3, 3), value)
    maps[1] = REGION.float()
    found = earth_mover_similarity(maps, REGION.repeat(2, 1, 1, 1))
    assert math.isnan(float(found[0]))
    assert float(found[1]) == 1


# --- the benchmark ----------------------------------------------------------------------------


def test_every_method_explains_pictures_of_eight_pixels() -> None:
    torch.manual_seed(0)
    network, data = TetrominoNetwork().eval(), make_tetrominoes("linear", length=4)
    explainers = tetromino_explainers()
    assert list(explainers) == [*BASELINES, *(method.name for method in METHODS)]
    for name, explain in explainers.items():
        maps = explain(network, data.images, data.labels)
        assert maps.shape == (4, 1, 8, 8), name
        assert maps.isfinite().all(), name
    assert list(tetromino_explainers(["rise", "input"])) == ["rise", "input"]
    with pytest.raises(InputError, match=r"out of random, input, gradient.* got 'lime'"):
        tetromino_explainers(["lime"])


class Reader(nn.Module):
    """Class 0 for what the T adds, class 1 for what the L does."""

    def forward(self, image: Tensor) -> Tensor:
        data = make_tetrominoes("linear", length=4)
        inside = data.regions[0, 0]
        top = torch.zeros(8, 8).index_fill(0, torch.arange(4), 1.0)
        t, el = ((image[:, 0] * inside * part).sum((1, 2)) for part in (top, 1 - top))
        return torch.stack([t - el, el - t], 1)


def trained(
    task: TetrominoTask, noise: TetrominoNoise = "white", seed: int = 0
) -> TrainedTetrominoes:
    return TrainedTetrominoes(Reader(), make_tetrominoes(task, noise, 30, seed), 0.75 + seed / 100)


def test_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tetromino_scores, "train_on_tetrominoes", trained)
    tasks: list[tuple[TetrominoTask, TetrominoNoise]] = [("linear", "white"), ("xor", "correlated")]
    explainers = tetromino_explainers(["gradient", "random"])
    seen: list[int] = []

    def counted(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
        seen.append(len(images))
        return torch.full_like(images, float(len(seen) % 2))

    said: list[str] = []
    report = run_tetrominoes({**explainers, "mine": counted}, tasks, 2, 5, said.append)
    assert seen == [5] * 4
    assert report.methods == ["gradient", "random", "mine"]
    # The network depends on the pixels of both tetrominoes alone, and equally on all of them.
    for task in tasks:
        assert report.precision["gradient", task] == [1, 1]
        assert report.earth_mover["gradient", task] == pytest.approx([1, 1])
        assert max(report.precision["random", task]) < 0.5
    # Maps of ones choose the first eight pixels, maps of zeros none.
    assert report.precision["mine", tasks[0]][1] == 0
    assert math.isnan(report.earth_mover["mine", tasks[0]][1])
    assert said[1] == "linear, white, seed 1: the network is right for 76.0%"
    head, _, gradient, *_, right = report.markdown().splitlines()
    assert "linear, white: precision | EMD | xor, correlated: precision | EMD" in head
    assert gradient.startswith("| gradient | 1.00 (0.00) | 1.00 (0.00) |")
    assert right.startswith("| *the network is right* | 0.76 (0.01) | |")
    assert {line.count("|") for line in report.markdown().splitlines()} == {6}
    rows = list(csv.DictReader(report.csv().splitlines()))
    wanted = list(product(report.methods, ("linear", "xor"), ("0", "1")))
    assert [(row["method"], row["task"], row["seed"]) for row in rows] == wanted
    assert rows[0]["precision"] == "1.0000"
    assert rows[1]["accuracy"] == "0.7600"


def test_a_single_seed_has_no_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tetromino_scores, "train_on_tetrominoes", trained)
    report = run_tetrominoes(tetromino_explainers(["gradient"]), [("linear", "white")], 1, 3)
    assert "| gradient | 1.00 | 1.00 |" in report.markdown()
