"""Two runs side by side, from maps made by hand and from real runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from lightning_saliency import compare
from lightning_saliency.errors import InputError
from lightning_saliency.history.map_files import MapFile, write_maps
from lightning_saliency.metrics import MEASURES, canonical, sample_drift


def write(
    root: Path,
    maps: dict[int, Tensor],
    marks: str = "abcd",
    predicted: list[int] | None = None,
    series: str = "grad_cam",
) -> Path:
    for epoch, each in maps.items():
        count = len(each)
        chosen = torch.tensor(predicted or [0] * count)
        entry = MapFile(
            each, chosen, chosen, torch.ones(count), tuple(range(10, 10 + count)),
            tuple(marks[:count]), {}, epoch, 4 * epoch,
        )  # fmt: skip
        write_maps(root / "saliency_maps" / series, entry)
    return root


def drawn(seed: int, size: int = 24) -> Tensor:
    return torch.rand(4, 1, size, size, generator=torch.Generator().manual_seed(seed))


def test_equal_runs_do_not_differ(tmp_path: Path) -> None:
    maps = {epoch: drawn(epoch) for epoch in range(3)}
    found = compare(write(tmp_path / "a", maps), write(tmp_path / "b", maps))
    assert found.epochs.tolist() == [0, 1, 2]
    for name in ("top10_iou", "spearman", "ssim"):
        assert found.table[name].tolist() == [1.0] * 3
    for name in ("center_shift", "log2_norm_ratio", "disagree", "degenerate_frac"):
        assert found.table[name].tolist() == [0.0] * 3
    assert -0.2 < found.chance["spearman"] < 0.2


def test_epochs_and_samples_that_both_have_are_compared(tmp_path: Path) -> None:
    one = write(
        tmp_path / "a", {epoch: drawn(epoch) for epoch in (0, 2, 4)}, predicted=[0, 1, 2, 3]
    )
    order = [2, 3, 1]
    other = write(
        tmp_path / "b",
        {epoch: drawn(epoch + 50)[order] for epoch in (1, 2, 3, 4)},
        marks="cdb",
        predicted=[2, 0, 0],
    )
    found = compare(one, other)
    assert found.names == ("a", "b")
    assert found.epochs.tolist() == [2, 4]
    # In the order of the first run: b, c, d.
    assert found.sample_ids == (11, 12, 13)
    for row, epoch in enumerate((2, 4)):
        expected = sample_drift(drawn(epoch + 50)[[1, 2, 3]], drawn(epoch)[[1, 2, 3]], 24)
        for name in MEASURES:
            assert torch.allclose(found.per_sample[name][row], expected[name])
            assert float(found.table[name][row]) == pytest.approx(float(expected[name].mean()))
    # b: 1 and 0, c: 2 and 2, d: 3 and 0.
    assert found.table["disagree"].tolist() == pytest.approx([2 / 3] * 2)


def test_maps_of_another_size_are_compared_at_the_smaller(tmp_path: Path) -> None:
    fine = drawn(0, 48)
    coarse = torch.nn.functional.avg_pool2d(fine, 2)
    found = compare(write(tmp_path / "a", {0: fine}), write(tmp_path / "b", {0: coarse}))
    assert found.maps[0].shape == (1, 4, 1, 24, 24)
    assert float(found.table["spearman"][0]) == pytest.approx(1)
    assert torch.allclose(found.maps[0][0], canonical(fine, 24))


def test_maps_that_show_nothing_are_left_out(tmp_path: Path) -> None:
    flat = drawn(0)
    flat[1] = 0
    found = compare(write(tmp_path / "a", {0: flat}), write(tmp_path / "b", {0: drawn(0)}))
    assert float(found.table["degenerate_frac"]) == 0.25
    assert float(found.table["top10_iou"]) == 1
    assert found.per_sample["top10_iou"][0].isnan().tolist() == [False, True, False, False]


def test_samples_can_be_taken_in_order(tmp_path: Path) -> None:
    one = write(tmp_path / "a", {0: drawn(0)})
    other = write(tmp_path / "b", {0: drawn(0)}, marks="wxyz")
    with pytest.raises(InputError, match=r"no picture is the same.*match='order'"):
        compare(one, other)
    assert float(compare(one, other, match=r"order").table["top10_iou"]) == 1
    third = write(tmp_path / "c", {0: drawn(0)[:2]})
    with pytest.raises(InputError, match=r"got 4 and 2"):
        compare(one, third, match=r"order")


def test_what_is_not_in_both_is_named(tmp_path: Path) -> None:
    one = write(tmp_path / "a", {0: drawn(0), 1: drawn(1)})
    with pytest.raises(InputError, match=r"epochs 0 to 1 in .*a and epochs 5 to 5"):
        compare(one, write(tmp_path / "b", {5: drawn(0)}))
    with pytest.raises(InputError, match=r"got \['grad_cam'\] in .*\['gradient'\]"):
        compare(one, write(tmp_path / "c", {0: drawn(0)}, series="gradient"))
    write(one, {0: drawn(0)}, series="gradient")
    write(tmp_path / "b", {0: drawn(0)}, series="gradient")
    with pytest.raises(InputError, match=r"one of \['grad_cam', 'gradient'\]"):
        compare(one, tmp_path / "b")
    with pytest.raises(InputError, match=r"'content' or 'order', got 'name'"):
        compare(one, one, "gradient", match=r"name")  # type: ignore[arg-type]


def test_the_table_reads_at_a_glance(tmp_path: Path) -> None:
    one = write(tmp_path / "first", {0: drawn(0), 3: drawn(3)})
    other = write(tmp_path / "second", {0: drawn(0), 3: drawn(9)})
    lines = str(compare(one, other)).splitlines()
    assert lines[0] == "grad_cam: second compared with first, 4 samples"
    assert lines[1].split() == ["epoch", *MEASURES, "disagree", "degenerate_frac"]
    assert lines[2].split()[:4] == ["0", "1.000", "1.000", "1.000"]
    assert lines[3].split()[0] == "3"
    assert lines[4].split()[0] == "other"
    assert len({len(line) for line in lines[1:5]}) == 1


# --- relative to seeds ------------------------------------------------------------------------


def of_recipe(folder: Path, seed: int, shift: float = 0.0, epochs: int = 3) -> Path:
    """A run whose maps are one picture with some noise of its own."""
    base = drawn(1000)
    return write(
        folder / f"seed{seed}-{shift}",
        {e: base + 0.2 * drawn(10 * seed + e) + shift * drawn(999) for e in range(epochs)},
    )


def test_a_run_of_the_recipe_lies_inside_and_another_outside(tmp_path: Path) -> None:
    seeds = [of_recipe(tmp_path, seed) for seed in range(5)]
    inside = compare(seeds[0], of_recipe(tmp_path, 6), seeds=seeds)
    outside = compare(seeds[0], of_recipe(tmp_path, 7, shift=2.0), seeds=seeds)
    assert inside.outside().tolist() == [False] * 3
    assert outside.outside().tolist() == [True] * 3
    assert inside.floor is not None
    assert inside.floor.pairs == 10
    by_hand = [
        float(compare(a, b).table["spearman"][1])
        for i, a in enumerate(seeds)
        for b in seeds[i + 1 :]
    ]
    assert float(inside.floor.mean["spearman"][1]) == pytest.approx(sum(by_hand) / 10)
    assert "There the runs differ no more than these" in str(inside)
    assert "There the runs differ by more than these" in str(outside)
    assert "at 3 of 3 epochs" in str(outside)
    outside.figure()


def test_only_common_epochs_are_compared_with_seeds(tmp_path: Path) -> None:
    seeds = [of_recipe(tmp_path, seed, epochs=3 - seed % 2) for seed in range(3)]
    found = compare(seeds[0], seeds[2], seeds=seeds)
    assert found.epochs.tolist() == [0, 1]
    assert len(found.table["ssim"]) == len(found.maps[0]) == 2


def test_too_few_seeds(tmp_path: Path) -> None:
    one, other = of_recipe(tmp_path, 0), of_recipe(tmp_path, 1)
    with pytest.raises(InputError, match=r"at least 3 different runs as seeds.*got 2"):
        compare(one, other, seeds=[one, other, one])
    with pytest.raises(InputError, match="with seeds"):
        compare(one, other).outside()


def test_constant_maps_are_not_said_to_lie_inside(tmp_path: Path) -> None:
    runs = [write(tmp_path / f"{seed}", {0: torch.zeros(4, 1, 8, 8)}) for seed in range(3)]
    found = compare(runs[0], runs[1], seeds=runs)
    assert found.outside().tolist() == [False]
    assert "There are no maps to judge by" in str(found)
    assert "no more than" not in str(found)
