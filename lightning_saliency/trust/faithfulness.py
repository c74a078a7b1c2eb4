"""Does the network need what a map marks? Disturb the image by the map, and ask the network."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_saliency.attribution.guard import guarded
from lightning_saliency.errors import InputError
from lightning_saliency.image.perturbation import PerturbationKind
from lightning_saliency.image.saliency_map import check_maps, degenerate, resize, unit_range
from lightning_saliency.metrics.faithfulness import (
    check_measures,
    confidence_drop,
    confidence_increase,
    curve_area,
    removal_contrast,
)
from lightning_saliency.network.batching import BatchSize, batches_for
from lightning_saliency.network.score import Target
from lightning_saliency.trust.removal import (
    Probe,
    insertion_and_deletion_curve,
    pixel_ranks,
    removal_scores,
)


def measure_faithfulness(
    model: nn.Module,
    image: Tensor,
    saliency: Tensor,
    target: Target,
    measures: Sequence[str] = ("insertion", "deletion"),
    steps: int = 16,
    baseline: PerturbationKind | None = None,
    batch_size: BatchSize = "auto",
) -> dict[str, Tensor]:
    """Measure how faithful maps are to the model that they explain.

    The score is the probability of the target. The measures, their papers and which way is better
    are in :mod:`~lightning_saliency.metrics.faithfulness`. Forward passes for each image, besides
    one on the image as it is:

    - ``"insertion"``, ``"deletion"``: ``steps`` each. Pixels come and go in the order of the map,
      with its sign; equal ones in an order that is arbitrary, but not by rows.
    - ``"average_drop"``, ``"increase"``: one for both, on the image times the map, which is scaled
      to [0, 1] by its own range.
    - ``"road"``: 18, and as many linear systems of one equation for each removed pixel: 10 % to
      90 % of the pixels are removed, the most and the least important ones.

    Args:
        model: takes ``image`` and returns class scores; it is not changed.
        image: (N, C, H, W), as the model takes it.
        saliency: (N, 1, h, w), the maps, on the same device; resized (bilinear) to the image.
        target: what the maps explain; a callable's scores are taken as they are.
        measures: names of :data:`~lightning_saliency.metrics.FAITHFULNESS`.
        steps: of insertion and deletion, 16 to 32 for a stable figure.
        baseline: what an image without pixels is, for insertion and deletion: ``"blur"`` (sigma 20
            at 224 pixels, in proportion) or ``"fade"`` (zero); None for the paper's, blur for
            insertion and fade for deletion.
        batch_size: how many images go through the model at once.

    Returns:
        For each measure (N,), float32 at least. NaN where the map is degenerate (constant or not
        finite): it has no order to follow.

    Raises:
        InputError: the images, the maps, the target or a setting cannot be used.
        ModelError: the model does not return class scores.

    Example:
        >>> from lightning_saliency.attribution import GradCAM
        >>> from lightning_saliency.benchmark import get_example_data
        >>> model, image, category, _ = get_example_data()
        >>> maps = GradCAM()(model, image, category)
        >>> values = measure_faithfulness(model, image, maps, category)
        >>> sorted(values)
        ['deletion', 'insertion']
    """
    check_measures(measures)
    with guarded(model, image) as images, torch.no_grad():
        maps = _fitting(saliency, images)
        probe = Probe.of(model, images, target, batches_for(batch_size, images))
        values: dict[str, Tensor] = {}
        if {"insertion", "deletion", "road"} & set(measures):
            ranks = pixel_ranks(maps)
        for name in ("insertion", "deletion"):
            if name in measures:
                curve = insertion_and_deletion_curve(
                    probe, ranks, name == "insertion", steps, baseline
                )
                values[name] = curve_area(curve)
        if {"average_drop", "increase"} & set(measures):
            explained = _on_the_map(probe, maps)
            values["average_drop"] = confidence_drop(probe.clean, explained)
            values["increase"] = confidence_increase(probe.clean, explained)
        if "road" in measures:
            values["road"] = removal_contrast(*removal_scores(probe, ranks))
        shown = ~degenerate(maps)
        return {name: values[name].where(shown, torch.nan) for name in measures}


def _fitting(saliency: object, image: Tensor) -> Tensor:
    maps = check_maps(saliency)
    if len(maps) != len(image) or maps.device != image.device:
        raise InputError(
            f"Expected one map for each of the {len(image)} images, on {image.device}, got "
            f"{len(maps)} on {maps.device}."
        )
    maps = maps.detach().to(torch.promote_types(maps.dtype, torch.float32))
    return resize(maps, (image.shape[2], image.shape[3]))


def _on_the_map(probe: Probe, maps: Tensor) -> Tensor:
    """Return the scores (N,) on the image times the map in [0, 1]."""
    unit = unit_range(maps).to(probe.image.dtype)
    return probe.scores(1, lambda owner, _: probe.image[owner] * unit[owner])[:, 0]
