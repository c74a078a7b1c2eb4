"""The positive parts of a network's weights, one layer after the other."""

import torch
from torch import Tensor

from lightning_saliency.errors import ModelError

__all__ = ["PositiveWeights"]


class PositiveWeights:
    """Gives the positive part of a layer's weights, in memory that the next layer's will take.

    On a CPU, memory that has just been asked for costs more than the numbers that go there.
    """

    def __init__(self) -> None:
        self._memory = torch.empty(0)

    def part(self, weight: Tensor, sign: int, like: Tensor) -> Tensor:
        """Return max(sign · weight, 0), to be read before the next call.

        Args:
            weight: of any shape; needs no gradient.
            sign: 1, or -1 for the negative part.
            like: what it will be multiplied by; the result has its dtype.

        Raises:
            ModelError: the weights are not in memory any more.
        """
        # Reading them all the same would end the process.
        if weight.untyped_storage().nbytes() == 0 < weight.numel():
            raise ModelError(
                "Expected weights that stay in memory, but a sharded model has given its gathered "
                "weights back before excitation backprop was done with them. Explain a whole "
                "copy of the model, or take another method."
            )
        if not _is_plain(weight) or weight.dtype != like.dtype:
            part = weight.clamp(min=0) if sign > 0 else -weight.clamp(max=0)
            return part.to(like.dtype)
        memory = self._memory_for(weight)
        if sign > 0:
            return torch.clamp(weight, min=0, out=memory)
        return torch.clamp(weight, max=0, out=memory).neg_()

    def _memory_for(self, weight: Tensor) -> Tensor:
        if self._memory.dtype != weight.dtype or self._memory.numel() < weight.numel():
            self._memory = torch.empty(weight.numel(), dtype=weight.dtype)
        return self._memory[: weight.numel()].view(weight.shape)


def _is_plain(weight: Tensor) -> bool:
    return (
        type(weight) in (Tensor, torch.nn.Parameter)
        and weight.device.type == "cpu"
        and weight.is_contiguous()
    )
