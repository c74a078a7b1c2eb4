"""The alarm hears that a network comes to depend on something else, and says no more than that."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from quiet import QUIET
from small_runs import dataset, events, fit, make_trainer, train_loader
from test_evidence_stage import Wanders
from test_ranks import Still, numbers
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_saliency import DriftAlarm, EvidenceCallback, SaliencyCallback
from lightning_saliency.attribution import Gradient
from lightning_saliency.callbacks.drift_alarm.evidence_report import place_in_words, shares_as_maps
from lightning_saliency.callbacks.drift_alarm.rules import Rules, Watched
from lightning_saliency.callbacks.stages import evidence as evidence_stage
from lightning_saliency.errors import InputError, SaliencyWarning
from lightning_saliency.reporting.logs import alarm_of
from lightning_saliency.trust import Evidence

pytestmark = QUIET

SCORE = "saliency_alarm/evidence/label/"


def marked(count: int = 8) -> TensorDataset:
    """Two classes, told by the sign of the left half, and as well by that of one cell."""
    images = dataset(count, seed=2).tensors[0] / 10
    labels = torch.arange(count) % 2
    sign = (1.0 - 2.0 * labels).view(-1, 1, 1, 1)
    images[..., :8] += sign
    images[:, :, 12:, 12:] += 3 * sign
    return TensorDataset(images, labels)


class Depends(Still):
    """Reads the left half, and from some epoch on one cell, or the brightness, too."""

    def __init__(self, begins: int, on: str = "cell", learns: int = 0) -> None:
        super().__init__()
        self.begins, self.on, self.learns = begins, on, learns
        self.register_buffer("weight", torch.zeros(()))
        self.register_buffer("knows", torch.zeros(()))

    def on_train_epoch_start(self) -> None:
        self.weight.fill_(float(self.current_epoch >= self.begins))
        self.knows.fill_(float(self.current_epoch >= self.learns))

    def forward(self, images: Tensor) -> Tensor:
        spread, mean = images[..., :8].std((1, 2, 3)), images[..., :8].mean((1, 2, 3))
        # What spreads is the same in all: as long as it knows no more, all are of the first class.
        left = spread + self.knows * mean
        more = {"cell": images[:, :, 12:, 12:], "level": images}[self.on].mean((1, 2, 3))
        value = left + 2 * self.weight * more
        # The parent's weights are to be part of it.
        return torch.stack([value, -value], 1) + 0 * super().forward(images)[:, :2]


def run(folder: Path, module: Still, *callbacks: Any, epochs: int = 13) -> None:
    trainer = make_trainer(folder, *callbacks, max_epochs=epochs)
    trainer.fit(module, DataLoader(marked(), 4), DataLoader(marked(), 4))


def evidence(**settings: Any) -> EvidenceCallback:
    return EvidenceCallback(**{"grid": 4, "samples": 8, "on_error": "raise", **settings})


def test_a_network_that_comes_to_need_a_mark_is_heard_and_the_place_is_named(
    tmp_path: Path,
) -> None:
    with pytest.warns(SaliencyWarning, match="depends more on") as caught:
        run(tmp_path, Depends(11), alarm := DriftAlarm(), evidence())
    said = [str(each.message) for each in caught if "depends more on" in str(each.message)]
    assert len(said) == 1
    assert said[0].startswith("Epoch 11: In ")
    assert "the label's score now depends more on the bottom right: its share of the" in said[0]
    assert "measured by removing it, rose from 0.0" in said[0]
    assert "in three explanations. This may be learning or a shortcut; look at the pl" in said[0]
    assert "saliency_evidence/label/place_gain" in alarm.sounding
    found = events(tmp_path)
    score = {event.step // 2: event.value for event in found.Scalars(SCORE + "place_gain")}
    assert sorted(score) == [9, 10, 11, 12]
    assert max(score[9], score[10]) <= 1 < score[11]
    (text,) = found.Tensors("saliency_alarm/evidence/label/text_summary")
    written = text.tensor_proto.string_val[0].decode()
    assert "### Epoch 11: the evidence has moved" in written
    assert "| place | the bottom right | 0.0" in written
    assert "small p alone is no alarm" in written
    # As a report reads it.
    read = alarm_of("label", "evidence", 23, written)
    assert read is not None
    assert (read.epoch, read.headline) == (11, "the evidence has moved")
    assert [row[0] for row in read.numbers] == ["saliency_evidence/label/place_gain"]
    assert float(read.numbers[0][3]) > 1
    assert "now depends more on the bottom right" in read.remark
    (picture,) = found.Images("saliency/alarm/evidence/label")
    assert picture.width > 200


def test_content_that_the_network_comes_to_need_is_named(tmp_path: Path) -> None:
    with pytest.warns(SaliencyWarning, match="the overall color and brightness"):
        run(tmp_path, Depends(11, "level"), DriftAlarm(), evidence())


def test_a_mark_that_is_there_but_unused_is_no_alarm(tmp_path: Path) -> None:
    run(tmp_path, Depends(99), alarm := DriftAlarm(), evidence())
    assert not alarm.sounding
    assert max(numbers(tmp_path, SCORE)[SCORE + "place_gain"]) <= 0


def test_nothing_is_judged_before_the_tenth_explanation(tmp_path: Path) -> None:
    with pytest.warns(SaliencyWarning, match="Epoch 9: In"):
        run(tmp_path, Depends(8), DriftAlarm(), evidence(), epochs=10)


def test_that_a_network_begins_to_learn_is_no_alarm(tmp_path: Path) -> None:
    with pytest.warns(SaliencyWarning, match="depends more on") as caught:
        run(tmp_path, Depends(15, learns=11), alarm := DriftAlarm(), evidence(), epochs=16)
    said = [str(each.message) for each in caught if "depends more on" in str(each.message)]
    # That it begins to need the left half, in epoch 11, is no news.
    assert [each[: len("Epoch 15")] for each in said] == ["Epoch 15"]
    assert "bottom right" in said[0]
    assert alarm.sounding
    # Compared with three explanations ago, when the predictions told the samples apart.
    steps = {event.step // 2 for event in events(tmp_path).Scalars(SCORE + "place_gain")}
    assert steps == {14, 15}


def test_learning_would_be_an_alarm_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evidence_stage, "_knows", lambda _: True)
    with pytest.warns(SaliencyWarning, match="Epoch 11: In .* depends more on"):
        run(tmp_path, Depends(99, learns=11), DriftAlarm(), evidence())


def test_a_network_that_never_knows_is_not_judged_and_that_is_said(tmp_path: Path) -> None:
    with pytest.warns(SaliencyWarning, match=r"Nothing was judged of .*label/place_gain.* apart"):
        run(tmp_path, Depends(99, learns=99), evidence(), DriftAlarm(), epochs=10)
    assert not numbers(tmp_path, SCORE)


def test_a_limit_needs_no_warm_up(tmp_path: Path) -> None:
    limited = DriftAlarm("saliency_evidence/label/kind_fine", limit=1e-6)
    with pytest.warns(SaliencyWarning, match="above limit") as caught:
        run(tmp_path, Depends(99, learns=99), limited, evidence(), epochs=11)
    # It was judged by its limit all the time.
    assert not any("Nothing was judged" in str(each.message) for each in caught)
    assert limited.sounding == ["saliency_evidence/label/kind_fine"]


def test_numbers_that_mean_nothing_are_not_scored_but_compared_with() -> None:
    watched = Watched("saliency_evidence/label/place_gain")
    values = [0.0, 0.0, 0.0, 0.0, 0.0, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3]
    means = [False] * 10 + [True] * 2
    scores = [
        watched.judge(v, Rules(), means_something=m) for v, m in zip(values, means, strict=True)
    ]
    assert [score == score for score in scores] == means
    # Nothing unusual beside those.
    assert scores[-1] <= 0
    assert watched.judged
    assert Watched.of(watched.state_dict()) == watched
    old = watched.state_dict()
    del old["judged"]
    assert Watched.of(old).judged is None


def test_where_nobody_can_say_whether_it_knows_it_is_judged(tmp_path: Path) -> None:
    def brightness(output: Tensor) -> Tensor:
        return output[:, 0]

    run(tmp_path, Depends(99, learns=99), DriftAlarm(), evidence(target=brightness), epochs=10)
    assert "saliency_alarm/evidence/brightness/place_gain" in numbers(tmp_path, "saliency_alarm/")


def test_beside_maps_both_are_watched(tmp_path: Path) -> None:
    callback = SaliencyCallback(Gradient(), samples=8, evidence=Evidence(4), on_error="raise")
    run(tmp_path, Depends(99), callback, DriftAlarm(warmup=0, window=4), epochs=8)
    logged = numbers(tmp_path, "saliency_alarm/")
    assert {SCORE + "place_gain", SCORE + "kind_gain"} < logged.keys()
    assert "saliency_alarm/gradient/previous" in logged


def test_it_is_watched_by_name_too_and_by_one_alarm_alone(tmp_path: Path) -> None:
    pattern = "saliency_evidence/*/moved/pinned"
    soon = DriftAlarm(pattern, warmup=0, window=4, factor=1e6)
    run(tmp_path, Depends(99), evidence(), DriftAlarm(), soon, epochs=6)
    assert "saliency_alarm/evidence/label/moved/pinned" in numbers(tmp_path, "saliency_alarm/")
    with pytest.raises(InputError, match="two that watch"):
        fit(tmp_path, evidence(), DriftAlarm(), DriftAlarm("saliency_evidence/*/place_gain"))
    with pytest.raises(InputError, match="saliency_evidence"):
        fit(tmp_path, SaliencyCallback(Gradient()), DriftAlarm("saliency_evidence/*/place_gain"))


def test_a_resumed_run_judges_as_the_whole_one(tmp_path: Path) -> None:
    def wander(folder: Path, checkpoint: Path | None = None) -> dict[str, list[float]]:
        torch.manual_seed(0)
        saver = ModelCheckpoint(folder, "{epoch}", save_top_k=-1)
        # So strong that it tells the samples apart, as a trained network does.
        strong = evidence(forward=lambda module, images: 30 * module(images))
        callbacks = (strong, DriftAlarm(warmup=0, window=4, factor=1e6), saver)
        trainer = make_trainer(folder, *callbacks, max_epochs=9, enable_checkpointing=True)
        loader = DataLoader(marked(), 4)
        trainer.fit(Wanders(), train_loader(), loader, ckpt_path=checkpoint)
        return numbers(folder, SCORE)

    whole = wander(tmp_path / "whole")
    resumed = wander(tmp_path / "resumed", tmp_path / "whole" / "epoch=2.ckpt")
    for tag, values in resumed.items():
        assert values == whole[tag][-len(values) :], tag
    assert any(value != 0 for values in resumed.values() for value in values)


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ([0], "the top left"),
        ([2], "the top"),
        ([12], "the center"),
        ([10, 11, 15], "the left"),
        ([23, 24, 19], "the bottom right"),
        (range(20), "most of the picture"),
    ],
)
def test_places_have_names(cells: Any, words: str) -> None:
    assert place_in_words(cells, 5) == words


def test_shares_as_maps() -> None:
    shares = torch.tensor([[0.1, 0.2, 0.3, 0.4], [float("nan")] * 4])
    maps = shares_as_maps(shares, (5, 6))
    assert maps.shape == (2, 1, 5, 6)
    assert maps[0, 0, :2, :3].unique().tolist() == [pytest.approx(0.1)]
    assert maps[0, 0, 2:, 3:].unique().tolist() == [pytest.approx(0.4)]
    assert not bool(maps[1].any())


@pytest.mark.parametrize(
    ("what", "gain", "is_loud"),
    [
        ("place_gain", 0.045, True),
        ("place_gain", 0.035, False),
        ("kind_gain", 0.125, True),
        ("kind_gain", 0.115, False),
    ],
)
def test_how_large_a_gain_must_be_where_nothing_moved_before(
    what: str, gain: float, is_loud: bool
) -> None:
    watched = Watched(f"saliency_evidence/label/{what}")
    for value in [float("nan")] * 3 + [0.0] * 6:
        watched.judge(value, Rules())
    assert (watched.judge(gain, Rules()) > 1) == is_loud
