"""What is logged is what docs/tags.md says, tag by tag."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
from small_runs import QUIET, events, fit

from lightning_saliency import SaliencyCallback
from lightning_saliency.attribution import GradCAM, Gradient
from lightning_saliency.metrics import MEASURES

pytestmark = QUIET

PAGE = Path(__file__).parents[2] / "docs" / "tags.md"
SERIES, SAMPLES = ["gradient", "grad_cam"], 3
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
    fit(run, SaliencyCallback([Gradient(), GradCAM("net.features")], samples=SAMPLES))
    return run


def test_a_run_logs_exactly_the_documented_tags(folder: Path) -> None:
    found = logged(folder)
    always = {(kind, tag) for kind, _, tag in documented("Always")}
    sometimes = {(kind, tag): when for kind, when, tag in documented("Sometimes")}
    several = {key for key, when in sometimes.items() if when.startswith("there are several")}
    flipped = {key for key, when in sometimes.items() if when == "a prediction has changed"}
    assert len(always) == 87
    assert len(several) == SAMPLES
    assert always <= found
    assert several <= found
    assert found - always - several <= flipped


def test_each_picture_is_logged_once_for_each_explanation(folder: Path) -> None:
    found = events(folder)
    # Pictures of the sanity check would be at step 0.
    validated = [event.step for event in found.Scalars("val_loss")]
    assert validated == [3, 7]
    ours = {tag for tag in found.Tags()["images"] if tag.startswith("saliency/")}
    assert ours == {
        f"saliency/{series}/sample_{index}"
        for series in (*SERIES, "compare")
        for index in range(SAMPLES)
    }
    for tag in ours:
        assert [event.step for event in found.Images(tag)] == validated, tag
    for kind, when, tag in documented("Always"):
        if when == "each explanation":
            # Tensors are texts; the reader has one way for each kind.
            read = {"images": found.Images, "scalars": found.Scalars}.get(kind)
            read = read or {"tensors": found.Tensors, "histograms": found.Histograms}[kind]
            assert [event.step for event in read(tag)] == validated, tag
