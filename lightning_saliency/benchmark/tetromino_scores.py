"""How well maps find the pixels that matter in pictures of tetrominoes: the paper's two measures.

Clark, Wilming, Haufe. XAI-TRIS: non-linear image benchmarks to quantify false positive post-hoc
attribution of feature importance. Machine Learning 113, 2024, arXiv:2306.12816.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import mean, stdev
from typing import Any, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lightning_saliency.attribution import METHODS
from lightning_saliency.attribution.pointing import PointingSetup
from lightning_saliency.benchmark.tetrominoes import (
    Tetrominoes,
    TetrominoNoise,
    TetrominoTask,
    TrainedTetrominoes,
    train_on_tetrominoes,
)
from lightning_saliency.errors import DependencyError, InputError

TetrominoExplainer = Callable[[torch.nn.Module, Tensor, Tensor], Tensor]
"""Takes a model, images (N, 1, 8, 8) and classes (N,), and returns maps (N, 1, 8, 8)."""

_Numbers: TypeAlias = npt.NDArray[np.float64]

BASELINES = ("random", "input")
"""What knows nothing of the network: noise, and the picture itself."""


def top_pixel_precision(maps: Tensor, regions: Tensor) -> Tensor:
    """Return which share of the K pixels of the largest size lies in a region of K pixels.

    Args:
        maps: (N, 1, H, W); their sign does not matter, and pixels that are 0 are never among them.
        regions: (N, 1, H, W), bool, none of them empty.

    Returns:
        (N,), in [0, 1].
    """
    sizes, inside = maps.abs().flatten(1), regions.flatten(1)
    ranks = sizes.argsort(dim=1, descending=True, stable=True).argsort(1)
    count = inside.sum(1)
    chosen = (ranks < count[:, None]) & (sizes > 0)
    return (chosen & inside).sum(1) / count


def earth_mover_similarity(maps: Tensor, regions: Tensor) -> Tensor:
    """Return 1 minus the earth mover's distance to the region, relative to the largest distance.

    The sizes of a map's values, made to sum to 1, are moved onto the pixels of the region, each of
    which takes the same; the distance is how far they move on average, in pixels.

    Args:
        maps: (N, 1, H, W); their sign does not matter.
        regions: (N, 1, H, W), bool, none of them empty.

    Returns:
        (N,), float64, in [0, 1]; NaN for maps that are 0 everywhere, or not finite.

    Raises:
        DependencyError: SciPy is not installed.
    """
    found = [
        _similarity(one.abs().double(), region)
        for one, region in zip(maps[:, 0].cpu(), regions[:, 0].cpu(), strict=True)
    ]
    return torch.tensor(found, dtype=torch.float64)


def _similarity(sizes: Tensor, region: Tensor) -> float:
    total = float(sizes.sum())
    if not 0 < total < math.inf:
        return math.nan
    # What lies in the region stays there, as far as it has room: no way is longer than a detour.
    supply = (sizes / total).numpy().ravel()
    demand = (region.double() / region.sum()).numpy().ravel()
    stays = np.minimum(supply, demand)
    supply, demand = supply - stays, demand - stays
    places = np.argwhere(np.ones(region.shape)).astype(float)
    sources, sinks = np.flatnonzero(supply > 0), np.flatnonzero(demand > 0)
    farthest = math.hypot(region.shape[0] - 1, region.shape[1] - 1)
    if not len(sources) or not len(sinks):
        return 1.0
    distances = np.linalg.norm(places[sources][:, None] - places[sinks], axis=-1)
    return 1 - _transport(supply[sources], demand[sinks], distances) / farthest


def _transport(supply: _Numbers, demand: _Numbers, distances: _Numbers) -> float:
    """Return the least cost of moving a supply (S,) onto a demand (D,) over distances (S, D)."""
    try:
        from scipy.optimize import linprog
        from scipy.sparse import identity, kron, vstack
    except ImportError as error:
        raise DependencyError(
            "Expected SciPy for the earth mover's distance, but it is not installed: "
            "pip install lightning-saliency[demo]"
        ) from error
    rows = kron(identity(len(supply)), np.ones((1, len(demand))))
    columns = kron(np.ones((1, len(supply))), identity(len(demand)))
    # The last equation follows from the others, but for rounding.
    constraints = vstack([rows, columns]).tocsr()[:-1]
    amounts = np.concatenate([supply, demand * (supply.sum() / demand.sum())])[:-1]
    solved = linprog(distances.ravel(), A_eq=constraints, b_eq=amounts, method="highs")
    return float(solved.fun)


@dataclass
class TetrominoReport:
    """Both measures, by method, task and seed.

    Attributes:
        tasks: in the order of the columns.
        seeds: how many.
        accuracy: of the networks, by task, one for each seed.
        precision: by (method, task), the means over the pictures, one for each seed.
        earth_mover: likewise.
    """

    tasks: Sequence[tuple[TetrominoTask, TetrominoNoise]]
    seeds: int
    accuracy: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    precision: dict[tuple[str, tuple[str, str]], list[float]] = field(default_factory=dict)
    earth_mover: dict[tuple[str, tuple[str, str]], list[float]] = field(default_factory=dict)

    def add(
        self,
        method: str,
        task: tuple[TetrominoTask, TetrominoNoise],
        maps: Tensor,
        data: Tetrominoes,
    ) -> None:
        """Score the maps of a method for the pictures of one task and seed.

        Args:
            method: its name.
            task: and noise.
            maps: (N, 1, 8, 8).
            data: the pictures.
        """
        key = method, task
        scores = (
            (self.precision, top_pixel_precision(maps, data.regions)),
            (self.earth_mover, earth_mover_similarity(maps, data.regions)),
        )
        for table, values in scores:
            table.setdefault(key, []).append(float(values.double().nanmean()))

    @property
    def methods(self) -> list[str]:
        """The methods, in the order in which they were added."""
        return list(dict.fromkeys(method for method, _ in self.precision))

    def markdown(self) -> str:
        """Return a table: for each task precision and earth mover's similarity, means over seeds.

        Returns:
            With the standard deviation over the seeds behind each mean, if there are several. Seeds
            without a value, because all maps are empty, are left out.
        """
        names = [f"{task}, {noise}" for task, noise in self.tasks]
        head = "| method | " + " | ".join(f"{name}: precision | EMD" for name in names) + " |"
        rule = "| --- |" + " ---: | ---: |" * len(names)
        rows = []
        for method in self.methods:
            cells = [
                _shown(table[method, task])
                for task in self.tasks
                for table in (self.precision, self.earth_mover)
            ]
            rows.append(f"| {method} | " + " | ".join(cells) + " |")
        right = [_shown(self.accuracy[task]) for task in self.tasks]
        rows.append("| *the network is right* | " + " | | ".join(right) + " | |")
        return "\n".join([head, rule, *rows]) + "\n"

    def csv(self) -> str:
        """Return a row for each method, task and seed."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["method", "task", "noise", "seed", "precision", "earth_mover", "accuracy"])
        for method in self.methods:
            for task in self.tasks:
                values = zip(
                    self.precision[method, task],
                    self.earth_mover[method, task],
                    self.accuracy[task],
                    strict=True,
                )
                for seed, scores in enumerate(values):
                    writer.writerow([method, *task, seed, *(f"{score:.4f}" for score in scores)])
        return file.getvalue()


def _shown(values: Sequence[float]) -> str:
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return "-"
    spread = f" ({stdev(known):.2f})" if len(known) > 1 else ""
    return f"{mean(known):.2f}{spread}"


def tetromino_explainers(names: Sequence[str] | None = None) -> dict[str, TetrominoExplainer]:
    """Return the methods and baselines, ready for pictures of 8 x 8 pixels.

    Methods that look at a layer look at the first ReLU, the only one about as fine as the pixels.
    RISE explains the logit, as the gradients do. Extremal perturbation fades to 0, the mean of the
    noise, with masks of single pixels.

    Args:
        names: of methods, or out of :data:`BASELINES`; None for all of both.

    Raises:
        InputError: there is no such method.
    """
    by_name = {method.name: method for method in METHODS}
    layer = "features.1"
    setup = PointingSetup(layer, layer, None, (0.0625, 0.125), 1024)
    changes: Mapping[str, dict[str, Any]] = {
        "rise": {"score": "logit"},
        "extremal_perturbation": {"perturbation": "fade", "jitter": False, "sigma": 1.0},
    }
    found: dict[str, TetrominoExplainer] = {}
    for name in (*BASELINES, *by_name) if names is None else names:
        if name == "random":
            found[name] = _noise
        elif name == "input":
            found[name] = _picture
        elif name in by_name:
            method = by_name[name].for_pointing_game(setup)
            found[name] = replace(method, resize=True, **changes.get(name, {}))
        else:
            known = ", ".join((*BASELINES, *by_name))
            raise InputError(f"Expected a method out of {known}, got '{name}'.")
    return found


def _noise(model: torch.nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    return torch.rand(images.shape, generator=torch.Generator().manual_seed(0))


def _picture(model: torch.nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    return images


def run_tetrominoes(
    explainers: Mapping[str, TetrominoExplainer],
    tasks: Sequence[tuple[TetrominoTask, TetrominoNoise]] | None = None,
    seeds: int = 3,
    pictures: int = 100,
    progress: Callable[[str], None] | None = None,
) -> TetrominoReport:
    """Train networks on tetrominoes, explain held-out pictures, and score the maps.

    Only pictures that the network classifies correctly are explained, for their own class.

    Args:
        explainers: by name, see :func:`tetromino_explainers`.
        tasks: and noise; by default all of both.
        seeds: how many data sets and networks for each.
        pictures: how many of each are explained, at most.
        progress: called with a line for each network.

    Raises:
        DependencyError: SciPy is not installed.
    """
    if tasks is None:
        tasks = [
            (task, noise) for noise in get_args(TetrominoNoise) for task in get_args(TetrominoTask)
        ]
    report = TetrominoReport(tasks, seeds)
    for task in tasks:
        for seed in range(seeds):
            trained = train_on_tetrominoes(*task, seed=seed)
            report.accuracy.setdefault(task, []).append(trained.accuracy)
            _explain(report, explainers, task, trained, pictures)
            if progress is not None:
                progress(
                    f"{task[0]}, {task[1]}, seed {seed}: the network is right for "
                    f"{trained.accuracy:.1%}"
                )
    return report


def _explain(
    report: TetrominoReport,
    explainers: Mapping[str, TetrominoExplainer],
    task: tuple[TetrominoTask, TetrominoNoise],
    trained: TrainedTetrominoes,
    pictures: int,
) -> None:
    data = trained.pictures.select(torch.arange(min(pictures, len(trained.pictures))))
    for name, explain in explainers.items():
        report.add(name, task, explain(trained.model, data.images, data.labels).detach(), data)
