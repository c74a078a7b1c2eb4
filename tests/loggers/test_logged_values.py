from pathlib import Path

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.loggers.logger import DummyLogger
from logger_doubles import CometExperiment, MlflowClient, WeightsAndBiases, WithExperiment
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_saliency.loggers import adapter_for


def read_back(logger: TensorBoardLogger) -> EventAccumulator:
    logger.experiment.close()
    reader = EventAccumulator(logger.log_dir)
    reader.Reload()
    return reader


def test_tensorboard_scalars(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    assert adapter_for(logger).scalars({"a/b": 1.5, "a/c": torch.tensor([2.5])}, 7)
    reader = read_back(logger)
    for tag, value in (("a/b", 1.5), ("a/c", 2.5)):
        assert [(event.step, event.value) for event in reader.Scalars(tag)] == [(7, value)]


def test_csv_takes_scalars_only(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    assert adapter_for(logger).scalars({"a": 1.5}, 7)
    assert not adapter_for(logger).text("t", "text", 7)
    assert not adapter_for(logger).histogram("h", torch.ones(3), 7)
    logger.save()
    assert "1.5" in Path(logger.log_dir, "metrics.csv").read_text()


def test_tensorboard_text(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    assert adapter_for(logger).text("alarm", "**moved**: sample 3", 7)
    reader = read_back(logger)
    [event] = reader.Tensors("alarm/text_summary")
    assert event.step == 7
    assert event.tensor_proto.string_val[0].decode() == "**moved**: sample 3"


def test_tensorboard_histogram_of_the_finite_values(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    values = torch.tensor([[1.0, 2.0], [float("nan"), float("inf")]], requires_grad=True)
    assert adapter_for(logger).histogram("h", values, 7)
    [event] = read_back(logger).Histograms("h")
    assert event.step == 7
    found = event.histogram_value
    assert (found.num, found.sum, found.min, found.max) == (2, 3, 1, 2)


@pytest.mark.parametrize("values", [[], [float("nan")], [float("inf"), float("nan")]])
def test_nothing_finite_is_no_histogram(values: list[float], tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    assert not adapter_for(logger).histogram("h", torch.tensor(values), 7)
    assert read_back(logger).Tags()["histograms"] == []


def test_weights_and_biases() -> None:
    logger = WeightsAndBiases()
    assert adapter_for(logger).text("alarm", "moved", 7)
    assert logger.calls == [("alarm", ["text"], [["moved"]], 7)]


def test_a_table_is_a_table_of_weights_and_biases() -> None:
    logger = WeightsAndBiases()
    table = "| # | class | moved |\n| --- | --- | --- |\n| 0 | a \\| b | 0.41 |\n| 1 |  | - |"
    assert adapter_for(logger).text("samples", table, 7)
    rows = [["0", "a | b", "0.41"], ["1", "", "-"]]
    assert logger.calls == [("samples", ["#", "class", "moved"], rows, 7)]
    # Text that holds a table remains text.
    assert adapter_for(logger).text("samples", f"{table}\n\nAnd 3 more.", 8)
    assert logger.calls[1][1] == ["text"]


def test_comet() -> None:
    logger = WithExperiment(CometExperiment())
    assert adapter_for(logger).text("alarm", "moved", 7)
    assert adapter_for(logger).histogram("h", torch.tensor([1, 2]), 8)
    assert logger.experiment.calls == [
        ("moved", 7, {"tag": "alarm"}),
        ([1.0, 2.0], "h", 8),
    ]


def test_mlflow_takes_no_texts() -> None:
    assert not adapter_for(WithExperiment(MlflowClient())).text("alarm", "moved", 7)


def test_loggers_that_do_nothing_are_left_alone() -> None:
    for logger in (None, DummyLogger(), object()):
        assert not adapter_for(logger).text("t", "text", 0)
        assert not adapter_for(logger).histogram("h", torch.ones(3), 0)
    assert not adapter_for(None).scalars({"a": 1.0}, 0)
