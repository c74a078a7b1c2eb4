"""Watch what a network looks at while it trains: attribution maps as callbacks for Lightning."""

from lightning_saliency.callbacks import (
    ContrastiveExcitationBackpropCallback,
    DeconvNetCallback,
    DriftAlarm,
    ExcitationBackpropCallback,
    ExtremalPerturbationCallback,
    GradCAMCallback,
    GradientCallback,
    GuidedBackpropCallback,
    LinearApproxCallback,
    RISECallback,
    SaliencyCallback,
)
from lightning_saliency.history import compare, load_maps

__all__ = [
    "ContrastiveExcitationBackpropCallback",
    "DeconvNetCallback",
    "DriftAlarm",
    "ExcitationBackpropCallback",
    "ExtremalPerturbationCallback",
    "GradCAMCallback",
    "GradientCallback",
    "GuidedBackpropCallback",
    "LinearApproxCallback",
    "RISECallback",
    "SaliencyCallback",
    "__version__",
    "compare",
    "load_maps",
]

__version__ = "0.1.0"
