"""Call a module through the wrapper that gathers its weights, where a strategy has one."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from torch import Tensor, nn

__all__ = ["ThroughWrapper", "sharding_wrapper"]


def sharding_wrapper(pl_module: pl.LightningModule) -> nn.Module | None:
    """Return the wrapper without which a module cannot be called, None if there is none.

    ``FSDPStrategy`` puts the whole module into one; the weights that lie in the module itself are
    flat pieces until the wrapper is called.

    Args:
        pl_module: the user's module, in a run or not.
    """
    trainer: Any = getattr(pl_module, "_trainer", None)
    wrapper = getattr(getattr(trainer, "strategy", None), "model", None)
    # By name, because the class is there only where torch has its distributed package.
    is_one = any(kind.__name__ == "FullyShardedDataParallel" for kind in type(wrapper).__mro__)
    return wrapper if is_one and wrapper is not pl_module else None


class ThroughWrapper:
    """Calls a module in some way, but through its wrapper.

    Args:
        wrapper: calls the module's ``forward``.
        way: from (pl_module, images) to what holds the class scores; None for the images alone.
    """

    def __init__(self, wrapper: nn.Module, way: Any) -> None:
        self._wrapper = wrapper
        self._way = way

    def __call__(self, pl_module: Any, images: Tensor) -> Any:
        """Return what the module, called in this way, returns.

        Args:
            pl_module: inside the wrapper.
            images: (N, C, H, W).
        """
        if self._way is None:
            return self._wrapper(images)
        own: dict[str, Any] = pl_module.__dict__
        before = own.get("forward")

        def instead(images: Tensor) -> Any:
            # The way may call the module's own forward.
            self._restore(own, before)
            return self._way(pl_module, images)

        own["forward"] = instead
        try:
            return self._wrapper(images)
        finally:
            self._restore(own, before)

    @staticmethod
    def _restore(own: dict[str, Any], before: Any) -> None:
        if before is None:
            own.pop("forward", None)
        else:
            own["forward"] = before
