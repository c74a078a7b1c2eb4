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
]

__version__ = "0.1.0"
