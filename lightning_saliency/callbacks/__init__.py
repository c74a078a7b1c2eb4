"""Callbacks for Lightning: explain fixed samples while a network trains, and log what changes."""

from lightning_saliency.callbacks.alarm.drift_alarm import DriftAlarm
from lightning_saliency.callbacks.named import (
    ContrastiveExcitationBackpropCallback,
    DeconvNetCallback,
    ExcitationBackpropCallback,
    ExtremalPerturbationCallback,
    GradCAMCallback,
    GradientCallback,
    GuidedBackpropCallback,
    LinearApproxCallback,
    RISECallback,
)
from lightning_saliency.callbacks.saliency import SaliencyCallback

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
]
