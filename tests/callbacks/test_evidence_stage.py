"""The evidence over a run: logged, resumed, in the budget, and never in the way of training."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from quiet import QUIET, several_processes
from small_runs import TinyModule, dataset, fit, make_trainer, train_loader, val_loader
from test_ranks import Still, numbers
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_saliency import EvidenceCallback, SaliencyCallback
from lightning_saliency.attribution import GradCAM, Gradient
from lightning_saliency.callbacks.evidence_change import NUMBERS, EvidenceTracker, Gain
from lightning_saliency.errors import InputError, SaliencyWarning
from lightning_saliency.image.parts import CONTENTS
from lightning_saliency.trust import Evidence, EvidenceShares, measure_evidence

pytestmark = QUIET

TAG = "saliency_evidence/label/"


def evidence(**settings: Any) -> EvidenceCallback:
    return EvidenceCallback(**{"grid": 4, "samples": 8, "on_error": "raise", **settings})


class Rounds(pl.Callback):
    """Keeps what listeners are told."""

    def __init__(self) -> None:
        self.found: list[Any] = []

    def on_explained(self, trainer: Any, pl_module: Any, source: Any, round: Any) -> None:
        self.found.append(round)


def test_what_is_logged_and_when(tmp_path: Path) -> None:
    trainer = fit(tmp_path, evidence(), max_epochs=5)
    logged = numbers(tmp_path, TAG)
    assert set(logged) == {TAG + name for name in NUMBERS}
    # Nothing is said of a change before there is something to compare with.
    expected = {"moved/previous": 4, "moved/pinned": 4}
    expected |= {name: 2 for name in NUMBERS if "place_" in name or name == "kind_gain"}
    assert {tag: len(values) for tag, values in logged.items()} == {
        TAG + name: expected.get(name, 5) for name in NUMBERS
    }
    kinds = [logged[f"{TAG}kind_{name}"] for name in CONTENTS]
    assert [sum(values) for values in zip(*kinds, strict=True)] == pytest.approx([1] * 5)
    assert float(trainer.callback_metrics[TAG + "place_gain"]) == logged[TAG + "place_gain"][-1]
    assert all(0 <= value <= 1 for value in logged[TAG + "place_samples"])
    assert all(value in range(16) for value in logged[TAG + "place_index"])


def test_the_numbers_are_those_of_the_public_function(tmp_path: Path) -> None:
    trainer = fit(tmp_path, listener := Rounds(), evidence(), max_epochs=1)
    images, labels = dataset(12, seed=2)[:8]
    direct = measure_evidence(trainer.lightning_module, images, labels, 4)
    (found,) = listener.found
    assert torch.allclose(found.evidence["label"].now.place, direct.place, atol=1e-6)
    assert torch.allclose(found.evidence["label"].now.kind, direct.kind, atol=1e-6)


def test_unchanged_weights_have_no_gain(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, evidence(), max_epochs=5)
    trainer.fit(Still(), train_loader(), val_loader())
    logged = numbers(tmp_path, TAG)
    for name in ("place_gain", "kind_gain", "moved/previous", "moved/pinned"):
        assert set(logged[TAG + name]) == {0.0}, name


class Wanders(Still):
    """Its weights are another random step away in each epoch, whatever was drawn before."""

    def on_train_epoch_start(self) -> None:
        generator = torch.Generator().manual_seed(self.current_epoch)
        with torch.no_grad():
            for weight in self.parameters():
                weight += 0.1 * torch.randn(weight.shape, generator=generator)


def wander(folder: Path, epochs: int, ckpt_path: Path | None = None, **settings: Any) -> None:
    torch.manual_seed(0)
    saver = ModelCheckpoint(folder, "{epoch}", save_top_k=-1)
    trainer = make_trainer(
        folder, evidence(**settings), saver, max_epochs=epochs, enable_checkpointing=True
    )
    trainer.fit(Wanders(), train_loader(), val_loader(), ckpt_path=ckpt_path)


def test_a_resumed_run_equals_the_whole_one(tmp_path: Path) -> None:
    wander(tmp_path / "whole", 6)
    wander(tmp_path / "resumed", 6, tmp_path / "whole" / "epoch=1.ckpt")
    whole, resumed = (numbers(tmp_path / name, TAG) for name in ("whole", "resumed"))
    for tag, values in resumed.items():
        assert values == whole[tag][-len(values) :], tag
    assert len(resumed[TAG + "place_gain"]) == 3
    assert max(resumed[TAG + "place_gain"]) > 0.01


def test_evidence_of_other_settings_starts_over_and_says_so(tmp_path: Path) -> None:
    wander(tmp_path / "first", 1)
    with pytest.warns(SaliencyWarning, match=r"the evidence .*grid=4"):
        wander(tmp_path / "second", 2, tmp_path / "first" / "epoch=0.ckpt", grid=5)


def test_training_is_untouched(tmp_path: Path) -> None:
    methods = SaliencyCallback(
        [Gradient()], samples=8, evidence=Evidence(4), on_error="raise", name="with_maps"
    )
    plain, watched = (
        fit(tmp_path / str(len(callbacks)), *callbacks).lightning_module.state_dict()
        for callbacks in ([], [evidence(), methods])
    )
    for name, value in plain.items():
        assert torch.equal(value, watched[name]), name


def test_beside_maps_it_says_which_of_them_lie_on_the_evidence(tmp_path: Path) -> None:
    callback = SaliencyCallback(
        [Gradient(), GradCAM()], samples=8, evidence=Evidence(4), target=("label", 2), log="full"
    )
    fit(tmp_path, callback)
    logged = numbers(tmp_path, "saliency_evidence")
    overlaps = {tag for tag in logged if "_overlap/" in tag}
    assert overlaps == {
        f"saliency_evidence_overlap/{name}/{choice}"
        for name in ("gradient", "grad_cam", "even")
        for choice in ("label", "2")
    }
    assert all(0 <= value <= 1 for tag in overlaps for value in logged[tag])
    assert TAG + "kind_fine" in logged
    assert "saliency_evidence/2/kind_fine" in logged
    basic = SaliencyCallback(Gradient(), samples=8, evidence=Evidence(4))
    trainer = fit(tmp_path / "basic", basic)
    assert not any("_overlap/" in tag for tag in numbers(tmp_path / "basic", "saliency_evidence"))
    assert "saliency_evidence_overlap/gradient" in trainer.callback_metrics


def test_it_is_measured_every_so_often(tmp_path: Path) -> None:
    callback = SaliencyCallback(Gradient(), samples=8, evidence=Evidence(4, every=2))
    fit(tmp_path, callback, max_epochs=5)
    logged = numbers(tmp_path)
    assert len(numbers(tmp_path, TAG)[TAG + "kind_low"]) == 3
    assert len(logged["saliency_drift/gradient/previous"]) == 4


def test_the_budget_holds_it_back(tmp_path: Path) -> None:
    with pytest.warns(SaliencyWarning, match="Nothing was explained"):
        fit(tmp_path, evidence(max_overhead=1e-6))
    assert not numbers(tmp_path, TAG)


def test_it_can_be_monitored_before_there_is_a_gain(tmp_path: Path) -> None:
    stopper = EarlyStopping(TAG + "place_gain", patience=99)
    fit(tmp_path, evidence(), stopper)
    assert stopper.wait_count > 0


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_at_every_precision(tmp_path: Path, precision: Any) -> None:
    fit(tmp_path, evidence(), precision=precision)
    kinds = [numbers(tmp_path, TAG)[f"{TAG}kind_{name}"][-1] for name in CONTENTS]
    assert sum(kinds) == pytest.approx(1.0, abs=1e-3)


def test_validate_alone(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, evidence(target="predicted"))
    trainer.validate(TinyModule(), val_loader(), verbose=False)
    found = [
        trainer.callback_metrics[f"saliency_evidence/predicted/kind_{name}"] for name in CONTENTS
    ]
    assert float(sum(found)) == pytest.approx(1)


# --- samples and labels -------------------------------------------------------------------------


def given(labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
    images = dataset(12, seed=2).tensors[0]
    return images[: 8 if labels is None else len(labels)], labels


def test_samples_of_one_class_are_filled_in_alone_and_it_is_said(tmp_path: Path) -> None:
    samples = given(torch.full((8,), 3))
    listener = Rounds()
    with pytest.warns(SaliencyWarning, match="all of one class") as caught:
        fit(tmp_path, evidence(samples=samples), listener)
    assert sum("all of one class" in str(each.message) for each in caught) == 1
    trainer = fit(tmp_path / "fill", evidence(samples=samples, probes="fill"), other := Rounds())
    assert trainer.current_epoch == 2
    pair = (each.found[-1].evidence["label"].now.place for each in (listener, other))
    assert torch.equal(*pair)


def second_logit(output: Tensor) -> Tensor:
    return output[:, 2]


def test_a_callable_is_scored_as_it_is(tmp_path: Path) -> None:
    listener = Rounds()
    trainer = fit(tmp_path, evidence(target=second_logit, probes="fill"), listener, max_epochs=1)
    images = dataset(12, seed=2).tensors[0][:8]
    direct = measure_evidence(trainer.lightning_module, images, second_logit, 4, "fill")
    found = listener.found[0].evidence["second_logit"].now
    assert torch.allclose(found.place, direct.place, atol=1e-6, equal_nan=True)
    assert "saliency_evidence/second_logit/kind_low" in numbers(tmp_path, "saliency_evidence")


class Signed(nn.Module):
    def __init__(self, network: nn.Module, sign: float) -> None:
        super().__init__()
        self.network, self.sign = network, sign

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images) * self.sign


class WithSign(TinyModule):
    """Takes something beside the image, which says what its logits are worth."""

    def forward(self, images: Tensor, sign: Tensor) -> Tensor:
        return super().forward(images) * sign[:, None]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self(*batch[0]).square().mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self(*batch[0])


def with_sign(count: int) -> DataLoader[Any]:
    images, labels = dataset(count, seed=2).tensors
    sign = 1.0 - 2.0 * (torch.arange(count) % 2)
    return DataLoader(
        [((image, s), label) for image, s, label in zip(images, sign, labels, strict=True)], 4
    )


def test_each_sample_keeps_its_further_inputs(tmp_path: Path) -> None:
    callback = evidence(
        unpack=lambda batch: (batch[0][0], batch[1], None, batch[0][1]), probes="fill"
    )
    trainer = make_trainer(tmp_path, callback, listener := Rounds(), max_epochs=1)
    trainer.fit(WithSign(), with_sign(8), with_sign(8))
    network = trainer.lightning_module.net
    images, labels = dataset(8, seed=2).tensors
    found = listener.found[0].evidence["label"].now
    for index, sign in enumerate([1.0, -1.0] * 4):
        # As if that sample alone were measured, by a network that knows its input.
        model = Signed(network, sign)
        direct = measure_evidence(
            model, images[[index]], int(labels[index]), 4, "fill", partners=None
        )
        assert torch.allclose(found.place[index], direct.place[0], atol=1e-5, equal_nan=True)


def sign_of_red(module: TinyModule, images: Tensor) -> Tensor:
    red = images[:, :1].mean((2, 3))
    return torch.cat([red, -red], 1)


def test_without_labels_the_predictions_tell_who_is_exchanged(tmp_path: Path) -> None:
    samples = given(None)
    callback = evidence(samples=samples, target="predicted", forward=sign_of_red)
    fit(tmp_path, callback)
    partners = callback.state_dict()["evidence"]["partners"]
    red = samples[0][:, 0].mean((1, 2)) > 0
    assert bool((red[partners] != red).all())
    assert "saliency_evidence/predicted/kind_level" in numbers(tmp_path, "saliency_evidence")


def test_several_classes_at_once_are_scored_by_the_logit(tmp_path: Path) -> None:
    labels = (torch.arange(40).view(8, 5) % 3 == 0).float()
    trainer = fit(tmp_path, evidence(samples=given(labels), target=1), listener := Rounds())
    partners = torch.stack(
        [
            others[i % len(others)]
            for i, others in enumerate(
                [(labels[:, 1] != label).nonzero().flatten() for label in labels[:, 1]]
            )
        ]
    )
    direct = measure_evidence(
        trainer.lightning_module, given(labels)[0], 1, 4, score="logit", partners=partners
    )
    found = listener.found[-1].evidence["1"].now
    assert torch.allclose(found.place, direct.place, atol=1e-6, equal_nan=True)


def red(images: Tensor) -> Tensor:
    return images[:, :1].mean((2, 3))


HEADS: dict[str, tuple[Any, Any]] = {
    "softmax": ("label", lambda value: torch.cat([value, -value], 1)),
    "predicted": ("predicted", lambda value: torch.cat([value, -value], 1)),
    "one unit": ("label", lambda value: value),
    "one place": ("label", lambda value: torch.cat([value, -value], 1)[..., None, None]),
    "several at once": (1, lambda value: torch.cat([torch.full_like(value, 9.0), value], 1)),
}


@pytest.mark.parametrize("strength", [50.0, 0.1], ids=["knows", "guesses"])
@pytest.mark.parametrize("head", HEADS)
def test_whether_predictions_tell_the_samples_apart(
    tmp_path: Path, head: str, strength: float
) -> None:
    target, output = HEADS[head]
    images = given(None)[0]
    labels = torch.arange(8) % 2
    if head == "several at once":
        labels = torch.stack([torch.ones(8).long(), labels], 1).float()
    callback = evidence(
        samples=(images, labels),
        target=target,
        forward=lambda module, images: output(strength * red(images)),
    )
    fit(tmp_path, callback, listener := Rounds(), max_epochs=4)
    (change,) = listener.found[-1].evidence.values()
    assert change.before is not None
    assert change.knew == (strength > 1)


def same_everywhere(module: TinyModule, images: Tensor) -> Tensor:
    return 0 * images[:, :2] + module.net(images)[:, :2, None, None]


@pytest.mark.parametrize("target", [0, second_logit], ids=["score maps", "callable"])
def test_where_nobody_can_say_it_is_taken_for_granted(tmp_path: Path, target: Any) -> None:
    forward = same_everywhere if target == 0 else None
    callback = evidence(samples=given(torch.arange(8) % 2), target=target, forward=forward)
    fit(tmp_path, callback, listener := Rounds(), max_epochs=4)
    assert all(change.knew for change in listener.found[-1].evidence.values())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"samples": 3}, "at least 4 samples"),
        ({"grid": 0}, "2 to 16"),
        ({"grid": 9}, "at least 18 x 18"),
        ({"samples": (torch.zeros(8, 3, 16, 16), None)}, "Expected labels"),
    ],
)
def test_what_cannot_be_measured_is_said_before_training(
    tmp_path: Path, settings: dict[str, Any], words: str
) -> None:
    module = TinyModule()
    with pytest.raises(InputError, match=words):
        make_trainer(tmp_path, evidence(**settings)).fit(module, train_loader(), val_loader())
    assert module.steps == 0


def test_settings_that_are_none() -> None:
    with pytest.raises(InputError, match="Expected evidence to be Evidence"):
        SaliencyCallback(Gradient(), evidence=True)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="at least one attribution method"):
        SaliencyCallback([])


def test_two_callbacks_with_the_same_tags(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"EvidenceCallback.*name='second'"):
        fit(tmp_path, evidence(), evidence())
    fit(tmp_path, evidence(), evidence(name="second"))
    assert numbers(tmp_path, "second/" + TAG)


class Fails(TinyModule):
    """Does not take as many pictures at once as the evidence needs."""

    def forward(self, images: Tensor) -> Tensor:
        if len(images) > 8:
            raise RuntimeError("too many")
        return super().forward(images)


def test_a_failure_does_not_end_the_run(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, evidence(on_error="warn"), max_epochs=5)
    with pytest.warns(SaliencyWarning, match="too many") as caught:
        trainer.fit(Fails(), train_loader(), val_loader())
    said = [str(each.message) for each in caught if "too many" in str(each.message)]
    assert len(said) == 3
    assert "nothing more is explained" in said[-1]
    assert trainer.current_epoch == 5


# --- what follows the evidence -------------------------------------------------------------------


def shares_of(*rows: list[float]) -> EvidenceShares:
    table = torch.tensor(rows)
    return EvidenceShares(table, table)


def test_a_gain_by_hand() -> None:
    before = torch.tensor([[0.1, 0.4, 0.3, 0.2], [0.1, 0.2, 0.3, 0.4], [float("nan")] * 4])
    now = torch.tensor([[0.6, 0.2, 0.1, 0.1], [0.4, 0.1, 0.5, 0.0], [0.25] * 4])
    place, kind = Gain.of(before, now, True), Gain.of(before, now, False)
    mean = (now[0] + now[1] + now[2]) / 3
    assert place.value == kind.value == pytest.approx(float(mean[0]) - 0.1)
    assert (place.index, place.parts, place.rose, place.count) == (0, (0,), 2, 2)
    assert (place.before, place.now) == (pytest.approx(0.1), pytest.approx(float(mean[0])))
    assert place.probability == 0.25
    nothing = Gain.of(before[2:], now[2:], True)
    assert (nothing.index, nothing.parts, nothing.value == nothing.value) == (-1, (), False)


def test_the_tracker_compares_with_three_ago_and_keeps_little() -> None:
    tracker = EvidenceTracker(start=1)
    for epoch in range(200):
        rows = torch.softmax(torch.randn(4, 16), 1)
        change = tracker.advance("label", EvidenceShares(rows, rows[:, :5]), epoch)
        assert change.epochs == (epoch - 3 if epoch >= 3 else epoch, epoch)
    state = tracker.state_dict()
    assert len(state["recent"]) == 4
    assert len(state["history"]) <= 16
    assert state["pinned"]["epoch"] == 1


def test_the_tracker_says_whether_the_model_knew_something_three_ago() -> None:
    shares = EvidenceShares(torch.rand(4, 16), torch.rand(4, 5))
    knows = [True, False, False, True, True]
    tracker = EvidenceTracker()
    found = [tracker.advance("label", shares, e, knows=each) for e, each in enumerate(knows)]
    # As long as there is nothing to compare with, nobody can say.
    assert [each.knew for each in found] == [True, True, True, True, False]
    state = tracker.state_dict()
    again, old = EvidenceTracker(), EvidenceTracker()
    again.load_state_dict(state)
    assert not again.advance("label", shares, 5).knew
    for each in state["recent"]:
        del each["knows"]
    old.load_state_dict(state)
    assert old.advance("label", shares, 5).knew


def test_the_best_profile_is_pinned() -> None:
    tracker = EvidenceTracker(follows_best=True)
    one, other = shares_of([1.0, 0, 0, 0]), shares_of([0, 1.0, 0, 0])
    tracker.advance("label", one, 0)
    assert tracker.advance("label", one, 1, best=0.5).moved["pinned"] == 0.0
    assert tracker.advance("label", other, 2, best=0.5).moved["pinned"] == 1.0
    assert tracker.advance("label", other, 3, best=0.4).moved["pinned"] == 0.0


@several_processes
@pytest.mark.slow
@pytest.mark.parametrize("samples", [[4, 1, 9, 2, 7], 6], ids=["by index", "the first"])
def test_two_processes_log_what_one_logs(tmp_path: Path, samples: Any) -> None:
    for processes in (1, 2):
        several = {"strategy": "ddp_fork", "devices": processes} if processes > 1 else {}
        torch.manual_seed(0)
        trainer = make_trainer(
            tmp_path / str(processes),
            evidence(samples=samples),
            max_epochs=4,
            precision="64-true",
            **several,
        )
        trainer.fit(Still(), train_loader(), val_loader())
    alone, shared = (numbers(tmp_path / str(processes), TAG) for processes in (1, 2))
    assert alone.keys() == shared.keys() == {TAG + name for name in NUMBERS}
    for tag, values in alone.items():
        assert shared[tag] == pytest.approx(values, abs=1e-6), tag
