"""See a model as one that records its graph also where its forward says ``no_grad``."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lightning_saliency.network.forward_view import ForwardView

__all__ = ["enable_grad_view"]


def enable_grad_view(model: nn.Module) -> nn.Module:
    """Return the model as one that ignores ``torch.no_grad()`` in its own forward.

    A frozen feature extractor is often run in ``no_grad()``, because its weights need no gradient;
    that the image's is lost with it does not matter in training. The layers, their names and their
    weights are the model's. ``detach()`` and ``inference_mode()`` are not ignored.

    Args:
        model: it takes images (N, C, H, W); used inside
            :func:`~lightning_saliency.network.undisturbed.undisturbed`.
    """
    return ForwardView(model, _run_with_grad)


def _run_with_grad(model: nn.Module, images: Tensor) -> Any:
    with torch.enable_grad(), _KeepGradMode():
        return model(images)


class _KeepGradMode(TorchFunctionMode):
    """Skips the function that ``no_grad`` and ``set_grad_enabled`` call."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if getattr(func, "__name__", "") == "_set_grad_enabled":
            return None
        return func(*args, **(kwargs or {}))
