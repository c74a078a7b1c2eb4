"""One callback for each method, with all its settings spelled out, for editors and YAML files."""

from lightning_saliency.callbacks.named.contrastive_excitation_backprop import (
    ContrastiveExcitationBackpropCallback,
)
from lightning_saliency.callbacks.named.deconvnet import DeconvNetCallback
from lightning_saliency.callbacks.named.excitation_backprop import ExcitationBackpropCallback
from lightning_saliency.callbacks.named.extremal_perturbation import ExtremalPerturbationCallback
from lightning_saliency.callbacks.named.grad_cam import GradCAMCallback
from lightning_saliency.callbacks.named.gradient import GradientCallback
from lightning_saliency.callbacks.named.guided_backprop import GuidedBackpropCallback
from lightning_saliency.callbacks.named.linear_approx import LinearApproxCallback
from lightning_saliency.callbacks.named.rise import RISECallback

__all__ = [
    "ContrastiveExcitationBackpropCallback",
    "DeconvNetCallback",
    "ExcitationBackpropCallback",
    "ExtremalPerturbationCallback",
    "GradCAMCallback",
    "GradientCallback",
    "GuidedBackpropCallback",
    "LinearApproxCallback",
    "RISECallback",
]
