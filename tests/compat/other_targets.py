"""Detectors, self-supervised modules, CLIP, images with tables: two epochs at the docs' settings.

Not among the usual tests, because the packages are large: ``make test-compat`` installs them. All
weights are random. What ``docs/layers.md`` names under "Other kinds of networks" is what runs here.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import DataLoader
from untouched import Recorder, first_difference

from lightning_saliency import SaliencyCallback
from lightning_saliency.attribution import RISE, AttnLRP, GradCAM, Gradient
from lightning_saliency.targets import BoxScore, LogitDifference, Similarity

SIDE = 64


class Trained(pl.LightningModule):
    """Anything with a loss of its own."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def loss(self, batch: Any) -> Tensor:
        raise NotImplementedError

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


def pictures(count: int = 4) -> Tensor:
    return torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


BOX = (8.0, 8.0, 40.0, 48.0)


class FasterRCNN(Trained):
    def __init__(self) -> None:
        from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn

        super().__init__(
            fasterrcnn_mobilenet_v3_large_320_fpn(
                weights=None,
                weights_backbone=None,
                num_classes=4,
                min_size=SIDE,
                max_size=SIDE,
                box_score_thresh=0.0,
            )
        )

    def forward(self, images: Tensor) -> Any:
        return self.model(list(images))

    def loss(self, batch: Any) -> Tensor:
        images, labels = batch
        boxes = [{"boxes": images.new_tensor([BOX]), "labels": label[None] + 1} for label in labels]
        return sum(self.model(list(images), boxes).values())  # type: ignore[return-value]


class Detr(Trained):
    def __init__(self) -> None:
        from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig

        backbone = ResNetConfig(
            embedding_size=8,
            hidden_sizes=[8, 16, 16, 32],
            depths=[1, 1, 1, 1],
            layer_type="basic",
            out_features=["stage4"],
        )
        super().__init__(
            DetrForObjectDetection(
                DetrConfig(
                    use_timm_backbone=False,
                    backbone=None,
                    backbone_config=backbone,
                    use_pretrained_backbone=False,
                    num_queries=5,
                    d_model=32,
                    encoder_layers=1,
                    decoder_layers=1,
                    encoder_ffn_dim=32,
                    decoder_ffn_dim=32,
                    encoder_attention_heads=2,
                    decoder_attention_heads=2,
                    num_labels=3,
                )
            )
        )

    def forward(self, images: Tensor) -> Any:
        return self.model(pixel_values=images)

    def loss(self, batch: Any) -> Tensor:
        images, labels = batch
        logits = self(images).logits
        return F.cross_entropy(logits.flatten(0, 1), labels.repeat_interleave(logits.shape[1]))


class SimCLR(Trained):
    """Two views and no classes."""

    def __init__(self) -> None:
        from lightly.loss import NTXentLoss
        from lightly.models.modules import SimCLRProjectionHead
        from torchvision.models import resnet18

        backbone = resnet18()
        backbone.fc = nn.Identity()
        super().__init__(nn.Sequential(backbone, SimCLRProjectionHead(512, 64, 16)))
        self.criterion = NTXentLoss()
        for buffer in self.criterion.buffers():
            # Lightly leaves it as the memory was.
            buffer.zero_()

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)

    def loss(self, batch: Any) -> Tensor:
        images, _ = batch
        return self.criterion(self(images), self(images.flip(3)))


class ClipClassifier(Trained):
    """Classes as similarities of an image to fixed texts."""

    def __init__(self) -> None:
        from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

        super().__init__(
            CLIPVisionModelWithProjection(
                CLIPVisionConfig(
                    hidden_size=32,
                    intermediate_size=64,
                    num_hidden_layers=2,
                    num_attention_heads=2,
                    image_size=SIDE,
                    patch_size=16,
                    projection_dim=16,
                )
            )
        )
        texts = torch.randn(3, 16, generator=torch.Generator().manual_seed(1))
        self.register_buffer("texts", F.normalize(texts, dim=1))

    def forward(self, images: Tensor) -> Tensor:
        embedded = F.normalize(self.model(pixel_values=images).image_embeds, dim=1)
        return 10 * embedded @ self.texts.t()

    def loss(self, batch: Any) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])


class ImageAndTable(Trained):
    def __init__(self) -> None:
        from torchvision.models import resnet18

        backbone = resnet18(num_classes=8)
        super().__init__(backbone)
        self.table = nn.Linear(3, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, images: Tensor, table: Tensor) -> Tensor:
        return self.head(torch.relu(self.model(images) + self.table(table)))

    def loss(self, batch: Any) -> Tensor:
        return F.cross_entropy(self(batch["image"], batch["table"]), batch["label"])


def pairs() -> list[Any]:
    return [(image, index % 3) for index, image in enumerate(pictures())]


def tables() -> list[Any]:
    rows = torch.randn(4, 3, generator=torch.Generator().manual_seed(2))
    return [
        {"image": image, "table": row, "label": index % 3}
        for index, (image, row) in enumerate(zip(pictures(), rows, strict=True))
    ]


def with_table(batch: Any) -> Any:
    return batch["image"], batch["label"], None, {"table": batch["table"]}


# From the module's class: its data, the settings that the docs name, and the series.
KINDS: dict[str, tuple[Callable[[], Trained], Callable[[], list[Any]], dict[str, Any], str]] = {
    "Faster R-CNN": (FasterRCNN, pairs, {"target": BoxScore(1)}, "box_of_1"),
    "DETR": (Detr, pairs, {"target": BoxScore(2)}, "box_of_2"),
    "SimCLR": (SimCLR, pairs, {"target": Similarity(torch.ones(16))}, "similarity"),
    "CLIP": (ClipClassifier, pairs, {"target": LogitDifference(0, 1)}, "class_0_minus_1"),
    "image and table": (ImageAndTable, tables, {"unpack": with_table}, ""),
}


def run(name: str, folder: Path, *callbacks: pl.Callback) -> list[Any]:
    make, data, _, _ = KINDS[name]
    torch.manual_seed(0)
    module, recorder = make(), Recorder()
    trainer = pl.Trainer(
        max_epochs=2,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        logger=TensorBoardLogger(folder, name="run", version=""),
        callbacks=[*callbacks, recorder],
    )
    trainer.fit(module, DataLoader(data(), batch_size=2), DataLoader(data(), batch_size=2))
    return recorder.record


@pytest.mark.parametrize("name", KINDS)
def test_two_epochs_at_the_settings_of_the_docs(name: str, tmp_path: Path) -> None:
    _, _, settings, ending = KINDS[name]
    methods = [GradCAM(), Gradient(), AttnLRP(), RISE(num_masks=16)]
    callback = SaliencyCallback(
        methods, samples=2, on_error="raise", on_inapplicable="skip", **settings
    )
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        explained = run(name, tmp_path / "with", callback)
    skipped = [str(w.message) for w in said if "is skipped" in str(w.message)]
    names = list(callback.series)
    assert [text.partition(" ")[0] for text in skipped] == (["grad_cam"] if name == "DETR" else [])
    found = EventAccumulator(str(tmp_path / "with" / "run"), {"images": 0}).Reload()
    for series in names:
        assert series.endswith(ending)
        assert len(found.Images(f"saliency/samples/{series}/1")) == 2
    wanted = {"gradient", "attn_lrp", "rise", *(() if skipped else ("grad_cam",))}
    assert {series.partition("/")[0] for series in names} == wanted
    assert first_difference(explained, run(name, tmp_path / "without")) == ""
