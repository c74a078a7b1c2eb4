"""How far saliency maps have moved from earlier maps of the same images.

Drift alone is hard to interpret: the maps of a stochastic method move a little on unchanged
weights, and maps of different images can be similar. So it can also be expressed relative to both,
see :func:`calibrated_drift`.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from lightning_saliency.image.saliency_map import to_float64
from lightning_saliency.metrics.map_similarity import MEASURES, Number, similarity
from lightning_saliency.metrics.map_statistics import MapStatistics, canonical

LEAST_RANGE = 0.1
"""By how much chance must move maps farther than noise, for drift to be set in relation to both."""


def sample_drift(current: Tensor, reference: Tensor, size: int = 64) -> dict[str, Tensor]:
    """Compare each map with the reference of the same image, by all measures.

    Args:
        current: (N, 1, H, W), floating point.
        reference: maps of the same images; (N, 1, H, W), or already in canonical form.
        size: compare at no more than this many pixels on the longer side.

    Returns:
        For each name of :data:`MEASURES` (N,), on the maps' device. All of them are NaN where one
        of the two maps is degenerate, none elsewhere.

    Raises:
        InputError: these are no maps, or they differ in number, aspect ratio or device.
    """
    return similarity(
        MapStatistics(canonical(current, size)), MapStatistics(canonical(reference, size))
    )


def mean_drift(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Average over the samples that could be compared.

    Args:
        values: from :func:`sample_drift`, for all samples or some of them; (N,) each.

    Returns:
        For each measure its mean over the samples without NaN, and ``degenerate_frac``, the
        fraction of samples with NaN; float32, no dimensions. A mean over no sample is NaN.
    """
    every = torch.stack(tuple(values.values()))
    means = to_float64(every).nanmean(1).float().to(every.device)
    missing = every.isnan().any(0)
    named = dict(zip(values, means.unbind(), strict=True))
    return {**named, "degenerate_frac": missing.float().mean()}


def chance_drift(maps: Tensor, size: int = 64) -> dict[str, Tensor]:
    """Compare each map with that of the next sample: the level of unrelated maps.

    Args:
        maps: (N, 1, H, W), one explanation of different images by one method.
        size: compare at no more than this many pixels on the longer side.

    Returns:
        For each name of :data:`MEASURES` (M,), where M is the number of maps that are not
        degenerate, 0 if there is only one.

    Raises:
        InputError: these are no maps.
    """
    return chance_of(MapStatistics(canonical(maps, size)))


def chance_of(maps: MapStatistics) -> dict[str, Tensor]:
    """Return :func:`chance_drift` of maps whose statistics exist already.

    Args:
        maps: N maps of different images, in canonical form.

    Returns:
        For each name of :data:`MEASURES` (M,), as :func:`chance_drift`.
    """
    shown = (~maps.is_degenerate).nonzero()[:, 0]
    if len(shown) == 1:
        shown = shown[:0]
    return similarity(maps.of(shown), maps.of(shown.roll(1)))


def drift_amount(measure: str, value: Number) -> Number:
    """Turn a measure's value into one that is 0 for equal maps and larger the more they differ.

    That is 1 - value for the similarities, the value itself for ``center_shift``, and the
    magnitude for ``log2_norm_ratio``; the same as ``MEASURES[measure].amount(value)``.

    Args:
        measure: a name of :data:`MEASURES`.
        value: what it gave.
    """
    return MEASURES[measure].amount(value)


def calibrated_drift(
    values: Mapping[str, Tensor],
    chance: Mapping[str, Tensor],
    noise: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Return drift relative to the method's own noise and to chance.

    With the :func:`drift_amount` d: max(0, d - d_noise) / (d_chance - d_noise), at most 1. 0 is the
    level of running the method twice on the same weights, 1 that of maps of different images.

    Args:
        values: means from :func:`mean_drift`; more names than the measures may be in it.
        chance: means of :func:`chance_drift`, of the same explanation.
        noise: means of the drift between two runs on the same weights with different seeds; None
            for a deterministic method.

    Returns:
        A number in [0, 1] for each measure that is calibrated (all but ``log2_norm_ratio``); NaN
        where noise moves the maps nearly as far as chance does, less than :data:`LEAST_RANGE` of
        what unrelated maps would (of ``center_shift``: as far), so that drift cannot be
        distinguished.
    """
    relative = {}
    for name, measure in MEASURES.items():
        if measure.is_calibrated:
            amount, most = measure.amount(values[name]), measure.amount(chance[name])
            least = torch.zeros_like(most) if noise is None else measure.amount(noise[name])
            share = ((amount - least) / (most - least)).clamp(0, 1)
            room = LEAST_RANGE if measure.is_similarity else 0.0
            relative[name] = share.where(most - least > room, torch.nan)
    return relative


class SaliencyDrift(Metric):
    """Mean drift of saliency maps over samples, batches and processes.

    ``update(current, reference)`` takes maps of the same images from two times; ``compute()``
    returns what :func:`mean_drift` does, for the samples of all batches and processes.

    Args:
        size: compare at no more than this many pixels on the longer side.
        kwargs: what every ``torchmetrics.Metric`` takes, for instance ``sync_on_compute``.

    Example:
        >>> import torch
        >>> maps = torch.arange(16.0).reshape(1, 1, 4, 4)
        >>> drift = SaliencyDrift()
        >>> drift.update(maps, maps.flip(2))
        >>> drift.compute()["spearman"]
        tensor(-0.8824)
    """

    is_differentiable = False
    full_state_update = False

    def __init__(self, size: int = 64, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.size = size
        for name in MEASURES:
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, current: Tensor, reference: Tensor) -> None:
        """Compare a batch of maps with the references of the same images.

        Args:
            current: (N, 1, H, W), floating point; N may be 0.
            reference: (N, 1, H, W), or already in canonical form.

        Raises:
            InputError: these are no maps, or they differ in number, aspect ratio or device.
        """
        for name, values in sample_drift(current, reference, self.size).items():
            getattr(self, name).append(values.to(self.device, torch.float32))

    @property
    def per_sample(self) -> dict[str, Tensor]:
        """The values of :func:`sample_drift` of this process, in the order of the updates."""
        states = {name: getattr(self, name) for name in MEASURES}
        none = torch.zeros(0, device=self.device)
        return {name: dim_zero_cat(state) if len(state) else none for name, state in states.items()}

    def compute(self) -> dict[str, Tensor]:
        """Return the mean of each measure, and ``degenerate_frac``; see :func:`mean_drift`."""
        return mean_drift(self.per_sample)
