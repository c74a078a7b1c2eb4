"""What FSDP keeps of a pass, beside what Python reaches from the modules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn


@contextmanager
def no_waiting_hooks(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Let no hook on a flat parameter outlive the passes that it was made for.

    FSDP hooks the backward pass on each forward pass that records gradients, in one way for frozen
    weights and in another for trained ones, and keeps the hook until a backward pass has come by.
    Where none does (only the output was wanted, or the gradient of a layer further up), the next
    training step would find a hook for frozen weights, and fail.

    Args:
        modules: of which some may be wrapped.
    """
    handles = [getattr(module, "_handle", None) for module in modules]
    flat = [getattr(handle, "flat_param", None) for handle in handles]
    weights = [weight for weight in flat if weight is not None]
    known = [getattr(weight, "_post_backward_hook_state", None) for weight in weights]
    try:
        yield
    finally:
        for weight, before in zip(weights, known, strict=True):
            state = getattr(weight, "_post_backward_hook_state", None)
            if state is not None and state is not before:
                state[-1].remove()
                del weight._post_backward_hook_state
