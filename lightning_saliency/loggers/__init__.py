"""Writing images, texts and numbers to Lightning's loggers, with the same verbs for each."""

from lightning_saliency.loggers.adapter import CSVAdapter, LogAdapter, NullAdapter
from lightning_saliency.loggers.choice import adapter_for, adapters_of, image_adapters
from lightning_saliency.loggers.comet import CometAdapter
from lightning_saliency.loggers.files import FilesAdapter
from lightning_saliency.loggers.mlflow import MLflowAdapter
from lightning_saliency.loggers.tensorboard import TensorBoardAdapter
from lightning_saliency.loggers.wandb import WandbAdapter

__all__ = [
    "CSVAdapter",
    "CometAdapter",
    "FilesAdapter",
    "LogAdapter",
    "MLflowAdapter",
    "NullAdapter",
    "TensorBoardAdapter",
    "WandbAdapter",
    "adapter_for",
    "adapters_of",
    "image_adapters",
]
