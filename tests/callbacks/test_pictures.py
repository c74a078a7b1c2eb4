"""What a series of pictures shares over a run, drawn from explanations made by hand."""

from io import BytesIO
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_saliency.attribution import GradCAM, Gradient
from lightning_saliency.callbacks import pictures as pictures_file
from lightning_saliency.callbacks.explanation import Explanation
from lightning_saliency.callbacks.pictures import Pictures
from lightning_saliency.callbacks.strip import Kept, Strip
from lightning_saliency.errors import InputError
from lightning_saliency.metrics.map_statistics import canonical
from lightning_saliency.metrics.movement import movement
from lightning_saliency.rendering import (
    ColorScale,
    heatmap,
    methods_picture,
    overlay,
    panel,
    to_bytes,
)

SIDE = 16


def images(count: int = 2) -> Tensor:
    return torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def maps(seed: int = 0, count: int = 2, signed: bool = False) -> Tensor:
    drawn = torch.randn(count, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
    return drawn if signed else drawn.abs()


def explanation(saliency: Tensor, predicted: int | None = None) -> Explanation:
    """Return an explanation of classes 0, 1, ..., the predicted ones unless another is given."""
    target = torch.arange(len(saliency))
    return Explanation(
        saliency=saliency,
        target=target,
        predicted=target if predicted is None else torch.full_like(target, predicted),
        probability=torch.full((len(saliency),), 0.934),
        log_probability=torch.full((len(saliency),), 0.934).log(),
    )


def drawn(pictures: Pictures, saliency: Tensor, epoch: int = 0, **settings: Any) -> list[Tensor]:
    """Draw one series, ``"cam"``, and return the panels."""
    made = explanation(saliency, **settings)
    return [p for _, p in pictures.draw(images(len(saliency)), {"cam": made}, epoch)]


def recorded(
    pictures: Pictures,
    saliency: Tensor,
    epoch: int = 0,
    moved: Tensor | None = None,
    labels: Tensor | None = None,
    **settings: Any,
) -> None:
    """Add maps to the filmstrip of the series ``"cam"``."""
    made = explanation(saliency, **settings)
    pictures.record("cam", images(len(saliency)), made, epoch, moved, labels)


def state_of(pictures: Pictures) -> Any:
    """Return the state as it comes back from a checkpoint."""
    file = BytesIO()
    torch.save(pictures.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.fixture
def captions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The captions of the panels, as they are drawn."""
    lines: list[str] = []

    def noted(*args: Any) -> Tensor:
        lines.extend(args[3])
        return panel(*args)

    monkeypatch.setattr(pictures_file, "panel", noted)
    return lines


# --- what is drawn ----------------------------------------------------------------------------


def test_one_series_has_a_panel_for_each_sample() -> None:
    tags = [tag for tag, _ in Pictures().draw(images(), {"cam": explanation(maps())}, 0)]
    assert tags == ["saliency/samples/cam/0", "saliency/samples/cam/1"]


def test_several_series_also_stand_side_by_side() -> None:
    series = {"gradient": explanation(maps(0)), "cam/predicted": explanation(maps(1))}
    tags = [tag for tag, _ in Pictures().draw(images(), series, 0)]
    assert tags == [
        "saliency/samples/gradient/0",
        "saliency/samples/gradient/1",
        "saliency/samples/cam/predicted/0",
        "saliency/samples/cam/predicted/1",
        "saliency/methods",
    ]


def test_the_panels_are_those_of_the_maps() -> None:
    series = {"gradient": explanation(maps(0, signed=True)), "cam": explanation(maps(1))}
    shown = dict(Pictures().draw(images(), series, 4))
    heats, laid = {}, {}
    for name, signed in (("gradient", True), ("cam", False)):
        saliency = series[name].saliency
        strongest = float(saliency.double().abs().mean((1, 2, 3)).max())
        heat = heatmap(saliency, ColorScale(reference=strongest), signed)
        laid[name] = to_bytes(overlay(images(), heat), 40)
        heats[name] = heat.as_bytes(40)
    inputs = to_bytes(images(), 40)
    for index in range(2):
        caption = [f"epoch 4: class {index} (0.93), predicted"]
        for name, heat in heats.items():
            expected = panel(inputs[index], heat[index], laid[name][index], caption, name)
            assert torch.equal(shown[f"saliency/samples/{name}/{index}"], expected)
    rows = ["0: class 0", "1: class 1"]
    expected = methods_picture(inputs, heats, laid, rows, "methods, epoch 4")
    assert torch.equal(shown["saliency/methods"], expected)


def test_images_are_shown_as_before_normalising() -> None:
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    normal = (images() - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(Pictures(mean, std).show(normal), images())
    made = {"cam": explanation(maps())}
    plain = dict(Pictures().draw(images(), made, 0))
    undone = dict(Pictures(mean, std).draw(normal, made, 0))
    for tag, picture in plain.items():
        torch.testing.assert_close(undone[tag], picture, rtol=0, atol=1.01 / 255)


@pytest.mark.parametrize("given", [{"mean": (0.5,)}, {"std": (0.5,)}])
def test_half_of_a_normalisation_is_an_error(given: Any) -> None:
    with pytest.raises(InputError, match="both mean and std"):
        Pictures(**given)


# --- captions ---------------------------------------------------------------------------------


def test_a_caption_names_another_prediction(captions: list[str]) -> None:
    drawn(Pictures(), maps(count=3), epoch=12, predicted=1)
    assert captions == [
        "epoch 12: class 0 (0.93), predicted: class 1",
        "epoch 12: class 1 (0.93), predicted",
        "epoch 12: class 2 (0.93), predicted: class 1",
    ]


def test_classes_are_named(captions: list[str]) -> None:
    # There are fewer names than classes.
    drawn(Pictures(class_names=["cat", "dog"]), maps(count=3), predicted=0)
    assert captions == [
        "epoch 0: cat (0.93), predicted",
        "epoch 0: dog (0.93), predicted: cat",
        "epoch 0: class 2 (0.93), predicted: cat",
    ]


def test_an_empty_map_of_a_rectified_method_says_why(captions: list[str]) -> None:
    nothing = explanation(torch.zeros(1, 1, SIDE, SIDE))
    pictures = Pictures()
    pictures.when_zero = {"grad_cam/predicted": GradCAM.when_zero, "gradient": Gradient.when_zero}
    for name in pictures.when_zero:
        dict(pictures.draw(images(1), {name: nothing}, 0))
    assert [line for line in captions if "zero" in line] == ["zero: all evidence negative"]


# --- what is settled once ---------------------------------------------------------------------


def settled(pictures: Pictures) -> tuple[Any, bool]:
    entry = pictures.state_dict()["cam"]
    return entry["scale"], entry["signed"]


def test_scale_and_sign_are_those_of_the_first_maps() -> None:
    pictures = Pictures()
    drawn(pictures, maps(0))
    first = settled(pictures)
    reference = float(maps(0).double().mean((1, 2, 3)).max())
    assert first == ({"unit": "share", "full": 16.0, "reference": pytest.approx(reference)}, False)
    drawn(pictures, 9 * maps(1, signed=True), 1)
    assert settled(pictures) == first


NOTHING = [torch.zeros(2, 1, SIDE, SIDE), torch.full((2, 1, SIDE, SIDE), -0.5)]
NOTHING.append(torch.full((2, 1, SIDE, SIDE), float("nan")))


@pytest.mark.parametrize("nothing", NOTHING, ids=["zero", "constant", "NaN"])
@pytest.mark.parametrize("signed", [False, True])
def test_maps_that_show_nothing_settle_nothing(nothing: Tensor, signed: bool) -> None:
    late, prompt = Pictures(), Pictures()
    drawn(late, nothing)
    assert settled(late) == (None, False)
    assert torch.equal(
        drawn(late, maps(1, signed=signed), 1)[0], drawn(prompt, maps(1, signed=signed), 1)[0]
    )
    assert settled(late) == settled(prompt)
    assert settled(late)[1] == signed


def test_a_map_that_shows_nothing_has_no_say_beside_one_that_does() -> None:
    mixed = maps()
    mixed[1] = -0.5
    pictures = Pictures()
    drawn(pictures, mixed)
    assert settled(pictures)[1] is False


def test_each_series_has_its_own() -> None:
    pictures = Pictures()
    series = {"a": explanation(maps(0)), "b": explanation(5 * maps(1, signed=True))}
    dict(pictures.draw(images(), series, 0))
    state = pictures.state_dict()
    assert (state["a"]["signed"], state["b"]["signed"]) == (False, True)
    assert state["b"]["scale"]["reference"] > 4 * state["a"]["scale"]["reference"]


# --- the filmstrip and its state --------------------------------------------------------------


def test_a_restored_run_goes_on_as_if_it_had_not_stopped() -> None:
    whole, part = Pictures(), Pictures()
    for epoch in range(3):
        recorded(whole, maps(epoch), epoch)
        recorded(part, maps(epoch), epoch)
    for pictures in (whole, part):
        pictures.mark_alarm("cam")
        pictures.set_loss(0.5, "val loss")
    rest = Pictures()
    rest.load_state_dict(state_of(part))
    for epoch in (3, 4):
        for pictures in (whole, rest):
            recorded(pictures, maps(epoch, signed=True), epoch)
            pictures.set_loss(0.1 * epoch, "val loss")
    assert torch.equal(whole.filmstrip("cam"), rest.filmstrip("cam"))
    assert [film for _, film in whole.films()] == [film for _, film in rest.films()]


def test_painted_filmstrips_of_the_first_version_are_refused() -> None:
    before = Pictures()
    recorded(before, maps())
    old = {"cam": {"scale": None, "signed": False, "count": 1, "frames": {}, "epochs": {0: 0}}}
    with pytest.raises(ValueError, match=r"version 0\.1"):
        before.load_state_dict(old)
    # Nothing has changed.
    assert before.filmstrip("cam").shape[2] == 700


def test_a_state_before_anything_was_settled() -> None:
    before = Pictures()
    recorded(before, NOTHING[0])
    after = Pictures()
    after.load_state_dict(state_of(before))
    assert settled(after) == (None, False)
    recorded(after, maps(), 1)
    assert settled(after)[0] is not None


def test_a_long_run_keeps_few_maps_and_all_of_its_curve() -> None:
    pictures = Pictures()
    for epoch in range(40):
        recorded(pictures, maps(epoch, count=1), epoch)
    entry = state_of(pictures)["cam"]
    assert entry["count"] == 40
    # The last but one is shown if an alarm sounds.
    assert list(entry["kept"]) == [*range(0, 40, 4), 38, 39]
    assert [kept["epoch"] for kept in entry["kept"].values()] == list(entry["kept"])
    assert [number for number, _, _ in entry["points"]] == list(range(40))
    file = BytesIO()
    torch.save(pictures.state_dict(), file)
    # Twelve maps of 16 x 16 in half precision, and little else.
    assert len(file.getvalue()) < 12 * (2 * 16 * 16 + 2048) + 8000


def test_maps_of_any_size_are_kept_as_small_as_drift_compares_them() -> None:
    pictures = Pictures()
    large = torch.rand(1, 1, 224, 112, generator=torch.Generator().manual_seed(0))
    pictures.record("cam", images(1), explanation(large), 0)
    (kept,) = state_of(pictures)["cam"]["kept"].values()
    assert kept["shares"].shape == (1, 1, 64, 32)
    assert kept["shares"].dtype == torch.half
    # Tiny gradients do not vanish in half precision.
    pictures.record("tiny", images(1), explanation(1e-12 * large), 0)
    strip = pictures._strips["tiny"]
    torch.testing.assert_close(
        strip.kept[0].maps, 1e-12 * canonical(large).double(), rtol=1e-3, atol=0
    )


def test_curves_of_thousands_of_epochs_do_not_grow() -> None:
    strip = Strip()
    kept = Kept.of(maps(count=1), torch.zeros(1).long(), 0)
    for _ in range(3000):
        strip.add(kept, torch.tensor([0.5]))
    assert len(strip.points) <= 256
    assert strip.points[-1].number == 2999
    assert strip.points[0].number == 0


def test_an_alarm_and_the_epoch_before_it_stay() -> None:
    strip = Strip()
    for number in range(60):
        strip.add(Kept.of(maps(count=1), torch.zeros(1).long(), number))
        if number in (13, 31):
            strip.mark_alarm()
    assert {12, 13, 30, 31} <= set(strip.shown)
    assert len(strip.shown) == 8


def test_many_alarms_keep_few_maps() -> None:
    strip = Strip()
    for number in range(200):
        strip.add(Kept.of(maps(count=1), torch.zeros(1).long(), number))
        if number % 3 == 0:
            strip.mark_alarm()
    assert len(strip.kept) <= 16 + 1 + 6
    assert len(strip.alarms) == 3


def test_the_rows_are_those_that_moved_most_in_their_order() -> None:
    pictures = Pictures()
    before = maps(0, count=12)
    now = before.clone()
    now[[9, 2, 4]] = before[[9, 2, 4]].flip(3)
    now[11] = 0
    recorded(pictures, before)
    recorded(pictures, now, 1, moved=movement(before, now))
    assert pictures._strips["cam"].most_moved(4) == [2, 4, 9, 11]
    assert pictures.filmstrip("cam").shape[2] == 700


def test_an_empty_map_that_was_not_empty_has_moved_altogether() -> None:
    some, nothing = maps(count=1), torch.zeros(1, 1, SIDE, SIDE)
    assert movement(some, nothing).tolist() == movement(nothing, some).tolist() == [1]
    assert movement(some, some).tolist() == [0]
    assert movement(nothing, nothing).isnan().all()


def test_wrong_and_changed_predictions_and_alarms_are_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Any] = []
    draw = pictures_file.filmstrip
    monkeypatch.setattr(
        pictures_file, "filmstrip", lambda *args: (seen.append(args), draw(*args))[1]
    )
    pictures = Pictures(class_names=["cat"])
    labels = torch.tensor([0, 1])
    for epoch, predicted in enumerate((0, 1)):
        recorded(pictures, maps(epoch), epoch, predicted=predicted, labels=labels)
    pictures.mark_alarm("cam")
    pictures.filmstrip("cam")
    _, columns, classes, numbers, title, *_ = seen[0]
    assert [list(column.wrong) for column in columns] == [[False, True], [True, False]]
    assert [list(column.flipped) for column in columns] == [[False, False], [True, True]]
    assert [column.alarm for column in columns] == [False, True]
    assert [column.label for column in columns] == ["0", "1"]
    assert all(0 < moved <= 1 for moved in columns[1].moved)
    assert (classes, numbers, title) == (["cat", "class 1"], [0, 1], "cam")


def test_without_labels_nothing_is_called_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    draw = pictures_file.filmstrip
    monkeypatch.setattr(
        pictures_file, "filmstrip", lambda *args: (seen.append(args), draw(*args))[1]
    )
    pictures = Pictures()
    recorded(pictures, maps(), predicted=3)
    pictures.filmstrip()
    assert not any(seen[0][1][0].wrong)


def test_the_filmstrip_by_name() -> None:
    pictures = Pictures()
    with pytest.raises(InputError, match="none yet"):
        pictures.filmstrip()
    for seed, name in enumerate("ab"):
        pictures.record(name, images(), explanation(maps(seed)), 0)
    assert torch.equal(pictures.filmstrip(), pictures.filmstrip("a"))
    assert not torch.equal(pictures.filmstrip("b"), pictures.filmstrip("a"))
    with pytest.raises(InputError, match=r"'a', 'b'.*got 'c'"):
        pictures.filmstrip("c")
