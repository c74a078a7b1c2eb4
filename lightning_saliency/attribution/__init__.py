"""Attribution methods: one file each, a frozen dataclass and a function."""

from lightning_saliency.attribution.grad_cam import GradCAM
from lightning_saliency.attribution.gradient import Gradient
from lightning_saliency.attribution.mask_average import RISEEstimate
from lightning_saliency.attribution.method import AttributionMethod
from lightning_saliency.attribution.rise import RISE

__all__ = ["AttributionMethod", "GradCAM", "Gradient", "RISE", "RISEEstimate"]
