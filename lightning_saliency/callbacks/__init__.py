"""Callbacks for Lightning: explain fixed samples while a network trains, and log what changes."""

from lightning_saliency.callbacks.saliency import SaliencyCallback

__all__ = ["SaliencyCallback"]
