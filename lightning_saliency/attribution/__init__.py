"""Attribution methods: one file each, a frozen dataclass and a function."""

from lightning_saliency.attribution.method import AttributionMethod as AttributionMethod
from lightning_saliency.attribution.method import concrete_methods as _concrete_methods
from lightning_saliency.attribution.rise_estimation.estimators import RISEEstimate as RISEEstimate
from lightning_saliency.network.grid import TokenGrid as TokenGrid

# A method enrolls everywhere by one line here. They stand in the order of the tables.
# isort: off
from lightning_saliency.attribution.gradient import Gradient as Gradient
from lightning_saliency.attribution.deconvnet import DeconvNet as DeconvNet
from lightning_saliency.attribution.guided_backprop import GuidedBackprop as GuidedBackprop
from lightning_saliency.attribution.linear_approx import LinearApprox as LinearApprox
from lightning_saliency.attribution.excitation_backprop import (
    ExcitationBackprop as ExcitationBackprop,
)
from lightning_saliency.attribution.excitation_backprop import (
    ContrastiveExcitationBackprop as ContrastiveExcitationBackprop,
)
from lightning_saliency.attribution.attn_lrp import AttnLRP as AttnLRP
from lightning_saliency.attribution.rise import RISE as RISE
from lightning_saliency.attribution.grad_cam import GradCAM as GradCAM
from lightning_saliency.attribution.grad_cam_plus_plus import GradCAMPlusPlus as GradCAMPlusPlus
from lightning_saliency.attribution.hires_cam import HiResCAM as HiResCAM
from lightning_saliency.attribution.layer_cam import LayerCAM as LayerCAM
from lightning_saliency.attribution.extremal_perturbation import (
    ExtremalPerturbation as ExtremalPerturbation,
)
# isort: on

METHODS = _concrete_methods(list(globals().values()))
"""All methods."""

__all__ = sorted(name for name in dir() if name[0].isupper())
