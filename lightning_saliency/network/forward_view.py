"""A model seen through another forward, such as one that records its graph also in ``no_grad``."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class ForwardView(nn.Module):
    """The layers of ``module`` under their own names, called in another way.

    It holds no weights of its own: parameters, buffers and layers are the module's, so hooks,
    layer names and :func:`~lightning_saliency.network.isolation.undisturbed.undisturbed` work on it
    as on the module. Its training flag is the module's, too.

    Args:
        module: whose layers they are.
        forward: from (module, images) to the model's output.
    """

    def __init__(self, module: nn.Module, forward: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.__dict__["_parameters"] = module._parameters
        self.__dict__["_buffers"] = module._buffers
        self.__dict__["_modules"] = module._modules
        # Not as attributes of a module, which would register the module as a layer of itself.
        self.__dict__["_viewed"] = (module, forward)

    @property
    def training(self) -> bool:
        """Whether the module is in training mode."""
        return bool(self.__dict__["_viewed"][0].training)

    @training.setter
    def training(self, mode: bool) -> None:
        # While the view is being made it has no module yet, whose flag must stay as it is.
        if "_viewed" in self.__dict__:
            self.__dict__["_viewed"][0].training = mode

    def forward(self, images: Tensor, *inputs: Any, **named: Any) -> Any:
        """Return what ``forward(module, images)`` returns.

        Args:
            images: (N, C, H, W).
            inputs: others that ``forward`` takes after the images.
            named: those that it takes by name.
        """
        module, forward = self.__dict__["_viewed"]
        return forward(module, images, *inputs, **named)


def name_of(model: nn.Module) -> str:
    """Return the name of a model's class, for messages; of what a view looks at.

    Args:
        model: of any kind.
    """
    viewed = model.__dict__["_viewed"][0] if isinstance(model, ForwardView) else model
    return type(viewed).__name__


def enable_grad_view(model: nn.Module) -> nn.Module:
    """Return the model as one that ignores ``torch.no_grad()`` in its own forward.

    A frozen feature extractor is often run in ``no_grad()``, because its weights need no gradient;
    that the image's is lost with it does not matter in training. The layers, their names and their
    weights are the model's. ``detach()`` and ``inference_mode()`` are not ignored.

    Args:
        model: it takes images (N, C, H, W); used inside
            :func:`~lightning_saliency.network.isolation.undisturbed.undisturbed`.
    """
    return ForwardView(model, _run_with_grad)


def _run_with_grad(model: nn.Module, images: Tensor, *inputs: Any, **named: Any) -> Any:
    with torch.enable_grad(), _KeepGradMode():
        return model(images, *inputs, **named)


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
