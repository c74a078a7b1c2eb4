"""Capture the output of a layer while a model runs, so that gradients can be taken of it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lightning_saliency.errors import LayerError
from lightning_saliency.network.layers import find_layer

__all__ = ["Capture", "capture"]


class Capture:
    """The output of one layer; filled while the model runs inside :func:`capture`."""

    def __init__(self, layer: str) -> None:
        self.layer = layer
        self._outputs: list[object] = []

    @property
    def has_run(self) -> bool:
        """Whether the layer has run yet."""
        return bool(self._outputs)

    @property
    def activation(self) -> Tensor:
        """The layer's output, of any shape; it is part of the graph of the score.

        Raises:
            LayerError: the layer did not run, ran several times, or its output is no single tensor.
        """
        if not self._outputs:
            raise LayerError(
                f"Expected layer '{self.layer}' to run once when the model runs, but it was not "
                "called. Choose a layer that the model's forward calls as a module."
            )
        if len(self._outputs) > 1:
            raise LayerError(
                f"Expected layer '{self.layer}' to run once when the model runs, but it was called "
                f"{len(self._outputs)} times, so it is not clear which output is meant. Choose the "
                "block around it, or give each call a module of its own."
            )
        (output,) = self._outputs
        if not isinstance(output, Tensor):
            raise LayerError(
                f"Expected layer '{self.layer}' to put out one tensor, but it put out "
                f"{type(output).__name__}. Choose a layer inside it or after it."
            )
        return output


@contextmanager
def capture(model: nn.Module, layer: str, *, start_graph: bool = False) -> Iterator[Capture]:
    """Keep the output of ``layer`` while the model runs.

    The model continues with a clone, so that an in-place operation after the layer changes neither
    the value that was kept nor its gradient.

    Args:
        model: the model that has the layer.
        layer: its name, as in ``model.named_modules()``.
        start_graph: let the graph begin at this layer. With frozen parameters and an image that
            needs no gradient, the layers before it then record nothing, and the backward pass
            ends here; this is what makes Grad-CAM cost little more than a forward pass. It
            begins here in any case if nothing is recorded before, as after a part of the model
            that runs in ``no_grad``.

    Raises:
        LayerError: there is no such layer, or its output cannot be caught.
    """
    caught = Capture(layer)
    found = find_layer(model, layer)
    if isinstance(found, torch.jit.ScriptModule):
        raise LayerError(
            f"Expected layer '{layer}' to be in Python, but it is scripted or traced, and what it "
            "puts out cannot be caught. Explain the model before torch.jit.script or "
            "torch.jit.trace, or choose a layer around it."
        )

    def keep(_module: nn.Module, _inputs: object, output: object) -> object:
        if not isinstance(output, Tensor) or not output.is_floating_point():
            caught._outputs.append(output)
            return output
        if start_graph or not output.requires_grad:
            output = output.detach().requires_grad_()
        caught._outputs.append(output)
        # Models run their frozen parts in no_grad(); the graph continues after them.
        with torch.enable_grad():
            return output.clone()

    handle = found.register_forward_hook(keep)
    try:
        # The caller records the graph here, whatever mode it came from.
        with torch.enable_grad():
            yield caught
    finally:
        handle.remove()
