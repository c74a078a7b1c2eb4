"""The saved maps of whole runs: load them, compare two runs, export them."""

from lightning_saliency.history.compare import compare
from lightning_saliency.history.comparison import Comparison
from lightning_saliency.history.export import export_maps
from lightning_saliency.history.load import SavedMaps, load_maps

__all__ = ["Comparison", "SavedMaps", "compare", "export_maps", "load_maps"]
