"""What is called to get class scores from a module that we have never seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import lightning.pytorch as pl
from torch import Tensor, nn

from lightning_saliency.errors import InputError
from lightning_saliency.network.forward_view import ForwardView

__all__ = ["Forward", "explained_model"]

Forward: TypeAlias = Callable[[Any, Tensor], Any]
"""From (pl_module, images) to what holds the class scores."""

_USUAL_NAMES = ("model", "net", "network", "classifier", "backbone", "module")


def explained_model(pl_module: pl.LightningModule, forward: Forward | None) -> nn.Module:
    """Return a module that maps images to what holds the class scores.

    Its layers have the names that they have in ``pl_module``. Without ``forward``, the module is
    called itself; one that has no ``forward`` of its own is taken to keep its network as
    ``self.model``, ``self.net``, ``self.network``, ``self.classifier``, ``self.backbone`` or
    ``self.module``.

    Args:
        pl_module: the user's module.
        forward: the user's own way to call it.

    Raises:
        InputError: it is not clear what to call.
    """
    if forward is not None:
        return ForwardView(pl_module, forward)
    # Not by identity: pytorch_lightning has a LightningModule of its own.
    if type(pl_module).forward.__qualname__ not in ("LightningModule.forward", "Module.forward"):
        return pl_module
    for name in _USUAL_NAMES:
        if isinstance(getattr(pl_module, name, None), nn.Module):
            return ForwardView(pl_module, _CallAttribute(name))
    raise InputError(
        f"Expected {type(pl_module).__name__} to have a forward that maps images to class scores, "
        f"or its network as one of {', '.join('self.' + name for name in _USUAL_NAMES)}. Say what "
        "to call: SaliencyCallback(..., forward=lambda module, images: module.encoder(images))."
    )


class _CallAttribute:
    """Calls one attribute of a module; an object and not a closure, so that it can be pickled."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, pl_module: Any, images: Tensor) -> Any:
        return getattr(pl_module, self.name)(images)
