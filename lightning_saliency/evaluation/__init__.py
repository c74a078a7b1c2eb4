"""Judging methods on whole datasets, on Lightning's engine."""

from lightning_saliency.evaluation.pointing_module import PointingGameModule
from lightning_saliency.evaluation.pointing_run import run_pointing_game

__all__ = ["PointingGameModule", "run_pointing_game"]
