"""Scanned handwritten digits, split into two sets of which each has every class equally often."""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_saliency.errors import DependencyError

__all__ = ["CLASSES", "Split", "enlarge", "load_scans"]

Split: TypeAlias = Literal["train", "val"]
"""Which scans: the first of each class to train with, or others to validate with."""

CLASSES = 10
"""The digits 0 to 9."""

# Of each class; every class has at least 174.
_TRAIN_SCANS = 139
_VAL_SCANS = 35


def load_scans(split: Split) -> Tensor:
    """Return the scans of a split, float32 (n, 8, 8) in [0, 1]; scan i shows the digit i % 10.

    Raises:
        DependencyError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DependencyError(
            "Expected scikit-learn, which ships the scanned digits, but it cannot be imported. "
            "Install it: pip install lightning-saliency[demo]"
        ) from error
    digits = load_digits()
    chosen = slice(0, _TRAIN_SCANS) if split == "train" else slice(_TRAIN_SCANS, None)
    count = _TRAIN_SCANS if split == "train" else _VAL_SCANS
    by_class = [digits.images[digits.target == label][chosen][:count] for label in range(CLASSES)]
    scans = np.stack(by_class, axis=1).reshape(-1, 8, 8) / 16
    return torch.from_numpy(scans).float()


def enlarge(scans: Tensor, side: int) -> Tensor:
    """Enlarge scans (n, 8, 8) to opacities (n, side, side) in [0, 1], with an empty border."""
    large = F.interpolate(F.pad(scans, (1, 1, 1, 1))[:, None], size=(side, side), mode="bicubic")
    # Steeper between paper and ink, or the strokes would be blurred as much as enlarged.
    ink = ((large[:, 0] - 0.15) / 0.55).clamp(0, 1)
    return ink * ink * (3 - 2 * ink)
