"""Modules of other packages, trained for two steps with the callbacks: what each of them needs.

Not among the usual tests, because the packages are large: ``make test-compat`` installs them. All
weights are random. The packages are imported only by the functions that need them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import CSVLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from untouched import Recorder, first_difference

from lightning_saliency import GradCAMCallback, SaliencyCallback
from lightning_saliency.attribution import RISE, ExtremalPerturbation, Gradient, LinearApprox
from lightning_saliency.errors import SaliencyError

CLASSES = 5
SIDE = 64
DOCS = Path(__file__).parents[2] / "docs" / "compatibility.md"


class Images(Dataset[Any]):
    """Random images with labels, in a batch of the form that a package takes."""

    def __init__(self, form: Callable[[Tensor, int], Any]) -> None:
        self.form = form
        self.images = torch.randn(8, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        return self.form(self.images[index], index % CLASSES)


def pair(image: Tensor, label: int) -> Any:
    return image, label


def hugging_face(image: Tensor, label: int) -> Any:
    return {"pixel_values": image, "labels": label}


def hugging_face_masks(image: Tensor, label: int) -> Any:
    return {"pixel_values": image, "labels": torch.full((SIDE, SIDE), label)}


def geo(image: Tensor, label: int) -> Any:
    return {"image": image, "label": torch.tensor(label)}


def geo_masks(image: Tensor, label: int) -> Any:
    return {"image": image, "mask": torch.full((SIDE, SIDE), label)}


def masks(image: Tensor, label: int) -> Any:
    return image, torch.full((SIDE, SIDE), label)


class Classifier(pl.LightningModule):
    """A user's module around a network of a package."""

    def __init__(self, network: nn.Module, read: Callable[[Any], Tensor] | None = None) -> None:
        super().__init__()
        self.model = network
        self.read = read

    def forward(self, images: Tensor) -> Any:
        return self.model(images)

    def step(self, batch: Any) -> Tensor:
        output = self(batch[0])
        return F.cross_entropy(self.read(output) if self.read else output, batch[1])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.step(batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.step(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


class HuggingFace(Classifier):
    """As their users write it: the batch goes into the model as it is, the loss comes out."""

    def forward(self, **batch: Any) -> Any:
        return self.model(**batch)

    def step(self, batch: Any) -> Tensor:
        loss: Tensor = self(**batch).loss
        return loss


def torchvision_model(name: str, **settings: Any) -> pl.LightningModule:
    from torchvision import models

    return Classifier(getattr(models, name)(num_classes=CLASSES, **settings))


def torchvision_vit() -> pl.LightningModule:
    from torchvision.models import VisionTransformer

    return Classifier(VisionTransformer(SIDE, 16, 2, 2, 32, 64, num_classes=CLASSES))


def timm_model(name: str, **settings: Any) -> pl.LightningModule:
    import timm

    return Classifier(timm.create_model(name, num_classes=CLASSES, **settings))


def hugging_face_vit() -> pl.LightningModule:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=SIDE,
        num_labels=CLASSES,
    )
    return HuggingFace(ViTForImageClassification(config))


def hugging_face_resnet() -> pl.LightningModule:
    from transformers import ResNetConfig, ResNetForImageClassification

    sizes = {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1]}
    config = ResNetConfig(**sizes, layer_type="basic", num_labels=CLASSES)
    return HuggingFace(ResNetForImageClassification(config))


def smp_segmentation() -> pl.LightningModule:
    import segmentation_models_pytorch as smp

    return Classifier(smp.Unet("resnet18", encoder_weights=None, classes=CLASSES))


def smp_both() -> pl.LightningModule:
    import segmentation_models_pytorch as smp

    network = smp.Unet("resnet18", encoder_weights=None, aux_params={"classes": CLASSES})
    return Classifier(network, read=second)


def second(output: Any) -> Tensor:
    picked: Tensor = output[1]
    return picked


def labels_of_both(module: Any, images: Tensor) -> Tensor:
    return second(module(images))


def lightly_linear() -> pl.LightningModule:
    from lightly.utils.benchmarking import LinearClassifier
    from torchvision.models import resnet18

    backbone = nn.Sequential(*list(resnet18().children())[:-1], nn.Flatten())
    # The second is the batch size, the third the learning rate.
    return LinearClassifier(backbone, 4, 0.1, 512, CLASSES, (1,))  # type: ignore[no-any-return]


def torchgeo_classification() -> pl.LightningModule:
    from torchgeo.trainers import ClassificationTask

    return ClassificationTask(model="resnet18", num_classes=CLASSES)  # type: ignore[no-any-return]


def torchgeo_segmentation() -> pl.LightningModule:
    from torchgeo.trainers import SemanticSegmentationTask

    return SemanticSegmentationTask(  # type: ignore[no-any-return]
        model="unet", backbone="resnet18", num_classes=CLASSES
    )


@dataclass(frozen=True)
class Case:
    """One module, and the settings without which it cannot be explained.

    Attributes:
        package: that it comes from.
        name: of the module.
        make: makes it.
        form: of the batch.
        needed: settings of both callbacks.
        words: the same for the table of the docs.
    """

    package: str
    name: str
    make: Callable[[], pl.LightningModule]
    form: Callable[[Tensor, int], Any] = pair
    needed: dict[str, Any] = field(default_factory=dict)
    words: str = ""

    def __str__(self) -> str:
        """Return the name of the test."""
        return f"{self.package} {self.name}"


# Where there is a label for each pixel, and not one for the image.
PREDICTED: tuple[dict[str, Any], str] = {"target": "predicted"}, '`target="predicted"`'

CASES = [
    Case("torchvision", "resnet18", lambda: torchvision_model("resnet18")),
    Case("torchvision", "mobilenet_v3_small", lambda: torchvision_model("mobilenet_v3_small")),
    Case("torchvision", "VisionTransformer", torchvision_vit),
    Case("timm", "resnet10t", lambda: timm_model("resnet10t")),
    Case("timm", "convnext_atto", lambda: timm_model("convnext_atto")),
    Case("timm", "efficientnet_lite0", lambda: timm_model("efficientnet_lite0")),
    Case(
        "timm",
        "vit_tiny_patch16_224",
        lambda: timm_model("vit_tiny_patch16_224", img_size=SIDE, depth=2),
    ),
    Case("transformers", "ViTForImageClassification", hugging_face_vit, hugging_face),
    Case("transformers", "ResNetForImageClassification", hugging_face_resnet, hugging_face),
    Case("segmentation-models-pytorch", "Unet", smp_segmentation, masks, *PREDICTED),
    Case(
        "segmentation-models-pytorch",
        "Unet with aux_params",
        smp_both,
        pair,
        {"forward": labels_of_both},
        "`forward=lambda module, images: module(images)[1]`",
    ),
    Case("lightly", "LinearClassifier", lightly_linear),
    Case("torchgeo", "ClassificationTask", torchgeo_classification, geo),
    Case("torchgeo", "SemanticSegmentationTask", torchgeo_segmentation, geo_masks, *PREDICTED),
]


def train(case: Case, folder: Path, **settings: Any) -> set[str]:
    """Train for two steps, and return the tags of the pictures that were logged."""
    torch.manual_seed(0)
    methods = [Gradient(), LinearApprox(), ExtremalPerturbation(max_iter=2)]
    # Both stop the run if anything goes wrong.
    callbacks = [
        GradCAMCallback(on_error="raise", **settings),
        SaliencyCallback(methods, on_error="raise", **settings),
    ]
    module = case.make()
    lightning: Any = pl
    if not isinstance(module, pl.LightningModule):
        # Lightning's other package.
        import pytorch_lightning as lightning
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=lightning.loggers.TensorBoardLogger(folder, name="run", version=""),
        callbacks=callbacks,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loader = DataLoader(Images(case.form), batch_size=4)
    trainer.fit(module, loader, loader)
    assert trainer.global_step == 2
    return set(EventAccumulator(str(folder / "run")).Reload().Tags()["images"])


def tried(case: Case, folder: Path, **settings: Any) -> str:
    """Return why a module cannot be explained with some settings, ``""`` if it can."""
    try:
        tags = train(case, folder, **settings)
    except SaliencyError as error:
        return f"{type(error).__name__}: {error}"
    series = ("grad_cam", "gradient", "linear_approx", "extremal_perturbation")
    assert {f"saliency/samples/{name}/7" for name in series} <= tags
    return ""


found: dict[str, tuple[str, str]] = {}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_explained_with_the_fewest_settings(case: Case, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        problem = tried(case, tmp_path / "default")
        found[str(case)] = (problem, "")
        if not case.needed:
            assert not problem
            return
        assert problem, "It needs no settings at all."
        assert not tried(case, tmp_path / "needed", **case.needed)


def test_the_table_of_the_docs() -> None:
    if len(found) < len(CASES):
        pytest.skip("Only some of the modules were tried.")
    rows = [
        f"| {case.package} | `{case.name}` | {case.words or 'nothing'} |"
        for case in CASES
        if bool(found[str(case)][0]) == bool(case.needed)
    ]
    print("\n".join(rows))
    assert [line for line in DOCS.read_text().splitlines() if line in rows] == rows
    assert len(rows) == len(CASES)


# --- training is untouched --------------------------------------------------------------------


class WithHiddenStates(HuggingFace):
    """Trains on what its layers put out, as well."""

    def step(self, batch: Any) -> Tensor:
        output = self(**batch)
        assert output.hidden_states
        loss: Tensor = output.loss + 0.1 * sum(
            each.square().mean() for each in output.hidden_states
        )
        return loss


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def vit_with_hidden_states() -> pl.LightningModule:
    from transformers import ViTConfig, ViTForImageClassification

    settings = {"image_size": SIDE, "intermediate_size": 64, "num_labels": CLASSES}
    config = ViTConfig(**SMALL, **settings, output_hidden_states=True)
    return WithHiddenStates(ViTForImageClassification(config))


def dinov2() -> pl.LightningModule:
    from transformers import Dinov2Config, Dinov2ForImageClassification

    config = Dinov2Config(**SMALL, image_size=SIDE, patch_size=16, num_labels=CLASSES)
    return HuggingFace(Dinov2ForImageClassification(config))


def convnext() -> pl.LightningModule:
    from transformers import ConvNextConfig, ConvNextForImageClassification

    sizes = {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}
    config = ConvNextConfig(**sizes, num_labels=CLASSES, drop_path_rate=0.2)
    return HuggingFace(ConvNextForImageClassification(config))


def segformer() -> pl.LightningModule:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    sizes = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "decoder_hidden_size": 16}
    config = SegformerConfig(**sizes, num_attention_heads=[1, 1, 1, 1], num_labels=CLASSES)
    return HuggingFace(SegformerForSemanticSegmentation(config))


def timm_vit() -> pl.LightningModule:
    return timm_model("vit_tiny_patch16_224", img_size=SIDE, depth=2, drop_path_rate=0.2)


UNTOUCHED = {
    "SegFormer": (segformer, hugging_face_masks),
    "ViT with hidden states": (vit_with_hidden_states, hugging_face),
    "DINOv2": (dinov2, hugging_face),
    "ConvNeXt": (convnext, hugging_face),
    "ViT of timm": (timm_vit, pair),
}


@pytest.mark.parametrize("sanity", [0, 2])
@pytest.mark.parametrize("name", UNTOUCHED)
def test_training_is_untouched(name: str, sanity: int, tmp_path: Path) -> None:
    make, form = UNTOUCHED[name]
    records = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        methods = [Gradient(), RISE(128)]
        for callbacks in ([], [SaliencyCallback(methods, samples=2, target="predicted")]):
            pl.seed_everything(0, verbose=False)
            recorder = Recorder()
            trainer = pl.Trainer(
                accelerator="cpu",
                max_epochs=2,
                num_sanity_val_steps=sanity,
                logger=CSVLogger(tmp_path),
                callbacks=[*callbacks, recorder],
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            loader = DataLoader(Images(form), batch_size=4)
            trainer.fit(make(), loader, loader)
            records.append(recorder.record)
    assert first_difference(*records) == ""
    assert callbacks[0]._budget.made == 2
