"""Faithfulness: formulas on the scores of perturbed images, and their mean over a data set.

The model is run in :mod:`~lightning_saliency.trust.faithfulness`. All measures follow the network's
confidence, which rises during training: compare them with the probability of the unperturbed image,
and compare methods at one time rather than one method at two.

============== ============== ======= ============================================================
name           better         range   what
============== ============== ======= ============================================================
insertion      higher         [0, 1]  area under the score while the image is restored, most
                                      important pixels first
deletion       lower          [0, 1]  area under the score while it is removed, in the same order
average_drop   lower          [0, 1]  share of the score that is lost on image x map
increase       higher         [0, 1]  share of the images whose score rises on image x map
road           higher         [-.5,   half the difference of the scores after removing the least and
                              .5]     the most important pixels, mean over shares
============== ============== ======= ============================================================
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from lightning_saliency.errors import InputError

FAITHFULNESS: Mapping[str, bool] = MappingProxyType(
    {"insertion": True, "deletion": False, "average_drop": False, "increase": True, "road": True}
)
"""The measures by name, each with whether higher is better."""


def curve_area(scores: Tensor) -> Tensor:
    """Return the area under curves of scores, by trapezoids, over an axis from 0 to 1.

    Insertion and deletion of Petsiuk, Das, Saenko. RISE: randomized input sampling for explanation
    of black-box models. BMVC 2018, arXiv:1806.07421.

    Args:
        scores: (N, S + 1), floating point: after 0, 1, ..., S equal steps; S at least 1.

    Returns:
        (N,), of the scores' dtype: the mean of the scores, the first and the last with half the
        weight.

    Raises:
        InputError: there are not at least two scores for each image.

    Example:
        >>> import torch
        >>> curve_area(torch.tensor([[0.0, 0.5, 1.0], [0.0, 1.0, 1.0]]))
        tensor([0.5000, 0.7500])
    """
    if scores.dim() != 2 or scores.shape[1] < 2:
        raise InputError(
            f"Expected scores (N, steps + 1) with at least one step, got {tuple(scores.shape)}."
        )
    return torch.trapezoid(scores, dim=1) / (scores.shape[1] - 1)


def confidence_drop(clean: Tensor, explained: Tensor) -> Tensor:
    """Return the share of each score that is lost on the explained part of the image.

    max(0, clean - explained) / clean; its mean is the average drop (there in percent) of
    Chattopadhay, Sarkar, Howlader, Balasubramanian. Grad-CAM++. WACV 2018, arXiv:1710.11063.

    Args:
        clean: (N,), the scores on the images.
        explained: (N,), the scores on image x map.

    Returns:
        (N,), in [0, 1] for probabilities; NaN where the clean score is not positive.

    Raises:
        InputError: the shapes differ.
    """
    _check_pair(clean, explained)
    drop = (clean - explained).clamp_min(0) / clean
    return drop.where(clean > 0, torch.nan)


def confidence_increase(clean: Tensor, explained: Tensor) -> Tensor:
    """Return which scores rise on the explained part of the image, as 0 or 1.

    Its mean is the increase in confidence (there in percent) of the paper of
    :func:`confidence_drop`.

    Args:
        clean: (N,), the scores on the images.
        explained: (N,), the scores on image x map.

    Returns:
        (N,), of the scores' dtype.

    Raises:
        InputError: the shapes differ.
    """
    _check_pair(clean, explained)
    return (explained > clean).to(clean.dtype)


def removal_contrast(most_first: Tensor, least_first: Tensor) -> Tensor:
    """Return half the difference of the scores between two orders of removing pixels.

    The mean over the shares of (least first - most first) / 2, the way in which pytorch-grad-cam
    combines the two orders of ROAD: Rong, Leemann, Borisov, Kasneci, Kasneci. A consistent and
    efficient evaluation strategy for attribution methods. ICML 2022, arXiv:2202.00449.

    Args:
        most_first: (N, K), scores after removing K shares of the pixels, the most important ones.
        least_first: (N, K), scores after removing as many, the least important ones.

    Returns:
        (N,), in [-0.5, 0.5] for probabilities.

    Raises:
        InputError: the shapes differ, or there is no share.
    """
    if most_first.shape != least_first.shape or most_first.dim() != 2 or not most_first.shape[1]:
        raise InputError(
            "Expected two tables of scores (N, shares) of one shape, got "
            f"{tuple(most_first.shape)} and {tuple(least_first.shape)}."
        )
    return (least_first - most_first).mean(1) / 2


class Faithfulness(Metric):
    """Mean faithfulness over samples, batches and processes.

    ``update(values)`` takes what
    :func:`~lightning_saliency.trust.faithfulness.measure_faithfulness` returned for some images.
    ``compute()`` returns the mean of each measure over the images for which it is not NaN (NaN if
    there is none), and ``degenerate_frac``, the share of images for which one is.

    Args:
        measures: names of :data:`FAITHFULNESS`.
        kwargs: what every ``torchmetrics.Metric`` takes, for instance ``sync_on_compute``.

    Raises:
        InputError: ``measures`` is empty, or a name is unknown or there twice.

    Example:
        >>> import torch
        >>> metric = Faithfulness(["deletion"])
        >>> metric.update({"deletion": torch.tensor([0.25, float("nan")])})
        >>> metric.update({"deletion": torch.tensor([0.75])})
        >>> metric.compute()
        {'deletion': tensor(0.5000), 'degenerate_frac': tensor(0.3333)}
    """

    is_differentiable = False
    full_state_update = False

    def __init__(self, measures: Sequence[str] = ("insertion", "deletion"), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_measures(measures)
        if not measures:
            raise InputError(f"Expected at least one of {', '.join(FAITHFULNESS)}, got none.")
        self.measures = tuple(measures)
        for name in self.measures:
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, values: Mapping[str, Tensor]) -> None:
        """Add some images.

        Args:
            values: for each of the measures (N,); N may be 0. Others may be there, too.

        Raises:
            InputError: a measure is missing, or they are not of one shape (N,).
        """
        missing = [name for name in self.measures if name not in values]
        if missing:
            raise InputError(
                f"Expected values for {', '.join(self.measures)}, got none for '{missing[0]}'."
            )
        shapes = {tuple(values[name].shape) for name in self.measures}
        if len(shapes) > 1 or len(next(iter(shapes))) != 1:
            raise InputError(f"Expected one value for each image, got shapes {sorted(shapes)}.")
        for name in self.measures:
            getattr(self, name).append(values[name].detach().to(self.device, torch.float32))

    def compute(self) -> dict[str, Tensor]:
        """Return the means over the images.

        Returns:
            For each measure, and ``degenerate_frac``, a scalar tensor, float32.
        """
        none = torch.zeros(0, device=self.device)
        states = {name: getattr(self, name) for name in self.measures}
        values = {
            name: dim_zero_cat(state) if len(state) else none for name, state in states.items()
        }
        means = {name: value.nanmean() for name, value in values.items()}
        missing = torch.stack([value.isnan() for value in values.values()]).any(0)
        return {**means, "degenerate_frac": missing.float().mean()}


def check_measures(measures: object) -> None:
    """Raise unless ``measures`` is a list of different names of :data:`FAITHFULNESS`.

    Args:
        measures: as the user gave them; may be empty.

    Raises:
        InputError: it is no list, or a name is unknown or there twice.
    """
    known = ", ".join(f"'{name}'" for name in FAITHFULNESS)
    if isinstance(measures, str) or not isinstance(measures, Sequence):
        raise InputError(f"Expected a list of measures out of {known}, got {measures!r}.")
    for name in measures:
        if name not in FAITHFULNESS:
            raise InputError(f"Expected measures out of {known}, got {name!r}.")
    if len(set(measures)) != len(measures):
        raise InputError(f"Expected each measure once, got {list(measures)}.")


def _check_pair(clean: Tensor, explained: Tensor) -> None:
    if clean.dim() != 1 or clean.shape != explained.shape:
        raise InputError(
            "Expected one clean and one explained score for each image, got shapes "
            f"{tuple(clean.shape)} and {tuple(explained.shape)}."
        )
