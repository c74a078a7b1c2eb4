"""Which adapter a logger gets, and what is said of one that lacks a verb."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import pytorch_lightning
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.loggers.logger import DummyLogger
from logger_doubles import (
    CometExperiment,
    MlflowClient,
    MlflowLogger,
    WeightsAndBiases,
    WithExperiment,
)

from lightning_saliency.loggers import (
    CometAdapter,
    CSVAdapter,
    LogAdapter,
    MLflowAdapter,
    NullAdapter,
    TensorBoardAdapter,
    WandbAdapter,
    adapter,
    adapter_for,
    adapters_of,
    image_adapters,
)

LOGGERS: list[tuple[Callable[[Path], object], type[LogAdapter], set[str]]] = [
    (
        TensorBoardLogger,
        TensorBoardAdapter,
        {"images", "texts", "histograms", "animations", "chart layouts"},
    ),
    (
        pytorch_lightning.loggers.TensorBoardLogger,
        TensorBoardAdapter,
        {"images", "texts", "histograms", "animations", "chart layouts"},
    ),
    (lambda _: WeightsAndBiases(), WandbAdapter, {"images", "texts"}),
    (lambda _: MlflowLogger(MlflowClient()), MLflowAdapter, {"images"}),
    (lambda _: WithExperiment(CometExperiment()), CometAdapter, {"images", "texts", "histograms"}),
    (CSVLogger, CSVAdapter, set()),
    (pytorch_lightning.loggers.CSVLogger, CSVAdapter, set()),
]
SILENT = [lambda: None, DummyLogger]
WORDS = ["images", "texts", "histograms", "animations", "chart layouts"]


def gif() -> bytes:
    from io import BytesIO

    from PIL import Image

    file = BytesIO()
    Image.new("RGB", (4, 4)).save(file, "GIF")
    return file.getvalue()


def use(logger: object) -> dict[str, bool]:
    """Call every verb but the numbers, each with a new adapter as callbacks do."""
    return {
        "images": adapter_for(logger).image("i", torch.zeros(3, 4, 4), 0),
        "texts": adapter_for(logger).text("t", "text", 0),
        "histograms": adapter_for(logger).histogram("h", torch.ones(3), 0),
        "animations": adapter_for(logger).film("f", gif(), 0),
        "chart layouts": adapter_for(logger).charts({"saliency": {"loss": [".*loss.*"]}}),
    }


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr(adapter, "rank_zero_info", said.append)
    return said


@pytest.mark.parametrize(("make", "kind", "takes"), LOGGERS)
def test_each_logger_has_its_adapter_and_says_once_what_it_lacks(
    make: Callable[[Path], object],
    kind: type[LogAdapter],
    takes: set[str],
    tmp_path: Path,
    reports: list[str],
) -> None:
    logger = make(tmp_path)
    assert type(adapter_for(logger)) is kind
    for _ in range(2):
        assert use(logger) == {what: what in takes for what in WORDS}
    lacking = [what for what in WORDS if what not in takes]
    assert len(reports) == len(lacking)
    for what, report in zip(lacking, reports, strict=True):
        assert report.startswith(f"{type(logger).__name__} takes no {what}")
    assert adapter_for(logger).takes_images == ("images" in takes)


def test_another_logger_of_the_same_kind_says_it_again(tmp_path: Path, reports: list[str]) -> None:
    for _ in range(2):
        adapter_for(CSVLogger(tmp_path)).text("t", "text", 0)
    assert len(reports) == 2


@pytest.mark.parametrize("make", SILENT)
def test_no_logger_says_nothing(make: Callable[[], Any], reports: list[str]) -> None:
    logger = make()
    assert type(adapter_for(logger)) is NullAdapter
    assert not any(use(logger).values())
    assert not adapter_for(logger).scalars({"a": 1.0}, 0)
    assert reports == []


def test_the_loggers_of_a_run(tmp_path: Path, reports: list[str]) -> None:
    trainer = pl.Trainer(
        logger=[CSVLogger(tmp_path), TensorBoardLogger(tmp_path)], accelerator="cpu"
    )
    assert [type(each) for each in adapters_of(trainer)] == [CSVAdapter, TensorBoardAdapter]
    for _ in range(2):
        assert [type(each) for each in image_adapters(trainer)] == [TensorBoardAdapter]
    assert len(reports) == 1
    assert "CSVLogger takes no images" in reports[0]


def test_a_run_without_loggers_has_no_adapters() -> None:
    assert adapters_of(pl.Trainer(logger=False, accelerator="cpu")) == []
