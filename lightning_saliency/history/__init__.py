"""The maps of whole runs: read them back from disk, compare two runs."""

from lightning_saliency.history.compare import compare
from lightning_saliency.history.comparison import Comparison
from lightning_saliency.history.load import SavedMaps, load_maps

__all__ = ["Comparison", "SavedMaps", "compare", "load_maps"]
