"""Values to colors, by look-up tables.

``"inferno"`` for maps that are >= 0: black to pale yellow, perceptually uniform (equal steps in the
value look like equal steps in the picture) and readable without color vision. ``"RdBu_r"`` for maps
with a sign: blue below zero, an exactly neutral light gray at zero, red above. Neither contains
pure green, so :data:`NON_FINITE` cannot be mistaken for a value.
"""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from lightning_saliency.errors import InputError

__all__ = ["DIVERGING", "NON_FINITE", "SEQUENTIAL", "apply_colormap"]

SEQUENTIAL = "inferno"
"""The colormap of maps without a sign."""

DIVERGING = "RdBu_r"
"""The colormap of maps with a sign; 0.5 is its neutral middle."""

NON_FINITE = (0.0, 1.0, 0.0)
"""The color (red, green, blue) of pixels that are NaN or infinite."""

# Odd, so that the middle of a diverging map is an entry and not the border between two.
_ENTRIES = 257


def apply_colormap(values: Tensor, name: str = SEQUENTIAL) -> Tensor:
    """Color each pixel by its value.

    Args:
        values: (N, 1, H, W), floating point; below 0 counts as 0 and above 1 as 1.
        name: a colormap of matplotlib, for instance ``"inferno"`` or ``"RdBu_r"``.

    Returns:
        (N, 3, H, W), float32 in [0, 1], on the device of ``values``. Pixels that are NaN or
        infinite have the color :data:`NON_FINITE`.

    Raises:
        InputError: ``values`` has another shape, or there is no such colormap.
    """
    if values.dim() != 4 or values.shape[1] != 1:
        raise InputError(f"Expected values of shape (N, 1, H, W), got {tuple(values.shape)}.")
    finite = values.isfinite()
    position = torch.where(finite, values, 0.0).clamp(0, 1)
    index = (position.float() * (_ENTRIES - 1)).round().long()
    index = torch.where(finite, index, _ENTRIES)
    return _table(name).to(values.device)[index[:, 0]].permute(0, 3, 1, 2)


@lru_cache(maxsize=8)
def _table(name: str) -> Tensor:
    """Return the colors (258, 3): the colormap from 0 to 1, then that of non-finite pixels."""
    # Imported here because it takes a moment, and only a process that draws needs it.
    from matplotlib import colormaps

    if name not in colormaps:
        raise InputError(
            f"Expected the name of a colormap of matplotlib, such as '{SEQUENTIAL}' or "
            f"'{DIVERGING}', got '{name}'."
        )
    colors = colormaps[name].resampled(_ENTRIES)(np.linspace(0, 1, _ENTRIES))[:, :3]
    return torch.tensor([*colors.tolist(), NON_FINITE], dtype=torch.float32)
