"""The page about a run: what stands in it, what it needs, and what is refused before any work."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

sys.path.insert(0, str(Path(__file__).parents[1] / "callbacks"))

from small_runs import QUIET, events, fit

from lightning_saliency import DriftAlarm, SaliencyCallback, report
from lightning_saliency.attribution import RISE, GradCAM, Gradient
from lightning_saliency.errors import InputError
from lightning_saliency.history.map_files import map_files

pytestmark = [*QUIET, pytest.mark.filterwarnings("ignore:Epoch .*:UserWarning")]

NAMES = ["<b>cat</b>", "dog & <script>alert(1)</script>", "$x_$ \\frac", 'q" onload="x', "Ünï"]
EPOCHS = 7


def callback(**settings: Any) -> SaliencyCallback:
    chosen: dict[str, Any] = {"samples": 10, "save_maps": True, "class_names": NAMES, **settings}
    return SaliencyCallback([Gradient(), GradCAM()], on_error="raise", **chosen)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of seven epochs in which an alarm was raised."""
    folder = tmp_path_factory.mktemp("whole")
    alarm = DriftAlarm(warmup=1, window=4, factor=0.01, agree=1)
    with pytest.warns(UserWarning, match="Samples that moved most"):
        fit(folder, callback(), alarm, max_epochs=EPOCHS)
    return folder


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    import shutil

    shutil.copytree(run, tmp_path / "copy")
    return tmp_path / "copy" / "run"


class Page(HTMLParser):
    """What a browser would take from a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def says(self, words: str) -> bool:
        return self.count(words) > 0

    def count(self, words: str) -> int:
        return re.sub(r"\s+", " ", " ".join(self.text)).count(words)


def numbers(page: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(page.with_suffix(".json").read_text())
    return found


def test_the_numbers_are_those_of_the_run(run: Path, tmp_path: Path) -> None:
    page = report(run, tmp_path / "page.html")
    found = numbers(page)
    logged = events(run)
    for series in ("gradient", "grad_cam"):
        each = found["series"][series]
        drift = logged.Scalars(f"saliency_drift/{series}/previous")
        assert each["moved"][0] is None
        assert each["moved"][1:] == pytest.approx([one.value for one in drift], abs=1e-6)
        assert each["steps"][1:] == [one.step for one in drift]
        assert each["epochs"] == list(range(EPOCHS))
        assert len(each["samples"]) == 10
    flips = [one.value for one in logged.Scalars("saliency_target/flips")]
    assert [count / 10 for count in found["series"]["gradient"]["flips"][1:]] == flips
    (loss,) = found["loss"]
    assert loss["values"] == pytest.approx([e.value for e in logged.Scalars("val_loss")], abs=1e-5)
    texts = [tag for tag in logged.Tags()["tensors"] if tag.startswith("saliency_alarm/")]
    count = sum(len(logged.Tensors(tag)) for tag in texts)
    assert len(found["alarms"]) == count > 0
    for alarm in found["alarms"]:
        assert "looks elsewhere" in alarm["headline"]
        assert all(float(row[3]) > 1 for row in alarm["numbers"])


def test_right_and_wrong_are_told_apart(run: Path, tmp_path: Path) -> None:
    found = numbers(report(run, tmp_path / "page.html"))
    samples = found["series"]["gradient"]["samples"]
    for row in samples:
        # The labels follow the samples' order.
        assert row["class"] == NAMES[row["sample"] % 5]
        assert row["right"] is (row["predicted"] == row["class"])
    wrong = sum(not row["right"] for row in samples)
    assert found["series"]["gradient"]["wrong"][-1] == wrong
    assert f"{wrong} of 10 samples are wrong at the end" in found["sentence"]
    amounts = [row["moved"] for row in samples]
    assert amounts == sorted(amounts, reverse=True)


def test_it_needs_nothing_and_runs_nothing(run: Path, tmp_path: Path) -> None:
    page = report(run, tmp_path / "page.html")
    found = Page(page)
    assert {"script", "link", "iframe", "object", "embed", "base", "form"} & set(
        found.tags
    ) == set()
    for name, value in found.attributes:
        assert not name.startswith("on"), (name, value)
        if name in ("src", "href", "xlink:href", "action", "srcset", "data"):
            assert value.startswith(("data:image/png;base64,", "#")), value[:80]
        else:
            assert "//" not in value
    text = page.read_text()
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    assert "http:" not in text
    assert "https:" not in text
    assert ("content", "default-src 'none'; img-src data:; style-src 'unsafe-inline'") in (
        found.attributes
    )


def test_names_with_markup_are_text(run: Path, tmp_path: Path) -> None:
    found = Page(report(run, tmp_path / "page.html", title="<i>run</i> & co"))
    assert "i" not in found.tags[: found.tags.index("table")]
    # As title and as heading.
    assert found.count("<i>run</i> & co: what the network looked at") == 2
    for name in NAMES:
        assert found.says(name), name
    assert not any(name == "onload" for name, _ in found.attributes)


def test_everything_that_is_promised_is_there(run: Path, tmp_path: Path) -> None:
    found = Page(report(run, tmp_path / "page.html"))
    for words in (
        "Since epoch 5 the",
        "Loss and drift",
        "Filmstrip",
        "Samples that moved most, epoch",
        "at the alarm",
        "score (alarm above 1)",
        "All samples, last epoch",
        "How to read this",
        "Settings and versions",
        "TinyModule",
        "every_n_epochs",
    ):
        assert found.says(words), words
    assert found.tags.count("details") == 3
    assert found.tags.count("img") == 2 + 4
    assert found.tags.count("svg") == 1


def test_pages_of_equal_runs_are_equal(run: Path, tmp_path: Path) -> None:
    pages = [report(run, tmp_path / f"{number}.html") for number in range(2)]
    assert pages[0].read_bytes() == pages[1].read_bytes()


def test_the_loss_can_come_from_metrics_csv(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, name="csv", version="")
    with pytest.warns(UserWarning, match="none takes images"):
        fit(tmp_path, callback(), DriftAlarm(), logger=logger, max_epochs=3)
    found = numbers(report(tmp_path / "csv", tmp_path / "page.html"))
    assert [curve["name"] for curve in found["loss"]] == ["val_loss"]
    assert len(found["loss"][0]["values"]) == 3
    assert found["alarms"] == []
    assert "No alarm was raised." in found["sentence"]


def test_maps_without_any_log(copied: Path, tmp_path: Path) -> None:
    for path in copied.glob("*.tfevents.*"):
        path.unlink()
    for path in copied.rglob("samples.npz"):
        path.unlink()
    page = report(copied, tmp_path / "page.html")
    assert numbers(page)["alarms"] is None
    found = Page(page)
    assert found.says("no event file and no metrics.csv lies next to the maps")
    assert found.says("Whether an alarm was raised is not known.")


def test_maps_of_earlier_versions(copied: Path, tmp_path: Path) -> None:
    for path in copied.rglob("samples.npz"):
        path.unlink()
    page = report(copied, tmp_path / "page.html")
    found = Page(page)
    assert found.says("the right classes were not saved")
    assert found.says("class 3")
    assert numbers(page)["series"]["gradient"]["wrong"] is None


def test_a_run_of_one_explanation(tmp_path: Path) -> None:
    fit(tmp_path, callback(), max_epochs=1)
    found = Page(report(tmp_path, tmp_path / "page.html"))
    assert found.says("were made once, at epoch 0; ")
    assert found.says("No DriftAlarm watched the run.")
    assert not found.says("Samples that moved most")


def test_published_rise_is_shown_without_its_offset(tmp_path: Path) -> None:
    rise = SaliencyCallback(
        RISE(num_masks=30, preset="paper"), samples=3, save_maps=True, noise_every=None
    )
    fit(tmp_path, rise, max_epochs=2)
    from lightning_saliency.reporting.saved_run import read_run

    series = read_run(tmp_path).series["rise"]
    assert series.maps(1).amin((1, 2, 3)).tolist() == [0.0] * 3


@pytest.mark.parametrize("left", [0.2, 0.5, 0.9, 0.999])
def test_event_files_cut_off_in_the_middle(copied: Path, tmp_path: Path, left: float) -> None:
    (path,) = copied.glob("*.tfevents.*")
    content = path.read_bytes()
    whole = numbers(report(copied, tmp_path / "whole.html"))
    path.write_bytes(content[: int(left * len(content))])
    page = report(copied, tmp_path / "page.html")
    found = numbers(page)
    assert any("ends in the middle of a record" in note for note in found["notes"])
    assert Page(page).says("ends in the middle of a record")
    assert found["series"] == whole["series"]
    before = whole["loss"][0]["values"]
    after = found["loss"][0]["values"] if found["loss"] else []
    assert after == before[: len(after)]


def test_a_damaged_event_file_is_named(copied: Path, tmp_path: Path) -> None:
    (path,) = copied.glob("*.tfevents.*")
    content = bytearray(path.read_bytes())
    at = content.index(b"val_loss")
    content[at - 4 : at] = b"\xff" * 4
    path.write_bytes(content)
    page = report(copied, tmp_path / "page.html")
    assert Page(page).says("is damaged")


def test_a_table_cut_off_in_the_middle(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, name="csv", version="")
    with pytest.warns(UserWarning, match="none takes images"):
        fit(tmp_path, callback(), logger=logger, max_epochs=3)
    path = tmp_path / "csv" / "metrics.csv"
    path.write_text(path.read_text().rstrip()[:-3])
    found = numbers(report(tmp_path / "csv", tmp_path / "page.html"))
    assert any("ends in the middle of a line" in note for note in found["notes"])
    assert len(found["loss"][0]["values"]) == 2


def two_sizes(folder: Path) -> None:
    other = folder / "saliency_maps" / "grad_cam"
    for path in other.glob("epoch*"):
        path.unlink()
    for number, path in enumerate(map_files(folder / "saliency_maps" / "gradient").values()):
        arrays = dict(__import__("numpy").load(path))
        if number % 2:
            arrays["maps"] = arrays["maps"][:, :, :8, :8]
        __import__("numpy").savez(other / path.name, **arrays)


def newer(folder: Path) -> None:
    import numpy as np

    path = list(map_files(folder / "saliency_maps" / "gradient").values())[-1]
    arrays = dict(np.load(path))
    said = {**json.loads(str(arrays["about"])), "format": 2}
    np.savez(path, **{**arrays, "about": np.array(json.dumps(said))})


def no_maps(folder: Path) -> None:
    for path in folder.rglob("*.npz"):
        path.unlink()


def foreign_facts(folder: Path) -> None:
    import numpy as np

    path = folder / "saliency_maps" / "gradient" / "samples.npz"
    arrays = dict(np.load(path))
    said = {"format": 1, "facts": {"labels": [1, 2]}}
    np.savez(path, **{**arrays, "about": np.array(json.dumps(said))})


def taken(folder: Path) -> None:
    (folder / "saliency_report.html").write_text("mine")


def taken_numbers(folder: Path) -> None:
    (folder / "saliency_report.json").write_text("mine")


BAD: list[tuple[Callable[[Path], None], str]] = [
    (two_sizes, "explanations of the same size .* got 2 kinds"),
    (newer, "has format 2, and this version .* knows formats up to 1"),
    (no_maps, "Expected saliency maps in .* found none"),
    (foreign_facts, "it has 2 labels of 10 samples"),
    (taken, "saliency_report.html exists. Remove it, or give another output"),
    (taken_numbers, "saliency_report.json exists. Remove it, or give another output"),
]


@pytest.mark.parametrize(("change", "said"), BAD, ids=[change.__name__ for change, _ in BAD])
def test_bad_input_before_anything_is_written(
    copied: Path, change: Callable[[Path], None], said: str
) -> None:
    change(copied)
    before = {path: path.stat().st_mtime_ns for path in copied.rglob("*")}
    with pytest.raises(InputError, match=said):
        report(copied)
    assert {path: path.stat().st_mtime_ns for path in copied.rglob("*")} == before


def test_what_is_no_run_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Expected the folder of a run"):
        report(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"file such as saliency_report\.html"):
        report(tmp_path, tmp_path / "page.pdf")


def test_torch_is_not_moved(run: Path, tmp_path: Path) -> None:
    import matplotlib

    torch.manual_seed(3)
    state, settings = torch.get_rng_state(), dict(matplotlib.rcParams)
    report(run, tmp_path / "page.html")
    assert torch.equal(torch.get_rng_state(), state)
    assert dict(matplotlib.rcParams) == settings
