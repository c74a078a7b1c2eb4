"""The saved maps of whole runs: load them, compare two runs."""

from lightning_saliency.history.compare import compare
from lightning_saliency.history.comparison import Comparison
from lightning_saliency.history.load import SavedMaps, load_maps

__all__ = ["Comparison", "SavedMaps", "compare", "load_maps"]
