"""What a series of pictures shares over a run, drawn from explanations made by hand."""

from io import BytesIO
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_saliency.callbacks.explanation import Explanation
from lightning_saliency.callbacks.stages import images as pictures_file
from lightning_saliency.callbacks.stages.images import Pictures
from lightning_saliency.errors import InputError
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
    """Draw one series, ``"cam"``, and return the panels and the filmstrip."""
    made = explanation(saliency, **settings)
    return [p for _, p in pictures.draw(images(len(saliency)), {"cam": made}, epoch)]


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


def test_one_series_has_a_panel_for_each_sample_and_a_filmstrip() -> None:
    tags = [tag for tag, _ in Pictures().draw(images(), {"cam": explanation(maps())}, 0)]
    assert tags == ["saliency/samples/cam/0", "saliency/samples/cam/1", "saliency/filmstrip/cam"]


def test_several_series_also_stand_side_by_side() -> None:
    series = {"gradient": explanation(maps(0)), "cam/predicted": explanation(maps(1))}
    tags = [tag for tag, _ in Pictures().draw(images(), series, 0)]
    assert tags == [
        "saliency/samples/gradient/0",
        "saliency/samples/gradient/1",
        "saliency/filmstrip/gradient",
        "saliency/samples/cam/predicted/0",
        "saliency/samples/cam/predicted/1",
        "saliency/filmstrip/cam/predicted",
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
        laid[name] = to_bytes(overlay(images(), heat), 64)
        heats[name] = heat.as_bytes(64)
    inputs = to_bytes(images(), 64)
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


def test_the_rows_of_a_filmstrip_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[list[str]] = []
    strip = pictures_file.filmstrip
    monkeypatch.setattr(
        pictures_file, "filmstrip", lambda *args: (rows.append(args[1]), strip(*args))[1]
    )
    drawn(Pictures(class_names=["cat"]), maps())
    assert rows == [["0: cat", "1: class 1"]]


# --- what is settled once ---------------------------------------------------------------------


def settled(pictures: Pictures) -> tuple[Any, bool]:
    entry = pictures.state_dict()["cam"]
    return entry["scale"], entry["signed"]


def test_scale_and_sign_are_those_of_the_first_maps() -> None:
    pictures = Pictures()
    drawn(pictures, maps(0))
    first = settled(pictures)
    reference = float(maps(0).double().mean((1, 2, 3)).max())
    assert first == ({"unit": "share", "full": 10.0, "reference": pytest.approx(reference)}, False)
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
        drawn(whole, maps(epoch), epoch)
        drawn(part, maps(epoch), epoch)
    rest = Pictures()
    rest.load_state_dict(state_of(part))
    for epoch in (3, 4):
        for one, other in zip(
            drawn(whole, maps(epoch, signed=True), epoch),
            drawn(rest, maps(epoch, signed=True), epoch),
            strict=True,
        ):
            assert torch.equal(one, other)
    assert torch.equal(whole.filmstrip("cam"), rest.filmstrip("cam"))


def test_a_state_before_anything_was_settled() -> None:
    before = Pictures()
    drawn(before, NOTHING[0])
    after = Pictures()
    after.load_state_dict(state_of(before))
    assert settled(after) == (None, False)
    drawn(after, maps(), 1)
    assert settled(after)[0] is not None


def test_a_long_run_keeps_few_frames() -> None:
    pictures = Pictures()
    for epoch in range(40):
        drawn(pictures, maps(epoch, count=1), epoch)
    entry = state_of(pictures)["cam"]
    assert entry["count"] == 40
    assert list(entry["frames"]) == list(entry["epochs"]) == [*range(0, 40, 4), 39]
    assert list(entry["epochs"].values()) == [*range(0, 40, 4), 39]
    # Eleven frames of one picture of 64 x 64 pixels, and little else.
    file = BytesIO()
    torch.save(pictures.state_dict(), file)
    assert len(file.getvalue()) < 11 * (3 * 64 * 64 + 2048)


def test_the_filmstrip_by_name() -> None:
    pictures = Pictures()
    with pytest.raises(InputError, match="none yet"):
        pictures.filmstrip()
    series = {"a": explanation(maps(0)), "b": explanation(maps(1))}
    shown = dict(pictures.draw(images(), series, 0))
    assert torch.equal(pictures.filmstrip(), shown["saliency/filmstrip/a"])
    assert torch.equal(pictures.filmstrip("b"), shown["saliency/filmstrip/b"])
    with pytest.raises(InputError, match=r"'a', 'b'.*got 'c'"):
        pictures.filmstrip("c")
