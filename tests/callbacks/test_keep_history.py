"""What is there to look at when a run is over."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from PIL import Image
from small_runs import QUIET, events, fit
from tensorboard.plugins.custom_scalar import layout_pb2

from lightning_saliency import DriftAlarm, SaliencyCallback
from lightning_saliency.attribution import GradCAM, Gradient
from lightning_saliency.callbacks.explanation import Explanation
from lightning_saliency.callbacks.pictures import Pictures
from lightning_saliency.callbacks.stages.history import CHARTS
from lightning_saliency.errors import SaliencyWarning

pytestmark = QUIET


def pictures_of(folder: Path, tag: str) -> list[tuple[int, Any]]:
    found = events(folder).Images(tag)
    return [(each.step, Image.open(io.BytesIO(each.encoded_image_string))) for each in found]


def test_the_pinned_maps_are_shown_once_when_they_are_pinned(tmp_path: Path) -> None:
    callback = SaliencyCallback([Gradient(), GradCAM()], samples=3, warmup_epochs=2)
    fit(tmp_path, callback, max_epochs=4)
    for series in ("gradient", "grad_cam"):
        ((step, picture),) = pictures_of(tmp_path, f"saliency/pinned/{series}")
        assert step == 11
        # Three rows of pictures.
        assert picture.height > 3 * 60


def test_a_film_has_a_frame_for_each_explanation(tmp_path: Path) -> None:
    fit(tmp_path, SaliencyCallback(GradCAM(), samples=3, name="mine"), max_epochs=4)
    ((step, film),) = pictures_of(tmp_path, "mine/saliency/timelapse/grad_cam")
    assert step == 15
    assert film.format == "GIF"
    assert film.n_frames == 4
    frames = []
    for index in range(4):
        film.seek(index)
        frames.append(film.convert("RGB").tobytes())
        assert film.info["duration"] == (2000 if index == 3 else 500)
    assert len(set(frames)) == 4
    assert film.info["loop"] == 0


def test_a_film_that_fails_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: Any) -> bytes:
        raise ValueError("no film")

    monkeypatch.setattr("lightning_saliency.callbacks.pictures.timelapse", fails)
    with pytest.warns(SaliencyWarning, match="film of the maps could not be logged.*no film"):
        trainer = fit(tmp_path, SaliencyCallback(Gradient(), samples=2))
    assert trainer.current_epoch == 2


def test_charts_are_laid_out_only_if_asked_for(tmp_path: Path) -> None:
    fit(tmp_path / "no", SaliencyCallback(Gradient(), samples=2), max_epochs=1)
    assert "custom_scalars__config__" not in events(tmp_path / "no").Tags()["tensors"]
    callback = SaliencyCallback(
        Gradient(), samples=2, name="a", custom_scalars=True, regions=["border"]
    )
    fit(tmp_path / "yes", callback, max_epochs=2)
    found = events(tmp_path / "yes")
    config = found.Tensors("custom_scalars__config__")[-1]
    layout = layout_pb2.Layout.FromString(config.tensor_proto.string_val[0])
    charts = {chart.title: list(chart.multiline.tag) for chart in layout.category[0].chart}
    every = {title: list(tags) for title, tags in CHARTS["saliency"].items()}
    # There is no alarm in this run, and so no empty chart of alarms.
    assert every.pop("alarms (above 1)")
    assert charts == every
    # TensorBoard matches them from the beginning of the tag.
    seen = {
        title: [t for t in found.Tags()["scalars"] if any(re.match(r, t) for r in tags)]
        for title, tags in charts.items()
    }
    assert seen["loss"] == ["val_loss"]
    assert seen["moved since the previous explanation"] == ["a/saliency_drift/gradient/previous"]
    assert seen["flips and empty maps"] == [
        "a/saliency_target/gradient/empty",
        "a/saliency_target/flips",
    ]
    assert seen["regions"] == ["a/saliency_region/gradient/border"]


def test_charts_of_which_there_are_no_numbers_are_left_out(tmp_path: Path) -> None:
    def titles(folder: Path, *callbacks: pl.Callback) -> list[str]:
        saliency = SaliencyCallback(Gradient(), samples=2, custom_scalars=True)
        fit(folder, saliency, *callbacks, max_epochs=7)
        config = events(folder).Tensors("custom_scalars__config__")[-1]
        layout = layout_pb2.Layout.FromString(config.tensor_proto.string_val[0])
        return [chart.title for chart in layout.category[0].chart]

    always = [each for each in CHARTS["saliency"] if each not in ("regions", "alarms (above 1)")]
    assert titles(tmp_path / "plain") == always
    alarm = DriftAlarm(warmup=1, window=4)
    assert titles(tmp_path / "alarm", alarm) == [*always, "alarms (above 1)"]


def test_the_filmstrip_of_a_hundred_epochs_of_noise_is_below_a_megabyte() -> None:
    generator = torch.Generator().manual_seed(0)
    pictures = Pictures()
    images = torch.rand(8, 3, 64, 64, generator=generator)
    target = torch.arange(8)
    for epoch in range(100):
        maps = torch.randn(8, 1, 64, 64, generator=generator)
        made = Explanation(maps, target, target, torch.rand(8), torch.zeros(8))
        pictures.record("gradient", images, made, epoch)
    strip = pictures.filmstrip()
    file = io.BytesIO()
    Image.fromarray(strip.permute(1, 2, 0).numpy()).save(file, "PNG", compress_level=1)
    assert len(file.getvalue()) < 1_000_000
    kept = pictures.state_dict()["gradient"]["kept"]
    assert [each["epoch"] for each in kept.values()] == [*range(0, 100, 8), 98, 99]
