"""Train the network of first_run.py with all settings in a file, by Lightning's command line.

::

    python examples/cli.py fit --config examples/cli.yaml
    python examples/cli.py fit --config examples/cli.yaml --trainer.max_epochs 2
    python examples/cli.py fit --config examples/cli.yaml --print_config  # everything that is set
"""

import lightning.pytorch as pl
from first_run import DigitClassifier, draw
from lightning.pytorch.cli import LightningCLI
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_saliency.benchmark import ClutteredDigits


class Digits(pl.LightningDataModule):
    """Handwritten digits in clutter.

    Args:
        pictures: training pictures.
        batch_size: pictures in a batch.
    """

    def __init__(self, pictures: int = 8000, batch_size: int = 64) -> None:
        super().__init__()
        self.pictures = pictures
        self.batch_size = batch_size

    def setup(self, stage: str) -> None:
        self.train = draw(ClutteredDigits("train", length=self.pictures, with_mask=False))
        self.val = draw(ClutteredDigits("val", with_mask=False))

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return self._loader(self.train, shuffle=True)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return self._loader(self.val, shuffle=False)

    def _loader(self, data: TensorDataset, shuffle: bool) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(data, self.batch_size, shuffle=shuffle)


if __name__ == "__main__":
    LightningCLI(DigitClassifier, Digits, seed_everything_default=0)
