"""A checkpoint of other samples or of another method: a warning, and training goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint
from small_runs import QUIET, dataset, events, fit
from torch import Tensor

from lightning_saliency import SaliencyCallback
from lightning_saliency.attribution import RISE, GradCAM, Gradient
from lightning_saliency.errors import SaliencyWarning

pytestmark = QUIET


def spot(model: Any, image: Tensor, target: Any) -> Tensor:
    return image[:, :1] * model(image).sum()


def resumed(tmp_path: Path, first: SaliencyCallback, second: SaliencyCallback) -> dict[str, Any]:
    """Train for two epochs with one callback and one more with another; return its numbers."""

    def run(name: str, callback: SaliencyCallback, epochs: int, start: Path | None) -> None:
        saving = ModelCheckpoint(tmp_path, filename=name)
        settings: dict[str, Any] = {"enable_checkpointing": True, "max_epochs": epochs}
        fit(tmp_path / name, callback, saving, ckpt_path=start, **settings)

    run("first", first, 2, None)
    run("second", second, 3, tmp_path / "first.ckpt")
    found = events(tmp_path / "second")
    return {
        tag: [event.value for event in found.Scalars(tag)]
        for tag in found.Tags()["scalars"]
        if tag.startswith("saliency_drift/") and tag.endswith("previous")
    }


def given(seed: int) -> Any:
    return dataset(3, seed).tensors


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        (4, 3, "the first 4 of validation loader 0.*the first 3 of"),
        ([0, 1], [1, 0], r"indices \[0, 1\] of validation loader 0.*indices \[1, 0\]"),
        (given(0), given(1), "3 given images, .*3 given images, "),
        (3, given(0), "the first 3 of validation loader 0.*3 given images"),
    ],
    ids=["number", "indices", "tensors", "kind"],
)
def test_other_samples_start_anew_with_a_warning(
    before: Any, after: Any, says: str, tmp_path: Path
) -> None:
    first = SaliencyCallback(Gradient(), samples=before)
    second = SaliencyCallback(Gradient(), samples=after, on_error="raise")
    with pytest.warns(SaliencyWarning, match=f"other samples .*{says}.*start anew"):
        drift = resumed(tmp_path, first, second)
    assert drift == {}


def test_another_method_starts_anew_and_the_others_go_on(tmp_path: Path) -> None:
    first = SaliencyCallback([Gradient(), GradCAM("net.features")], samples=3)
    second = SaliencyCallback([Gradient(), GradCAM("net.features.3")], samples=3)
    with pytest.warns(
        SaliencyWarning, match="'grad_cam' were made by .*net.features'.*features.3'"
    ):
        drift = resumed(tmp_path, first, second)
    assert drift.keys() == {"saliency_drift/gradient/previous"}
    assert drift["saliency_drift/gradient/previous"][0] > 0


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"method": [Gradient(), spot]}, {"method": [Gradient(), spot]}),
        ({"method": RISE(num_masks=128, batch_size=8)}, {"method": RISE(num_masks=128)}),
        ({"method": GradCAM(), "samples": given(0)}, {"method": GradCAM(), "samples": given(0)}),
    ],
    ids=["functions", "batch size", "tensors"],
)
def test_the_same_goes_on_without_a_word(
    before: dict[str, Any], after: dict[str, Any], tmp_path: Path
) -> None:
    first, second = (SaliencyCallback(**{"samples": 3, **each}) for each in (before, after))
    drift = resumed(tmp_path, first, second)
    assert drift
    assert next(iter(drift.values()))[0] < 1


def test_the_words_for_a_method_are_the_same_in_every_process() -> None:
    class Method:
        def __call__(self, model: Any, image: Tensor, target: Any) -> Tensor:
            return image[:, :1]

    words = [SaliencyCallback(Method()).series["Method"].method.describe() for _ in range(2)]
    assert words[0] == words[1]
    assert "0x" not in words[0]
    assert Gradient(smooth=0.1).describe() != Gradient().describe()
