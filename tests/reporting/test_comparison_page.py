"""Two runs on one page: the numbers of the comparison, and nothing from elsewhere."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "history"))
sys.path.insert(0, str(Path(__file__).parent))

from test_compare import drawn, write
from test_report import Page

from lightning_saliency import compare
from lightning_saliency.errors import InputError
from lightning_saliency.reporting import write_comparison


def near(seed: int) -> dict[int, Tensor]:
    """Maps of a recipe, which differ a little from seed to seed."""
    noise = torch.Generator().manual_seed(seed)
    return {
        epoch: drawn(epoch) + 0.1 * torch.rand(4, 1, 24, 24, generator=noise) for epoch in (0, 5)
    }


@pytest.fixture
def runs(tmp_path: Path) -> dict[str, Path]:
    made = {f"seed{seed}": write(tmp_path / f"seed{seed}", near(seed)) for seed in range(4)}
    made["<b>$x$ & other"] = write(tmp_path / "<b>$x$ & other", {0: drawn(70), 5: drawn(71)})
    return made


def test_a_run_outside_of_the_seeds(runs: dict[str, Path], tmp_path: Path) -> None:
    seeds = [runs[f"seed{seed}"] for seed in range(4)]
    found = compare(seeds[0], runs["<b>$x$ & other"], seeds=seeds)
    page = write_comparison(found, tmp_path / "deep" / "page.html")
    shown = Page(page)
    # As title, as heading and in the figure.
    assert shown.count("grad_cam: <b>$x$ & other compared with seed0") == 3
    # The page and the table on a terminal judge in the same words.
    assert found.judgment.startswith("There the runs differ by more than these, by top10_iou")
    assert found.judgment.endswith("at 2 of 2 epochs they do.")
    assert str(found).endswith(found.judgment)
    assert shown.says(found.judgment)
    assert shown.tags.count("svg") == 1
    numbers = json.loads(page.with_suffix(".json").read_text())
    assert numbers["outside"] == [True, True]
    assert numbers["epochs"] == [0, 5]
    for name, values in found.table.items():
        assert numbers["table"][name] == pytest.approx(values.tolist(), rel=1e-5)
    overlap = [sample["top10_iou"] for sample in numbers["samples"]]
    assert overlap == sorted(overlap)
    assert shown.says(f"{found.table['top10_iou'][-1]:.3f}")


def test_a_run_inside_of_the_seeds(runs: dict[str, Path], tmp_path: Path) -> None:
    seeds = [runs[f"seed{seed}"] for seed in range(4)]
    page = write_comparison(compare(*seeds[:2], seeds=seeds), tmp_path / "page.html")
    assert Page(page).says("There the runs differ no more than these")


def test_without_seeds_it_says_what_it_cannot_tell(runs: dict[str, Path], tmp_path: Path) -> None:
    page = write_comparison(compare(runs["seed0"], runs["seed1"]), tmp_path / "page.html")
    shown = Page(page)
    assert shown.says("this page was made without seeds")
    assert json.loads(page.with_suffix(".json").read_text())["seeds"] is None


def test_it_needs_nothing_and_runs_nothing(runs: dict[str, Path], tmp_path: Path) -> None:
    page = write_comparison(compare(runs["seed0"], runs["<b>$x$ & other"]), tmp_path / "page.html")
    shown = Page(page)
    assert not {"script", "link", "iframe", "b<"} & set(shown.tags)
    for name, value in shown.attributes:
        assert not name.startswith("on")
        if name in ("src", "href", "xlink:href"):
            assert value.startswith(("data:image/png;base64,", "#")), value[:80]
    assert not re.search(r"https?:|@import|url\((?!#)", page.read_text())


def test_nothing_is_overwritten(runs: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "page.json").write_text("mine")
    with pytest.raises(InputError, match=r"page\.json exists"):
        write_comparison(compare(runs["seed0"], runs["seed1"]), tmp_path / "page.html")
