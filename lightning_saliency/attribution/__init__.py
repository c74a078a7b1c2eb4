"""Attribution methods: one file each, a frozen dataclass and a function."""

from lightning_saliency.attribution.contrastive_excitation_backprop import (
    ContrastiveExcitationBackprop,
)
from lightning_saliency.attribution.deconvnet import DeconvNet
from lightning_saliency.attribution.excitation_backprop import ExcitationBackprop
from lightning_saliency.attribution.extremal_perturbation import ExtremalPerturbation
from lightning_saliency.attribution.grad_cam import GradCAM
from lightning_saliency.attribution.gradient import Gradient
from lightning_saliency.attribution.guided_backprop import GuidedBackprop
from lightning_saliency.attribution.linear_approx import LinearApprox
from lightning_saliency.attribution.method import AttributionMethod
from lightning_saliency.attribution.rise import RISE
from lightning_saliency.attribution.rise_estimation.estimators import RISEEstimate

__all__ = [
    "AttributionMethod",
    "ContrastiveExcitationBackprop",
    "DeconvNet",
    "ExcitationBackprop",
    "ExtremalPerturbation",
    "GradCAM",
    "Gradient",
    "GuidedBackprop",
    "LinearApprox",
    "RISE",
    "RISEEstimate",
]
