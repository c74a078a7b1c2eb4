"""Train a small network on handwritten digits in clutter, and watch what it looks at.

Takes about three minutes of CPU time, and downloads nothing::

    python examples/first_run.py
    tensorboard --logdir runs/first_run --samples_per_plugin images=1000
"""

import argparse
import logging
import warnings
from pathlib import Path

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.transforms.functional import to_pil_image

from lightning_saliency import SaliencyCallback
from lightning_saliency.attribution import GradCAM, Gradient
from lightning_saliency.benchmark import ClutteredDigits

BATCH_SIZE = 64


class DigitClassifier(pl.LightningModule):
    """A convolutional network as anybody would write it; it knows nothing of saliency."""

    def __init__(self, learning_rate: float = 0.01) -> None:
        super().__init__()
        self.learning_rate = learning_rate
        self.features = nn.Sequential(
            *convolution(3, 16),
            nn.MaxPool2d(2),
            *convolution(16, 32),
            nn.MaxPool2d(2),
            *convolution(32, 64),
            *convolution(64, 64),
            nn.MaxPool2d(2),
            *convolution(64, 128),
        )
        self.classifier = nn.Sequential(
            nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(128, 10)
        )

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.classifier(self.features(images))
        return scores

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        loss = F.cross_entropy(self(images), labels)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        scores = self(images)
        self.log("val_loss", F.cross_entropy(scores, labels), prog_bar=True)
        self.log("val_acc", (scores.argmax(1) == labels).float().mean(), prog_bar=True)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = torch.optim.AdamW(self.parameters(), weight_decay=0.05)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.learning_rate, steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


def convolution(channels_in: int, channels_out: int) -> list[nn.Module]:
    return [
        nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    ]


def draw(digits: ClutteredDigits) -> TensorDataset:
    """Draw all pictures once, so that an epoch is spent on training and not on drawing."""
    pictures, labels = zip(*(digits[index] for index in range(len(digits))), strict=True)
    return TensorDataset(torch.stack(pictures), torch.tensor(labels))


def quiet() -> None:
    """Leave out what Lightning says of its other products, and of what cannot be changed here."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*does not have many workers")
    # Lightning 2.6 uses a name that torch 2.14 has given up.
    warnings.filterwarnings("ignore", ".*LeafSpec")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=7)
    parser.add_argument("--pictures", type=int, default=8000, help="training pictures")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "gpu"])
    parser.add_argument("--folder", type=Path, default=Path("runs/first_run"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    quiet()
    pl.seed_everything(options.seed, verbose=False)
    print("Drawing the digits ...")
    train = draw(ClutteredDigits("train", length=options.pictures, with_mask=False))
    val = draw(ClutteredDigits("val", with_mask=False))

    # This is all it takes: the first eight validation samples, explained after each validation.
    saliency = SaliencyCallback([Gradient(), GradCAM()], samples=8, report=True)

    trainer = pl.Trainer(
        max_epochs=options.epochs,
        accelerator=options.device,
        devices=1,
        callbacks=[saliency],
        logger=TensorBoardLogger(options.folder.parent, name=options.folder.name),
        enable_model_summary=False,
        log_every_n_steps=10,
    )
    trainer.fit(
        DigitClassifier(),
        DataLoader(train, BATCH_SIZE, shuffle=True, drop_last=True),
        DataLoader(val, BATCH_SIZE),
    )

    picture = options.folder / "filmstrip.png"
    to_pil_image(saliency.filmstrip("grad_cam")).save(picture)
    accuracy = float(trainer.callback_metrics["val_acc"])
    print(f"\nValidation accuracy: {accuracy:.1%}. Grad-CAM of all epochs: {picture}")
    page = Path(trainer.log_dir or options.folder) / "saliency_report.html"
    print(f"The whole run on one page: {page}")
    print("To watch the maps change, open the Images tab of\n")
    print(f"    tensorboard --logdir {options.folder} --samples_per_plugin images=1000\n")


if __name__ == "__main__":
    main()
