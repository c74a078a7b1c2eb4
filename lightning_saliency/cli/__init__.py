"""The command ``lightning-saliency``."""

from lightning_saliency.cli.main import main

__all__ = ["main"]
