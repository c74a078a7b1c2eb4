"""Watch what a network looks at while it trains: attribution maps as callbacks for Lightning."""

from lightning_saliency import callbacks
from lightning_saliency.callbacks import *  # noqa: F403 (one callback for each method)
from lightning_saliency.history import compare, export_maps, load_maps
from lightning_saliency.replaying import bisect, replay
from lightning_saliency.reporting import report

__all__ = ["__version__", "bisect", "compare", "export_maps", "load_maps", "replay", "report"]
__all__ += callbacks.__all__

__version__ = "0.1.0"
