"""Writing images and values to Lightning's loggers, TensorBoard first."""

from lightning_saliency.loggers.log_extras import log_charts, log_film
from lightning_saliency.loggers.log_image import log_image, takes_images
from lightning_saliency.loggers.log_values import log_histogram, log_scalars, log_text

__all__ = [
    "log_charts",
    "log_film",
    "log_histogram",
    "log_image",
    "log_scalars",
    "log_text",
    "takes_images",
]
