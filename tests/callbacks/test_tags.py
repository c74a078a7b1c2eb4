"""What is logged is what docs/tags.md says, tag by tag."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from small_runs import QUIET, events, fit
from torch import Tensor, nn

from lightning_saliency import SaliencyCallback
from lightning_saliency.attribution import GradCAM, Gradient
from lightning_saliency.callbacks.tags import names_of
from lightning_saliency.metrics import MEASURES

pytestmark = QUIET

PAGE = Path(__file__).parents[2] / "docs" / "tags.md"
SERIES, SAMPLES = ["gradient", "grad_cam"], 3
LEVELS: list[Any] = ["basic", "full"]
STANDS_FOR = {
    "method": SERIES,
    "i": [str(index) for index in range(SAMPLES)],
    "reference": ["previous", "pinned"],
    "measure": list(MEASURES),
    "similarity": list(MEASURES)[:3],
}
# Where TensorBoard's reader keeps what a tab shows.
KINDS = {"Images": "images", "Scalars": "scalars", "Text": "tensors", "Histograms": "histograms"}


def documented(heading: str) -> Iterator[tuple[str, str, str]]:
    """Yield kind, when and tag of each row of a table, the placeholders filled in."""
    section = PAGE.read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    for row in re.findall(r"^\| `(.+?)` \| (.+?) \| (.+?) \| .+ \|$", section, re.MULTILINE):
        pattern, tab, when = row
        names = list(dict.fromkeys(re.findall("<(.+?)>", pattern)))
        if not set(names) <= set(STANDS_FOR) or tab not in KINDS:
            continue
        for chosen in product(*(STANDS_FOR[name] for name in names)):
            tag = pattern
            for name, value in zip(names, chosen, strict=True):
                tag = tag.replace(f"<{name}>", value)
            yield KINDS[tab], when, tag + ("/text_summary" if tab == "Text" else "")


def logged(folder: Path) -> set[tuple[str, str]]:
    found = events(folder).Tags()
    return {
        (kind, tag)
        for kind in KINDS.values()
        for tag in found[kind]
        if tag.startswith("saliency") and "/hparams" not in tag
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("run")
    for log in LEVELS:
        fit(
            run / log,
            SaliencyCallback([Gradient(), GradCAM("net.features")], samples=SAMPLES, log=log),
            max_epochs=3,
        )
    return run


class Plain:
    """A method of which there can be many."""

    def __init__(self, number: int) -> None:
        self.__name__ = f"plain_{number}"

    def __call__(self, model: nn.Module, image: Tensor, target: Any) -> Tensor:
        return image.mean(1, keepdim=True) * model(image).sum()


@pytest.mark.parametrize(("methods", "count"), [(1, 5), (2, 8), (9, 29), (12, 38)])
def test_how_many_numbers_are_added_to_the_users_own(
    tmp_path: Path, methods: int, count: int
) -> None:
    several = [Plain(number) for number in range(methods)]
    fit(tmp_path, SaliencyCallback(several, samples=2), max_epochs=2)
    assert len([tag for kind, tag in logged(tmp_path) if kind == "scalars"]) == count


def test_a_run_logs_exactly_the_documented_tags(folder: Path) -> None:
    always = {(kind, tag) for kind, _, tag in documented("Always")}
    sometimes = {(kind, tag): when for kind, when, tag in documented("Sometimes")}
    several = {key for key, when in sometimes.items() if when.startswith("there are several")}
    assert len([tag for kind, tag in always if kind == "scalars"]) == 8
    assert several == {("images", "saliency/methods")}
    assert logged(folder / "basic") == always | several


def test_a_full_run_logs_exactly_what_is_documented_for_it(folder: Path) -> None:
    found = logged(folder / "full") - logged(folder / "basic")
    more = {(kind, tag): when for kind, when, tag in documented('With log="full"')}
    now_and_then = {
        key
        for key, when in more.items()
        if when.startswith(("a prediction has", "RISE", "extremal", "compared, some"))
    }
    assert more.keys() - now_and_then <= found
    assert found <= more.keys()


def test_each_picture_is_logged_once_for_each_explanation(folder: Path) -> None:
    found = events(folder / "full")
    # Pictures of the sanity check would be at step 0.
    validated = [event.step for event in found.Scalars("val_loss")]
    assert validated == [3, 7, 11]
    starts = {"each explanation": 0, "compared": 1}
    for kind, when, tag in [*documented("Always"), *documented('With log="full"')]:
        if when in starts:
            # Tensors are texts; the reader has one way for each kind.
            read = {"images": found.Images, "scalars": found.Scalars}.get(kind)
            read = read or {"tensors": found.Tensors, "histograms": found.Histograms}[kind]
            assert [event.step for event in read(tag)] == validated[starts[when] :], tag


def test_the_pictures_are_one_section_in_reading_order(folder: Path) -> None:
    tags = sorted(tag for kind, tag in logged(folder / "basic") if kind == "images")
    assert {tag.partition("/")[0] for tag in tags} == {"saliency"}
    order = list(dict.fromkeys(tag.split("/")[1] for tag in [*tags, "saliency/alarm/m"]))
    assert sorted(order) == ["alarm", "filmstrip", "methods", "pinned", "samples", "timelapse"]


@pytest.mark.parametrize("log", ["basic", "full"])
def test_all_numbers_can_be_monitored_whatever_is_logged(tmp_path: Path, log: Any) -> None:
    callback = SaliencyCallback(Gradient(), samples=SAMPLES, log=log)
    metrics = fit(tmp_path, callback, max_epochs=3).callback_metrics
    # Only where a prediction has changed, or none has.
    seldom = ("saliency_drift_flipped/", "saliency_drift_stable/")
    names = [name for tag in callback.tags for name in names_of(tag) if not tag.startswith(seldom)]
    assert len(names) > 40
    assert [name for name in names if name not in metrics] == []
