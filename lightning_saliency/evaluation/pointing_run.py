"""Play the pointing game with several methods, and make the table."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import lightning.pytorch as pl
import torch

from lightning_saliency.attribution import AttributionMethod
from lightning_saliency.attribution.pointing import PointingPreset
from lightning_saliency.benchmark.pointing_data import PointingData
from lightning_saliency.benchmark.pointing_models import PointingModel
from lightning_saliency.benchmark.pointing_recipes import Recipe, pointing_recipe
from lightning_saliency.benchmark.pointing_report import PointingReport, score
from lightning_saliency.benchmark.pointing_results import PointingResults
from lightning_saliency.errors import InputError
from lightning_saliency.evaluation.pointing_module import PointingGameModule
from lightning_saliency.network.isolation.undisturbed import undisturbed


def run_pointing_game(
    methods: Sequence[str | AttributionMethod | Recipe],
    model: PointingModel,
    data: PointingData,
    results: str | Path,
    trainer: pl.Trainer | None = None,
    *,
    batch_size: int = 16,
    num_workers: int = 0,
    limit: int | None = None,
    preset: PointingPreset | None = None,
    allow_missing: bool = False,
) -> PointingReport:
    """Play the pointing game with each method, resume where an earlier run stopped, and sum up.

    Args:
        methods: names (see :data:`~lightning_saliency.benchmark.pointing_recipes.METHODS`), methods
            of your own, or recipes.
        model: the model; its classes are the dataset's, in the same order.
        data: the dataset.
        results: the file that results are written to, and resumed from.
        trainer: runs the test loop, on its devices, with its loggers and callbacks; None for a
            plain one.
        batch_size: the largest number of maps made at once. Results do not depend on it, but for
            rounding.
        num_workers: processes that read pictures, for each device.
        limit: how many pictures to use, from the first on.
        preset: of the methods that are given by name.
        allow_missing: begin although pictures or annotations are known to be missing; they are
            skipped and listed in the report.

    Returns:
        The scores of each method, what was skipped, and the table in several forms.

    Raises:
        InputError: a setting, the model, the dataset or the file cannot be used; before the first
            picture is explained.
    """
    recipes = [_as_recipe(method, model, data, preset) for method in methods]
    names = [recipe.name for recipe in recipes]
    if not names or len(set(names)) < len(names):
        raise InputError(f"Expected one or more different methods, got {names}.")
    check_pointing_data(data, allow_missing)
    if any(recipe.method is not None for recipe in recipes):
        check_pointing_model(model, data)
    file = PointingResults(results)
    modules = [
        PointingGameModule(recipe, model, data, file, batch_size, num_workers, limit)
        for recipe in recipes
    ]
    trainer = trainer or pl.Trainer(
        logger=False, enable_checkpointing=False, enable_model_summary=False
    )
    with warnings.catch_warnings():
        # Pictures are distributed without repeating any, so several devices give the same as one.
        warnings.filterwarnings("ignore", ".*DistributedSampler.*")
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        # From inside Lightning, on some versions of torch; nothing that a user can change.
        warnings.filterwarnings("ignore", ".*isinstance.treespec, (Leaf|Tree)Spec.*")
        for module in modules:
            trainer.test(module, verbose=False)
    return PointingReport(
        data.name,
        model.name,
        len(modules[0].wanted),
        tuple(score(file, module.run_id, module.recipe.name, data, limit) for module in modules),
    )


def check_pointing_data(data: PointingData, allow_missing: bool = False) -> None:
    """Raise if the dataset is empty, ambiguous or incomplete.

    Args:
        data: the dataset.
        allow_missing: accept missing pictures or annotations.

    Raises:
        InputError: there are no pictures, some are missing, or two have the same name.
    """
    names = {annotation.name for annotation in data.annotations}
    if len(names) < len(data) or not names:
        raise InputError(
            f"Expected pictures of different names in {data.name}, got {len(data)} of "
            f"{len(names)} names."
        )
    if not any(annotation.classes for annotation in data.annotations) and not data.missing:
        raise InputError(f"Expected objects in the pictures of {data.name}, got none.")
    if data.missing and not allow_missing:
        first = ", ".join(f"{name} ({said})" for name, said in list(data.missing.items())[:3])
        raise InputError(
            f"Expected all {len(data)} pictures of {data.name} and their annotations, but "
            f"{len(data.missing)} cannot be used: {first}{', ...' if len(data.missing) > 3 else ''}"
            ". Complete the dataset, or skip them (--allow-skipped, or allow_missing=True)."
        )


def check_pointing_model(model: PointingModel, data: PointingData) -> None:
    """Raise if the model does not give one score for each class of the dataset.

    Args:
        model: the model; it sees one empty picture.
        data: the dataset.

    Raises:
        InputError: it fails, or gives another number of scores.
    """
    parameter = next(model.module.parameters(), torch.zeros(()))
    size = next((a.size for a in data.annotations if a.classes), (224, 224))
    image = torch.zeros(1, 3, *model.preprocessing.size(size), device=parameter.device)
    try:
        with undisturbed(model.module), torch.no_grad():
            scores = model.module(image)
    except Exception as error:
        raise InputError(
            f"Expected a model that takes pictures of {data.name}, but on one of shape "
            f"{tuple(image.shape)} it fails: {error}"
        ) from error
    classes = len(data.class_names)
    if not isinstance(scores, torch.Tensor) or scores.dim() not in (2, 4):
        came = tuple(scores.shape) if isinstance(scores, torch.Tensor) else type(scores).__name__
        raise InputError(f"Expected scores (N, classes) or (N, classes, h, w), got {came}.")
    if scores.shape[1] != classes:
        raise InputError(
            f"Expected a model with a score for each of the {classes} classes of {data.name}, in "
            f"the same order, got {scores.shape[1]} scores. Fine-tune it on these classes, or pick "
            "their scores out in its forward."
        )


def _as_recipe(
    method: str | AttributionMethod | Recipe,
    model: PointingModel,
    data: PointingData,
    preset: PointingPreset | None,
) -> Recipe:
    if isinstance(method, Recipe):
        return method
    if isinstance(method, AttributionMethod):
        return Recipe(method.name, method)
    return pointing_recipe(method, model, data, preset)
