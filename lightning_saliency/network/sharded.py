"""Tell models whose weights are spread over processes from others."""

from torch import nn

__all__ = ["is_sharded"]

# By name, because the classes are there only where torch has its distributed package.
_SHARDED_MODULES = {"FSDPModule", "FullyShardedDataParallel"}
_SHARDED_WEIGHTS = {"DTensor"}


def is_sharded(model: nn.Module) -> bool:
    """Whether a part of the weights is gathered for a pass and given back after it.

    Such weights serve one backward pass for each forward pass, and all processes have to make
    the same number of passes. Known are FSDP, tensors spread over a mesh, and DeepSpeed's stage 3.

    Args:
        model: any module.
    """
    return any(
        _SHARDED_MODULES & {kind.__name__ for kind in type(module).__mro__}
        for module in model.modules()
    ) or any(
        _SHARDED_WEIGHTS & {type(weight).__name__, type(weight.data).__name__}
        or hasattr(weight, "ds_id")
        for weight in model.parameters()
    )
