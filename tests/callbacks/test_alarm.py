"""When the alarm sounds, and what is seen and heard of it."""

from __future__ import annotations

import io
import logging
import math
import pickle
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from PIL import Image
from small_runs import QUIET, TinyModule, dataset, events, fit, make_trainer, train_loader
from small_runs import val_loader as loader
from torch import Tensor, nn

from lightning_saliency import DriftAlarm, SaliencyCallback
from lightning_saliency.attribution import DeconvNet, GradCAM, Gradient, GuidedBackprop
from lightning_saliency.callbacks.drift_alarm.rules import Rules, Watched
from lightning_saliency.callbacks.tags import logged_tag
from lightning_saliency.errors import InputError, SaliencyWarning
from lightning_saliency.loggers import TensorBoardAdapter
from lightning_saliency.metrics import page_hinkley_score, spike_score

pytestmark = [
    *QUIET,
    pytest.mark.filterwarnings("ignore:DriftAlarm does not watch guided_backprop"),
]

PREVIOUS = "saliency_drift/jumpy/previous/top10_iou"
SCORE = "saliency_alarm/jumpy/previous/top10_iou"
# Judges from the fifth explanation on.
SOON: dict[str, Any] = {"warmup": 0, "window": 4}


class Jumpy:
    """A method whose maps stay where they are, until they move to another side."""

    __name__ = "jumpy"

    def __init__(
        self, jump: int = 5, back: int | None = None, samples: tuple[int, ...] = ()
    ) -> None:
        self.calls = 0
        self.jump, self.back, self.samples = jump, back, samples

    def __call__(self, model: nn.Module, image: Tensor, target: Any) -> Tensor:
        maps = torch.linspace(0, 1, image.shape[3]).expand(len(image), 1, *image.shape[2:])
        maps = maps + torch.linspace(0, 0.1, image.shape[2]).view(-1, 1)
        moved = self.jump <= self.calls and (self.back is None or self.calls < self.back)
        self.calls += 1
        if not moved:
            return maps
        which = list(self.samples or range(len(image)))
        maps = maps.clone()
        maps[which] = maps[which].flip(3)
        return maps


def watch(method: Any = None, **settings: Any) -> SaliencyCallback:
    return SaliencyCallback(method or Jumpy(), **{"samples": 4, "on_error": "raise", **settings})


def scores(folder: Path, tag: str = SCORE) -> dict[int, float]:
    return {event.step: event.value for event in events(folder).Scalars(tag)}


def heard(said: pytest.WarningsRecorder) -> list[str]:
    return [str(w.message) for w in said if "Samples that moved most" in str(w.message)]


# --- when -------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["alarm", "saliency"])
@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({"max_epochs": 8}, [3, 7, 11, 15, 19, 23, 27, 31]),
        ({"max_epochs": 4, "val_check_interval": 0.5}, [1, 3, 5, 7, 9, 11, 13, 15]),
        # The epochs between end without a validation run, and are explained all the same.
        ({"max_epochs": 9, "check_val_every_n_epoch": 2}, [7, 11, 15, 19, 23, 27, 31, 35]),
    ],
    ids=["default", "val_check_interval", "check_val_every_n_epoch"],
)
def test_it_sounds_at_the_jump_in_any_order_and_rhythm(
    tmp_path: Path, first: str, settings: dict[str, Any], steps: list[int]
) -> None:
    alarm, saliency = DriftAlarm(PREVIOUS, **SOON), watch()
    order = [alarm, saliency] if first == "alarm" else [saliency, alarm]
    with pytest.warns(SaliencyWarning, match=r"Epoch \d: .*top10_iou is 0 \(usually 1\)") as said:
        trainer = fit(tmp_path, *order, **settings)
    assert len(heard(said)) == 1
    found = scores(tmp_path)
    # Four comparisons say what is usual, and the first explanation has none.
    assert list(found) == steps[5:]
    assert [step for step, score in found.items() if score > 1] == [steps[5]]
    # (1 - 0) / (4 * 0.02): the maps had not moved at all before.
    assert found[steps[5]] == pytest.approx(12.5)
    assert trainer.callback_metrics[SCORE] == found[steps[-1]]
    assert [
        event.step for event in events(tmp_path).Tensors(f"{SCORE.rpartition('/')[0]}/text_summary")
    ] == [steps[5]]


def test_it_does_not_sound_in_the_sanity_check_nor_in_validate(tmp_path: Path) -> None:
    alarm = DriftAlarm(**SOON)
    trainer = make_trainer(tmp_path, watch(Jumpy(1)), alarm)
    for _ in range(8):
        trainer.validate(TinyModule(), loader(), verbose=False)
    assert alarm.state_dict()["watched"] == {}


def test_it_sounds_once_and_again_after_it_came_back(tmp_path: Path) -> None:
    alarm = DriftAlarm("saliency_region/jumpy/right", limit=0.6, **SOON)
    saliency = watch(Jumpy(2, back=5), regions={"right": (8, 0, 16, 16)})
    with pytest.warns(SaliencyWarning, match="Samples that moved most") as said:
        fit(tmp_path, saliency, alarm, max_epochs=7)
    # The mass on the right is 0.74 at first and after the maps came back.
    assert [line[:8] for line in heard(said)] == ["Epoch 0:", "Epoch 5:"]
    assert alarm.sounding == ["saliency_region/jumpy/right"]
    found = scores(tmp_path, "saliency_alarm/region/jumpy/right")
    assert [score > 1 for score in found.values()] == [True, True, False, False, False, True, True]


def test_by_default_all_methods_are_watched_against_both_references(tmp_path: Path) -> None:
    # Nothing sounds, and after seven explanations all is judged.
    alarm = DriftAlarm(factor=1e9, **SOON)
    saliency = watch([Jumpy(99), Gradient()], target=("label", "predicted"))
    other = watch(GradCAM(), name="second")
    trainer = fit(tmp_path, saliency, alarm, other, max_epochs=7)
    shown = {tag for tag in events(tmp_path).Tags()["scalars"] if "saliency_alarm" in tag}
    assert shown == {
        f"{series}/{reference}"
        for series in (
            "saliency_alarm/jumpy/label",
            "saliency_alarm/jumpy/predicted",
            "saliency_alarm/gradient/label",
            "saliency_alarm/gradient/predicted",
            "second/saliency_alarm/grad_cam",
        )
        for reference in ("previous", "pinned")
    }
    watched = {f"{tag}/{one}" for tag in shown for one in ("top10_iou", "spearman", "ssim")}
    assert {tag for tag in trainer.callback_metrics if "saliency_alarm" in tag} == shown | watched
    assert set(alarm.state_dict()["watched"]) == {
        tag.replace("saliency_alarm", "saliency_drift") for tag in watched
    }


class Shuffled(Jumpy):
    """The tenth of the pixels that is largest gives way to the next, the rest stays as it is."""

    def __call__(self, model: nn.Module, image: Tensor, target: Any) -> Tensor:
        order = torch.randperm(256, generator=torch.Generator().manual_seed(0))
        values = torch.empty(256)
        values[order] = torch.arange(256.0)
        if self.calls == self.jump:
            values[order[204:]] = values[order[204:]].roll(26)
        self.calls += 1
        return values.view(1, 1, 16, 16).repeat(len(image), 1, 1, 1)


@pytest.mark.parametrize(("agree", "sounds"), [(1, True), (2, False)])
def test_one_measure_alone_makes_no_alarm_unless_it_may(
    tmp_path: Path, agree: int, sounds: bool
) -> None:
    both = [PREVIOUS, "saliency_drift/jumpy/previous/spearman"]
    alarm = DriftAlarm(both, agree=agree, **SOON)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        fit(tmp_path, watch(Shuffled(), log="full"), alarm, max_epochs=6)
    assert any("Samples that moved most" in str(w.message) for w in said) == sounds
    assert alarm.sounding == ([PREVIOUS] if sounds else [])
    assert scores(tmp_path)[23] > 1
    assert scores(tmp_path, "saliency_alarm/jumpy/previous/spearman")[23] < 1
    # What decides is above 1 if, and only if, it sounds.
    assert (scores(tmp_path, "saliency_alarm/jumpy/previous")[23] > 1) == sounds


@pytest.mark.parametrize("reference", ["previous", "pinned"])
def test_a_number_that_needs_others_scores_half_of_one_that_is_alone(reference: str) -> None:
    tag, rules = f"saliency_drift/jumpy/{reference}/top10_iou", Rules(warmup=0, limit=0.8)
    alone, together = Watched(tag), Watched(tag)
    for value in (1.0, 0.9, 0.95, 0.9, 0.9, 0.9):
        alone.judge(value, rules)
        together.judge(value, rules, alone=False)
    score = alone.judge(0.3, rules)
    assert score > 1
    assert together.judge(0.3, rules, alone=False) == pytest.approx(max(score / 2, 0.7 / 0.8))
    # A limit is one for each.
    assert together.judge(0.1, rules, alone=False) >= 0.9 / 0.8


@pytest.mark.parametrize("reference", ["previous", "pinned"])
def test_what_is_kept_of_a_series_does_not_grow_and_scores_as_the_whole(reference: str) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(200, generator=generator).tolist()
    values[20], values[60:64], values[150] = math.nan, [math.nan] * 4, math.inf
    rules = Rules(warmup=7, window=6, factor=1.0)
    watched, sizes = Watched(f"saliency_drift/jumpy/{reference}/ssim"), []
    # Another explanation is pinned at the third and at the hundredth.
    for number, value in enumerate(values):
        watched = Watched.of(pickle.loads(pickle.dumps(watched.state_dict())))
        begin = 100 if number >= 100 else 2 if number >= 2 else 0
        score = watched.judge(value, rules, begin)
        series = [1 - each for each in values[: number + 1]]
        whole = (
            page_hinkley_score(series[begin:], max(0, 7 - begin), factor=1.0)
            if reference == "pinned"
            else spike_score(series, 7, 6, 1.0)
        )
        assert score == whole or (math.isnan(score) and not math.isfinite(whole))
        usual = [each for each in series[7:-1][-6:] if math.isfinite(each)]
        assert watched.usual(rules) == ((min(usual), max(usual)) if usual else None)
        sizes.append(len(pickle.dumps(watched)))
    assert max(sizes[180:]) <= max(sizes[:100])


def test_a_slow_rise_above_the_trend_is_heard_on_the_pinned_series(tmp_path: Path) -> None:
    class Creeping(Jumpy):
        def __call__(self, model: nn.Module, image: Tensor, target: Any) -> Tensor:
            generator = torch.Generator().manual_seed(0)
            first, other = torch.rand(2, 1, 1, 16, 16, generator=generator)
            share = min(1.0, max(0.0, (self.calls - 7) / 6))
            self.calls += 1
            return ((1 - share) * first + share * other).expand(len(image), 1, 16, 16)

    alarm = DriftAlarm("*/pinned/spearman", warmup=0)
    with pytest.warns(SaliencyWarning, match=r"Epoch (9|10|11): .*pinned/spearman is") as said:
        fit(tmp_path, watch(Creeping()), alarm, max_epochs=13)
    assert len(heard(said)) == 1


# --- what is seen and heard -------------------------------------------------------------------


def test_text_picture_log_and_warning_name_the_samples_that_moved(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "lightning_saliency")
    saliency = watch(Jumpy(samples=(1, 3)), samples=4)
    with pytest.warns(SaliencyWarning, match=r"Samples that moved most: 1, 3, 0\.") as said:
        fit(tmp_path, saliency, DriftAlarm(PREVIOUS, **SOON), max_epochs=6)
    assert heard(said)[0] in caplog.messages
    found = events(tmp_path)
    tag = "saliency_alarm/jumpy/previous"
    (text,) = found.Tensors(f"{tag}/text_summary")
    words = text.tensor_proto.string_val[0].decode()
    assert f"| {logged_tag(PREVIOUS)} | 0.500 | 1 | 6.2 |" in words
    assert "picture **saliency/alarm/jumpy** in the Images tab" in words
    assert "### Epoch 5: jumpy looks elsewhere" in words
    assert "| # | class | predicted in epoch 4 | predicted now | p | moved |" in words
    rows = [line.strip("| ").split(" | ") for line in words.splitlines() if "| class " in line]
    assert [(row[0], row[-1]) for row in rows[1:4]] == [("1", "1.00"), ("3", "1.00"), ("0", "0.00")]
    assert rows[1][1] == "class 1"
    (picture,) = found.Images("saliency/alarm/jumpy")
    assert picture.step == text.step == 23
    pixels = np.asarray(Image.open(io.BytesIO(picture.encoded_image_string)).convert("RGB"))
    # Input, before, now: three pictures of 160 pixels beside each other, four rows.
    assert pixels.shape[0] > 4 * 160
    assert pixels.shape[1] > 3 * 160


def test_how_far_a_sample_moved_is_the_same_number_whatever_sounded(tmp_path: Path) -> None:
    # By spearman it is 2: the values are in reverse order.
    alarm = DriftAlarm("saliency_drift/jumpy/previous/spearman", **SOON)
    with pytest.warns(SaliencyWarning, match="spearman is"):
        fit(tmp_path, watch(Jumpy()), alarm, max_epochs=6)
    (text,) = events(tmp_path).Tensors("saliency_alarm/jumpy/previous/text_summary")
    words = text.tensor_proto.string_val[0].decode()
    rows = [line.strip("| ").split(" | ") for line in words.splitlines() if "| class " in line]
    assert rows[1:]
    assert {row[-1] for row in rows[1:]} == {"1.00"}


@pytest.mark.filterwarnings("ignore:Epoch 5")
def test_a_logger_that_fails_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = TensorBoardAdapter.text

    def full(self: TensorBoardAdapter, tag: str, text: str, step: int) -> bool:
        if "saliency_alarm" in tag:
            raise OSError(28, "No space left on device")
        return write(self, tag, text, step)

    monkeypatch.setattr(TensorBoardAdapter, "text", full)
    says = "could not be logged; training goes on.*No space"
    with pytest.warns(SaliencyWarning, match=says):
        trainer = fit(tmp_path, watch(), DriftAlarm(**SOON), max_epochs=7)
    assert trainer.current_epoch == 7


# --- what it does -----------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Epoch 5")
def test_it_can_stop_the_run(tmp_path: Path) -> None:
    trainer = fit(tmp_path, watch(), DriftAlarm(stop=True, **SOON), max_epochs=9)
    assert trainer.current_epoch == 6


@pytest.mark.filterwarnings("ignore:Epoch 5")
@pytest.mark.parametrize("validated", [True, False])
def test_it_can_save_a_checkpoint_that_a_run_resumes_from(tmp_path: Path, validated: bool) -> None:
    def callbacks(jump: int) -> list[pl.Callback]:
        saliency = watch(Jumpy(jump), samples=dataset(4).tensors)
        return [DriftAlarm(save_checkpoint=True, **SOON), saliency]

    settings: dict[str, Any] = {} if validated else {"limit_val_batches": 0}
    fit(tmp_path, *callbacks(5), max_epochs=7, **settings)
    path = tmp_path / "run" / "checkpoints" / "saliency_alarm-epoch=5-step=24.ckpt"
    assert [path] == list(path.parent.iterdir())
    again = callbacks(0)
    trainer = make_trainer(tmp_path / "again", *again, max_epochs=7, **settings)
    trainer.fit(TinyModule(), train_loader(), loader(), ckpt_path=path)
    assert trainer.global_step == 28
    # Six explanations before, one after, and none twice. Kept are the newest and the window.
    (entry,) = (v for k, v in again[0].state_dict()["watched"].items() if k == PREVIOUS)
    assert entry["count"] == 7
    assert entry["amounts"] == [0.0] * 3 + [1.0, 0.0]


@pytest.mark.filterwarnings("ignore:Epoch 5")
def test_the_checkpoint_goes_where_it_is_told_and_beside_the_others(tmp_path: Path) -> None:
    fit(tmp_path, watch(), DriftAlarm(save_checkpoint=str(tmp_path / "here"), **SOON), max_epochs=6)
    assert len(list((tmp_path / "here").iterdir())) == 1
    saver = ModelCheckpoint(tmp_path / "others")
    fit(
        tmp_path, watch(), DriftAlarm(save_checkpoint=True, **SOON), saver,
        max_epochs=6, enable_checkpointing=True,
    )  # fmt: skip
    assert any("saliency_alarm" in path.name for path in (tmp_path / "others").iterdir())


@pytest.mark.filterwarnings("ignore:Epoch 5")
def test_a_checkpoint_that_cannot_be_saved_does_not_end_the_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    alarm = DriftAlarm(save_checkpoint=str(tmp_path / "file" / "inside"), **SOON)
    with pytest.warns(SaliencyWarning, match="checkpoint of the alarm could not be saved"):
        trainer = fit(tmp_path, watch(), alarm, max_epochs=7)
    assert trainer.current_epoch == 7


@pytest.mark.filterwarnings("ignore:Epoch 5", "ignore:.*is monitored with mode='min' and")
def test_scores_can_be_monitored_by_lightnings_own_callbacks(tmp_path: Path) -> None:
    stopping = EarlyStopping(SCORE, mode="min", patience=99, stopping_threshold=-99)
    stopping.divergence_threshold = 1.0
    saver = ModelCheckpoint(tmp_path / "saved", monitor=SCORE, mode="max")
    trainer = fit(
        tmp_path, stopping, DriftAlarm(PREVIOUS, **SOON), watch(), saver,
        max_epochs=9, enable_checkpointing=True,
    )  # fmt: skip
    assert trainer.current_epoch == 6
    assert saver.best_model_score == pytest.approx(12.5)


def test_a_resumed_run_sounds_as_the_whole_one(tmp_path: Path) -> None:
    def run(
        folder: Path, epochs: int, skip: int = 0, start: Path | None = None
    ) -> dict[int, float]:
        method = Jumpy(7)
        method.calls = skip
        saver = ModelCheckpoint(folder, filename="last", save_on_train_epoch_end=True)
        callbacks = [watch(method), DriftAlarm(PREVIOUS, **SOON), saver]
        torch.manual_seed(0)
        trainer = make_trainer(folder, *callbacks, max_epochs=epochs, enable_checkpointing=True)
        trainer.fit(TinyModule(), train_loader(), loader(), ckpt_path=start)
        return scores(folder)

    with pytest.warns(SaliencyWarning, match="Epoch 7: ") as said:
        whole = run(tmp_path / "whole", 9)
    assert len(heard(said)) == 1
    run(tmp_path / "part", 6)
    with pytest.warns(SaliencyWarning, match="Epoch 7: ") as said:
        rest = run(tmp_path / "rest", 9, 6, tmp_path / "part" / "last.ckpt")
    assert len(heard(said)) == 1
    assert rest == {step: score for step, score in whole.items() if step > 23}


# --- what it refuses --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"monitor": []}, "a tag"),
        ({"monitor": ""}, "a tag"),
        ({"monitor": [3]}, r"got \[3\]"),
        ({"warmup": -1}, "warmup.*at least 0, got -1"),
        ({"warmup": 2.5}, "warmup.*integer"),
        ({"agree": 0}, "agree.*at least 1, got 0"),
        ({"window": 3}, "window.*at least 4, got 3"),
        ({"factor": 0}, "factor.*above 0, got 0"),
        ({"limit": float("nan")}, "limit.*above 0, got nan"),
        ({"limit": "0.5"}, "limit.*above 0, got '0.5'"),
    ],
    ids=str,
)
def test_settings_are_checked_at_once(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        DriftAlarm(**settings)


BEFORE_TRAINING = {
    "no saliency callback": ([DriftAlarm()], ["a saliency callback in the Trainer", "got none"]),
    "a name that is not logged": (
        [SaliencyCallback(GradCAM()), DriftAlarm("saliency_drift/gradcam/previous/top10")],
        ["'saliency_drift/gradcam/previous/top10'", "'saliency_drift/grad_cam/previous/top10_iou'"],
    ),
    "a pattern of nothing": (
        [SaliencyCallback(GradCAM()), DriftAlarm(["*/top10_iou", "*/pinned/cosine"])],
        ["'*/pinned/cosine'", "Did you mean"],
    ),
    "a region that is not measured": (
        [
            SaliencyCallback(GradCAM(), regions=["border"]),
            DriftAlarm("saliency_region/grad_cam/boarder"),
        ],
        ["'saliency_region/grad_cam/border'"],
    ),
    "two for one number": (
        [SaliencyCallback(Gradient()), DriftAlarm(), DriftAlarm("saliency_drift/*/previous/*")],
        ["two that watch 'saliency_drift/gradient/previous/spearman'"],
    ),
}


@pytest.mark.parametrize("case", BEFORE_TRAINING)
def test_what_cannot_be_watched_ends_before_the_first_training_step(
    case: str, tmp_path: Path
) -> None:
    callbacks, words = BEFORE_TRAINING[case]
    module = TinyModule()
    with pytest.raises(InputError, match="Expected") as caught:
        make_trainer(tmp_path, *callbacks).fit(module, train_loader(), loader())
    assert [word for word in words if word not in str(caught.value)] == []
    assert module.steps == 0


def test_a_region_that_does_not_come_with_the_samples_is_a_warning(tmp_path: Path) -> None:
    def unpack(batch: Any) -> Any:
        return batch[0], batch[1], {"left": torch.ones(len(batch[0]), 16, 16) > 0}

    alarm = DriftAlarm(["saliency_region/*/left", "saliency_region/*/lift"])
    with pytest.warns(SaliencyWarning, match="Nothing is watched.*'saliency_region/..lift'.*left"):
        trainer = fit(tmp_path, watch(unpack=unpack), alarm, max_epochs=5)
    assert alarm.state_dict()["watched"].keys() == {"saliency_region/jumpy/left"}
    assert trainer.current_epoch == 5


# --- methods that are insensitive to weights --------------------------------------------------


@pytest.mark.filterwarnings("default:DriftAlarm")
def test_insensitive_methods_are_left_out_and_it_is_said_once(tmp_path: Path) -> None:
    saliency = SaliencyCallback([Gradient(), GuidedBackprop(), DeconvNet()], samples=2)
    alarm = DriftAlarm()
    with pytest.warns(
        SaliencyWarning, match="does not watch deconvnet and guided_backprop"
    ) as said:
        fit(tmp_path, saliency, alarm)
    (only,) = (str(w.message) for w in said if "DriftAlarm" in str(w.message))
    for source in ("Adebayo et al. 2018", "Nie et al. 2018", "Sixt et al. 2020"):
        assert source in only
    assert {name.split("/")[1] for name in alarm.state_dict()["watched"]} == {"gradient"}


@pytest.mark.filterwarnings("default:DriftAlarm")
def test_named_in_full_they_are_watched(tmp_path: Path) -> None:
    saliency = SaliencyCallback([GuidedBackprop(), DeconvNet()], samples=2)
    alarm = DriftAlarm("saliency_drift/guided_backprop/previous/ssim")
    with pytest.warns(SaliencyWarning, match="may stay silent.*guided_backprop: its maps hardly"):
        fit(tmp_path, saliency, alarm)
    assert alarm.state_dict()["watched"].keys() == {"saliency_drift/guided_backprop/previous/ssim"}


# --- names and limits -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "monitor",
    [
        "saliency_drift/jumpy/previous/top10_iou",
        "saliency_similarity/jumpy/previous/top10_iou",
        "saliency_drift/jumpy/previous",
        "*_drift/*/previous",
    ],
)
def test_a_number_is_watched_under_each_of_its_names(tmp_path: Path, monitor: str) -> None:
    alarm = DriftAlarm(monitor, **SOON)
    with pytest.warns(SaliencyWarning, match=r"Epoch 5: saliency_\w+/jumpy/previous") as said:
        fit(tmp_path, watch(), alarm, max_epochs=7)
    assert len(heard(said)) == 1
    assert len(alarm.state_dict()["watched"]) == 1


def test_a_pattern_for_all_does_not_watch_one_number_twice(tmp_path: Path) -> None:
    alarm = DriftAlarm("*jumpy*top10_iou*", agree=2, **SOON)
    fit(tmp_path, watch(Jumpy(99)), alarm, max_epochs=2)
    watched = set(alarm.state_dict()["watched"])
    assert PREVIOUS in watched
    assert "saliency_drift/jumpy/previous" not in watched


@pytest.mark.parametrize(
    ("monitor", "says"),
    [
        ("saliency_drift/jumpy/previous", "previous is 1, above limit=0.6"),
        (PREVIOUS, "top10_iou is 0, below 0.4, as limit=0.6 demands"),
    ],
)
def test_an_alarm_by_a_limit_says_which_and_in_which_direction(
    tmp_path: Path, monitor: str, says: str
) -> None:
    alarm = DriftAlarm(monitor, warmup=50, limit=0.6)
    with pytest.warns(SaliencyWarning, match=says) as said:
        fit(tmp_path, watch(Jumpy(1)), alarm, max_epochs=3)
    assert len(heard(said)) == 1
    tag = "saliency_alarm/jumpy/previous/text_summary"
    (text,) = events(tmp_path).Tensors(tag)
    assert says.partition(", ")[2] in text.tensor_proto.string_val[0].decode()
