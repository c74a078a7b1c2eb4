"""Weights & Biases, MLflow and Comet for real, without a network: what lies where, read back.

Not among the usual tests, because the packages are large: ``make test-compat`` installs them.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_saliency import SaliencyCallback
from lightning_saliency.attribution import GradCAM, Gradient

NUMBERS = {
    *(f"saliency_drift/{name}/{since}" for name in ("gradient", "grad_cam")
      for since in ("previous", "pinned")),
    *(f"saliency_target/{name}/empty" for name in ("gradient", "grad_cam")),
    "saliency_target/flips",
    "saliency_overhead",
}  # fmt: skip
PICTURES = {
    "saliency/methods",
    *(f"saliency/{what}/{name}" for name in ("gradient", "grad_cam")
      for what in ("filmstrip", "pinned", "samples")),
}  # fmt: skip
EPOCHS = 3


class Classifier(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            *(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)),
            *(nn.Flatten(), nn.Linear(8, 3)),
        )

    def forward(self, images: Tensor) -> Any:
        return self.net(images)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.5)


def train(logger: Any) -> None:
    torch.manual_seed(0)
    data = TensorDataset(torch.rand(12, 3, 32, 32), torch.arange(12) % 3)
    trainer = pl.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        logger=logger,
        callbacks=[SaliencyCallback([Gradient(), GradCAM()], samples=2)],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        log_every_n_steps=1,
    )
    trainer.fit(Classifier(), DataLoader(data, 4), DataLoader(data, 4))


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # None of them may wait for a network.
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("COMET_START_ONLINE", "0")


def is_drawn(path: Path) -> bool:
    with Image.open(path) as picture:
        return picture.convert("L").getextrema()[0] < 100 and picture.width > 300


# --- Weights & Biases ---------------------------------------------------------------------------


def wandb_records(path: Path) -> Iterator[Any]:
    """Read the records of an offline run: a log in blocks of 32 KiB, each record with a head."""
    from wandb.proto import wandb_internal_pb2

    block, head, full, last = 32768, 7, 1, 4
    data, place, whole = path.read_bytes(), head, b""
    while place + head <= len(data):
        room = block - place % block
        if room < head:
            place += room
            continue
        size, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        whole += data[place + head : place + head + size]
        place += head + size
        if kind in (full, last):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            whole = b""
            yield record


def test_weights_and_biases(tmp_path: Path) -> None:
    import wandb
    from lightning.pytorch.loggers import WandbLogger

    logger = WandbLogger(project="digits", offline=True)
    train(logger)
    logger.experiment.finish()
    # Its process may still be writing.
    wandb.teardown()
    [run] = (tmp_path / "wandb").glob("offline-run-*")
    numbers: dict[str, list[float]] = {}
    [log] = run.glob("*.wandb")
    for record in wandb_records(log):
        for item in record.history.item:
            tag = "/".join(item.nested_key) or item.key
            numbers.setdefault(tag, []).append(json.loads(item.value_json))
    assert numbers.keys() >= NUMBERS
    assert len(numbers["saliency_drift/grad_cam/previous"]) == EPOCHS - 1
    media = run / "files" / "media"
    found = {str(path.relative_to(media / "images")) for path in media.rglob("*.png")}
    assert all(any(name.startswith(tag) for name in found) for tag in PICTURES)
    strips = list((media / "images" / "saliency" / "filmstrip").glob("grad_cam_*.png"))
    assert len(strips) == EPOCHS
    assert all(map(is_drawn, strips))
    tables = list((media / "table" / "saliency_drift_samples").glob("grad_cam_*.table.json"))
    assert len(tables) == EPOCHS
    table = json.loads(tables[0].read_text())
    assert table["columns"] == ["#", "class", "predicted", "p", "moved", "from pinned"]
    assert {row[1] for row in table["data"]} == {"class 0", "class 1"}


# --- MLflow -------------------------------------------------------------------------------------


def test_mlflow(tmp_path: Path) -> None:
    from lightning.pytorch.loggers import MLFlowLogger
    from mlflow import MlflowClient

    store = (tmp_path / "mlruns").as_uri()
    logger = MLFlowLogger(experiment_name="digits", tracking_uri=store)
    train(logger)
    client = MlflowClient(store)
    run = client.get_run(logger.run_id)
    assert run.data.metrics.keys() >= NUMBERS
    history = client.get_metric_history(logger.run_id, "saliency_drift/grad_cam/previous")
    assert [point.step for point in history] == [5, 8]
    images = [Path(each.path).name for each in client.list_artifacts(logger.run_id, "images")]
    assert all(any(name.startswith(tag.replace("/", "~")) for name in images) for tag in PICTURES)
    strips = [n for n in images if n.startswith("saliency~filmstrip~grad_cam") and "png" in n]
    assert {name.split("+")[2] for name in strips} == {"2", "5", "8"}
    for name in strips:
        assert is_drawn(Path(client.download_artifacts(logger.run_id, f"images/{name}")))


# --- Comet --------------------------------------------------------------------------------------


def comet_messages(archive: Path) -> list[dict[str, Any]]:
    with zipfile.ZipFile(archive) as files, files.open("messages.json") as lines:
        return [json.loads(line) for line in lines]


def test_comet(tmp_path: Path) -> None:
    from lightning.pytorch.loggers import CometLogger

    logger = CometLogger(offline_directory=str(tmp_path / "comet"))
    train(logger)
    logger.experiment.end()
    [archive] = (tmp_path / "comet").glob("*.zip")
    messages = comet_messages(archive)
    metrics = [each["payload"]["metric"] for each in messages if each["type"] == "metric_msg"]
    assert {metric["metricName"] for metric in metrics} >= NUMBERS
    drift = [m["step"] for m in metrics if m["metricName"] == "saliency_drift/grad_cam/previous"]
    assert drift == [5, 8]
    uploads = [each["payload"] for each in messages if each["type"] == "file_upload"]
    images = [each for each in uploads if each["upload_type"] == "visualization"]
    named = {each["additional_params"]["figName"] for each in images}
    assert all(any(name.startswith(tag) for name in named) for tag in PICTURES)
    texts = [each for each in uploads if each["upload_type"] == "text-sample"]
    assert len(texts) == 2 * EPOCHS
    strip = "saliency/filmstrip/grad_cam"
    strips = [each for each in images if each["additional_params"]["figName"] == strip]
    assert [each["additional_params"]["step"] for each in strips] == [2, 5, 8]
    with zipfile.ZipFile(archive) as files:
        for each in strips:
            assert is_drawn(Path(files.extract(each["file_path"], tmp_path)))


# --- several at once ----------------------------------------------------------------------------


def test_each_of_several_gets_what_it_takes(tmp_path: Path) -> None:
    from lightning.pytorch.loggers import MLFlowLogger
    from mlflow import MlflowClient

    store = (tmp_path / "mlruns").as_uri()
    mlflow = MLFlowLogger(experiment_name="digits", tracking_uri=store)
    board = TensorBoardLogger(tmp_path, name="board", version="")
    csv = CSVLogger(tmp_path, name="csv", version="")
    train([mlflow, board, csv])
    reader = EventAccumulator(board.log_dir)
    reader.Reload()
    assert set(reader.Tags()["scalars"]) >= NUMBERS
    pictures = reader.Tags()["images"]
    assert all(any(name.startswith(tag) for name in pictures) for tag in PICTURES)
    head = (tmp_path / "csv" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert set(head) >= NUMBERS
    # Where one logger takes pictures, there are none as files.
    assert not list((tmp_path / "csv").rglob("*.png"))
    artifacts = MlflowClient(store).list_artifacts(mlflow.run_id, "images")
    assert any("saliency~filmstrip~gradient" in each.path for each in artifacts)
