"""``lightning-saliency benchmark --data tetrominoes``: do maps find the pixels that matter?"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from lightning_saliency.benchmark.pointing_recipes import CENTER
from lightning_saliency.benchmark.tetromino_scores import (
    BASELINES,
    run_tetrominoes,
    tetromino_explainers,
)
from lightning_saliency.errors import InputError

_PICTURES = 100
_SEEDS = 3
# What the pointing game needs to know and this benchmark brings along.
_NOT_FOR_IT = (
    *("root", "model", "weights", "split", "tolerance", "preset", "log_dir"),
    *("layer", "excitation_layer", "contrast_layer", "mean", "std", "side"),
)


def run_tetromino_benchmark(options: Namespace) -> int:
    """Train the networks, score the methods, write the table as Markdown and CSV, and print it.

    Args:
        options: parsed.

    Returns:
        The exit code, 0.

    Raises:
        InputError: an argument does not apply, or there is no such method.
    """
    given = [name for name in _NOT_FOR_IT if getattr(options, name) is not None]
    if given:
        listed = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise InputError(
            f"Expected no {listed} with --data tetrominoes, which makes its own pictures and "
            "networks."
        )
    names = None if "all" in options.method else list(dict.fromkeys(options.method))
    if names is not None and CENTER in names:
        raise InputError(
            "Expected a method that makes maps, got center. Baselines come by themselves."
        )
    report = run_tetrominoes(
        tetromino_explainers(None if names is None else [*BASELINES, *names]),
        seeds=options.seeds or _SEEDS,
        pictures=options.limit or _PICTURES,
        progress=print,
    )
    folder = options.output or Path("pointing_game", "tetrominoes")
    folder.mkdir(parents=True, exist_ok=True)
    table = report.markdown()
    (folder / "table.md").write_text(table, encoding="utf-8")
    (folder / "table.csv").write_text(report.csv(), encoding="utf-8")
    print(f"\n{table}\nWritten to {folder}: table.md, table.csv.")
    return 0
