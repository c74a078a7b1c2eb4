"""Watch what a network looks at while it trains: attribution maps as callbacks for Lightning."""

from lightning_saliency.callbacks import SaliencyCallback

__all__ = ["SaliencyCallback", "__version__"]

__version__ = "0.1.0"
