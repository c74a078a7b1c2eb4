"""Data with known answers: what a method should find, and how to look at what it finds."""

from lightning_saliency.benchmark.cluttered_digits import ClutteredDigits
from lightning_saliency.benchmark.coco import COCOPointing
from lightning_saliency.benchmark.example import get_example_data, get_example_regions
from lightning_saliency.benchmark.fully_convolutional import fully_convolutional
from lightning_saliency.benchmark.plot_example import plot_example
from lightning_saliency.benchmark.pointing_data import Annotation, PointingData
from lightning_saliency.benchmark.pointing_digits import DigitsPointing
from lightning_saliency.benchmark.pointing_figure import pointing_figure
from lightning_saliency.benchmark.pointing_models import Layers, PointingModel, load_pointing_model
from lightning_saliency.benchmark.pointing_recipes import METHODS, Recipe, pointing_recipe
from lightning_saliency.benchmark.pointing_report import PointingReport
from lightning_saliency.benchmark.preprocessing import Preprocessing
from lightning_saliency.benchmark.tetromino_scores import (
    TetrominoReport,
    run_tetrominoes,
    tetromino_explainers,
)
from lightning_saliency.benchmark.tetrominoes import Tetrominoes, make_tetrominoes
from lightning_saliency.benchmark.voc import VOCPointing

__all__ = [
    "Annotation",
    "COCOPointing",
    "ClutteredDigits",
    "DigitsPointing",
    "Layers",
    "METHODS",
    "PointingData",
    "PointingModel",
    "PointingReport",
    "Preprocessing",
    "Recipe",
    "TetrominoReport",
    "Tetrominoes",
    "VOCPointing",
    "fully_convolutional",
    "get_example_data",
    "get_example_regions",
    "load_pointing_model",
    "make_tetrominoes",
    "plot_example",
    "pointing_figure",
    "pointing_recipe",
    "run_tetrominoes",
    "tetromino_explainers",
]
