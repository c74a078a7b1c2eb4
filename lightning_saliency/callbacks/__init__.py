"""Callbacks for Lightning: explain fixed samples while a network trains, and log what changes."""

from lightning_saliency.callbacks import named
from lightning_saliency.callbacks.drift_alarm.alarm import DriftAlarm
from lightning_saliency.callbacks.evidence import EvidenceCallback
from lightning_saliency.callbacks.named import *  # noqa: F403 (one for each method)
from lightning_saliency.callbacks.saliency import SaliencyCallback
from lightning_saliency.callbacks.samples.chosen import PerClass, Wrong

__all__ = ["DriftAlarm", "EvidenceCallback", "PerClass", "SaliencyCallback", "Wrong"]
__all__ += named.__all__
