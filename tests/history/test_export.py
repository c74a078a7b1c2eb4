"""Saved maps in the forms that other programs read."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_saliency.errors import InputError
from lightning_saliency.history import export_maps, load_maps
from lightning_saliency.history.map_files import MapFile, digests, write_maps, write_pictures


def run(folder: Path, series: str = "grad_cam/label", signed: bool = False) -> Path:
    """Three explanations of two samples, 8 x 8, on pictures of 16 x 12."""
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (2, 3, 16, 12), generator=generator, dtype=torch.uint8)
    root = folder / "run" / "saliency_maps" / series
    write_pictures(root, pictures)
    for epoch in range(3):
        maps = torch.rand(2, 1, 8, 6, generator=generator) - (0.5 if signed else 0.0)
        entry = MapFile(
            maps,
            torch.tensor([1, 2]),
            torch.tensor([1, epoch]),
            torch.tensor([0.25, 0.1]),
            (7, 4),
            digests(pictures),
            {"method": "X"},
            epoch,
            5 * epoch + 4,
            "r",
        )
        write_maps(root, entry)
    return folder / "run"


def test_numpy_holds_every_number(tmp_path: Path) -> None:
    source = run(tmp_path)
    files = export_maps(source, tmp_path / "out", forms=["numpy"])
    assert files == [tmp_path / "out" / "grad_cam-label.npz"]
    found, saved = np.load(files[0], allow_pickle=False), load_maps(source)
    assert found["maps"].shape == (3, 2, 8, 6)
    assert np.array_equal(found["maps"], saved.maps[:, :, 0].numpy())
    assert found["epoch"].tolist() == [0, 1, 2]
    assert found["step"].tolist() == [4, 9, 14]
    assert found["sample"].tolist() == [7, 4]
    for name in ("target", "predicted", "probability"):
        assert np.array_equal(found[name], getattr(saved, name).numpy())
    assert saved.pictures is not None
    assert np.array_equal(found["pictures"][1, :, :, 2], saved.pictures[1, 2].numpy())


def test_the_table_has_a_row_for_each_sample_at_each_time(tmp_path: Path) -> None:
    (file,) = export_maps(run(tmp_path), tmp_path / "out", forms=["csv"])
    with file.open(newline="") as text:
        rows = list(csv.DictReader(text))
    assert len(rows) == 6
    assert {k: float(v) for k, v in rows[3].items()} == {
        "epoch": 1,
        "step": 9,
        "sample": 4,
        "target": 2,
        "predicted": 1,
        "probability": pytest.approx(0.1, abs=1e-7),
    }


@pytest.mark.parametrize("signed", [False, True])
def test_pictures_and_film(tmp_path: Path, signed: bool) -> None:
    files = export_maps(run(tmp_path, signed=signed), tmp_path / "out", forms=["png", "gif"])
    names = [file.relative_to(tmp_path / "out").as_posix() for file in files]
    assert names[0] == "grad_cam-label/sample=7/epoch=00000-step=000000004.png"
    assert len(names) == 7
    pictures = [np.asarray(Image.open(file)) for file in files[:6]]
    assert {each.shape for each in pictures} == {(16, 12, 3)}
    assert len({each.tobytes() for each in pictures}) == 6
    with Image.open(files[6]) as film:
        assert getattr(film, "n_frames", 1) == 3


def test_all_series_by_default_and_nothing_is_overwritten(tmp_path: Path) -> None:
    source = run(tmp_path)
    run(tmp_path, "gradient")
    out = tmp_path / "out"
    assert len(export_maps(source, out, forms=["numpy", "numpy", "csv"])) == 4
    with pytest.raises(InputError, match=r"grad_cam-label.gif|grad_cam-label.npz exists"):
        export_maps(source, out, forms=["gif", "numpy"])
    assert not list(out.glob("*.gif"))


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Expected the folder of a run"):
        export_maps(tmp_path / "none", tmp_path / "out")
    with pytest.raises(InputError, match="forms among numpy, csv, png, gif, got xls"):
        export_maps(run(tmp_path), tmp_path / "out", forms=["xls"])
    # Maps of two sizes do not belong together.
    folder = tmp_path / "run" / "saliency_maps" / "grad_cam" / "label"
    last = load_maps(tmp_path / "run")
    entry = MapFile(
        torch.rand(2, 1, 4, 4),
        *(t[0] for t in (last.target, last.predicted)),
        last.probability[0],
        (7, 4),
        last.digests,
        {},
        9,
        99,
        "r",
    )
    write_maps(folder, entry)
    with pytest.raises(InputError, match="explanations of the same size"):
        export_maps(tmp_path / "run", tmp_path / "out")
    assert not (tmp_path / "out").exists()
