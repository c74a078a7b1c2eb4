"""The checks and the isolation around every attribution method."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lightning_saliency.errors import InputError, ModelError, NoGradientError
from lightning_saliency.network.forward_view import enable_grad_view
from lightning_saliency.network.isolation.undisturbed import undisturbed
from lightning_saliency.network.layers import every_module

_Result = TypeVar("_Result")


@contextmanager
def guarded(model: nn.Module, image: Tensor) -> Iterator[Tensor]:
    """Check the model and the images, and isolate the model while it is explained.

    Every public method of an attribution method works inside this.

    Args:
        model: any module, in any state; it is not changed.
        image: (N, C, H, W), as :func:`check_image` wants it.

    Yields:
        A detached copy of the images: the model may write into its input, and the caller may be in
        inference mode. The model is in the state that
        :func:`~lightning_saliency.network.isolation.undisturbed.undisturbed` describes.

    Raises:
        InputError: the images or the model cannot be used.
        ModelError: the model has layers without weights.
    """
    check_image(image)
    check_model(model, image)
    with undisturbed(model), _differentiable_recurrence(model):
        yield image.detach().clone()


@contextmanager
def _differentiable_recurrence(model: nn.Module) -> Iterator[None]:
    """Take another implementation of LSTM, GRU and RNN than cuDNN's, if the model has them.

    cuDNN's has no backward pass in eval mode. The switch is of the whole process, so it is only
    touched where it matters.
    """
    recurrent = any(isinstance(module, nn.RNNBase) for module in every_module(model))
    if not recurrent or not torch.backends.cudnn.enabled:
        yield
        return
    cudnn: Any = torch.backends.cudnn
    with cudnn.flags(
        enabled=False,
        benchmark=cudnn.benchmark,
        deterministic=cudnn.deterministic,
        allow_tf32=cudnn.allow_tf32,
    ):
        yield


def run_guarded(
    run: Callable[[nn.Module, Tensor], _Result], model: nn.Module, image: Tensor
) -> _Result:
    """Run a method inside :func:`guarded`.

    If no gradient arrives because the model runs a frozen part of itself in ``no_grad()``, as is
    usual in transfer learning, the method runs again with gradients enabled there.

    Args:
        run: the method, from model and images to its result.
        model: any module, in any state; it is not changed.
        image: (N, C, H, W), as :func:`check_image` wants it.

    Raises:
        InputError: the images or the model cannot be used.
        ModelError: the model has layers without weights.
        NoGradientError: the score depends on the image in no differentiable way.
    """
    with guarded(model, image) as images:
        try:
            return run(model, images)
        except NoGradientError as error:
            try:
                return run(enable_grad_view(model), image.detach().clone())
            except RuntimeError as failure:
                raise error from failure


def check_image(image: object) -> None:
    """Raise unless ``image`` is a batch of images that can be explained.

    Args:
        image: should be (N, C, H, W), floating point, finite, none of the sizes 0.

    Raises:
        InputError: it is not.
    """
    if not isinstance(image, Tensor):
        raise InputError(
            f"Expected the images as a tensor (N, C, H, W), got {type(image).__name__}."
        )
    if image.dim() != 4:
        hint = " Add the batch dimension: image[None]." if image.dim() == 3 else ""
        raise InputError(
            f"Expected images of shape (N, C, H, W), got shape {tuple(image.shape)}.{hint}"
        )
    if not image.is_floating_point():
        raise InputError(
            f"Expected floating point images, got {image.dtype}. Give them in the range that the "
            "model takes: image.float() if it scales them itself, else image.float() / 255. For a "
            "callback: unpack=lambda batch: (batch[0].float(), batch[1])."
        )
    if image.numel() == 0:
        raise InputError(f"Expected at least one image, got shape {tuple(image.shape)}.")
    # A sum is quick, and finite only where everything is; it may overflow though all is well.
    total = image.detach().sum(dtype=torch.promote_types(image.dtype, torch.float32))
    if bool(torch.isfinite(total)):
        return
    finite = torch.isfinite(image).flatten(1).all(1)
    if not bool(finite.all()):
        bad = int((~finite).nonzero()[0])
        raise InputError(f"Expected finite images, but image {bad} of the batch has NaN or inf.")


def check_model(model: object, image: Tensor) -> None:
    """Raise unless ``model`` is a module on the images' device.

    Args:
        model: should be a ``torch.nn.Module``.
        image: (N, C, H, W).

    Raises:
        InputError: the model is no module, or has no weight where the images are.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"Expected the model as a torch.nn.Module, got {type(model).__name__}.")
    # The first weight suffices for nearly every model.
    if any(parameter.device == image.device for parameter in model.parameters()):
        return
    devices = {parameter.device for parameter in model.parameters()}
    if devices:
        held = ", ".join(sorted(map(str, devices)))
        raise InputError(
            f"Expected the images on the model's device ({held}), got {image.device}. "
            f"Move them: image.to('{held}')."
        )


def require_python_model(model: nn.Module, method: str) -> None:
    """Raise if ``model`` is scripted or traced, so that its functions cannot be intercepted.

    Args:
        model: the model that is explained.
        method: the name of the method that needs to intercept them, for the message.

    Raises:
        ModelError: some part of the model is a ``torch.jit.ScriptModule``.
    """
    scripted = [m for m in every_module(model) if isinstance(m, torch.jit.ScriptModule)]
    for name, module in model.named_modules() if scripted else ():
        if isinstance(module, torch.jit.ScriptModule):
            where = f"its layer '{name}'" if name else "it"
            raise ModelError(
                f"Expected a model in Python for {method}, but {where} is scripted or traced, and "
                "its functions cannot be given another backward rule. Explain the model before "
                "torch.jit.script or torch.jit.trace, or take another method."
            )
