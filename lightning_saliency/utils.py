"""Choice of the device."""

import torch

__all__ = ["get_device"]


def get_device(gpu: int = 0) -> torch.device:
    """Return an accelerator if there is one, else the CPU.

    Args:
        gpu: which CUDA device, counted from 0, if there are several.

    Returns:
        ``cuda:<gpu>``; without CUDA, ``mps`` on a Mac that has it; else ``cpu``.
    """
    if torch.cuda.is_available():
        return torch.device(f"cuda:{gpu}")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")
