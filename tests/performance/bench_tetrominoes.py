"""XAI-TRIS's tetrominoes: precision and earth mover's distance of the maps of three packages.

python tests/performance/bench.py tetrominoes

TorchRay's extremal perturbation is left out: 800 iterations for each of some hundred pictures.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import captum.attr
import torch
from torch import Tensor, nn
from torchray.attribution import deconvnet, excitation_backprop, gradient, guided_backprop
from torchray.attribution import grad_cam as torchray_grad_cam
from torchray.attribution.rise import rise_class

from lightning_saliency.benchmark.tetromino_scores import (
    TetrominoExplainer,
    run_tetrominoes,
    tetromino_explainers,
)
from lightning_saliency.image.saliency_map import resize

LAYER = "features.1"
MASKS = 4000


def of_captum(make: Callable[[nn.Module], Any], **settings: Any) -> TetrominoExplainer:
    """Return an explainer of captum's, which sums over the one channel."""

    def explain(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
        maps = make(model).attribute(images.clone().requires_grad_(), target=classes, **settings)
        return resize(maps.detach(), (8, 8))

    return explain


def of_torchray(function: Callable[..., Tensor], **settings: Any) -> TetrominoExplainer:
    """Return an explainer of TorchRay's."""

    def explain(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
        # It freezes parameters and leaves hooks.
        own = deepcopy(model)
        maps = [
            function(own, image[None], target=label[None], **settings)
            for image, label in zip(images, classes, strict=True)
        ]
        return resize(torch.cat(maps).detach(), (8, 8))

    return explain


def rivals() -> dict[str, TetrominoExplainer]:
    """Return the methods of captum and TorchRay by name."""
    return {
        "captum saliency": of_captum(captum.attr.Saliency),
        "captum input x gradient": of_captum(captum.attr.InputXGradient),
        "captum integrated gradients": of_captum(captum.attr.IntegratedGradients),
        "captum guided backprop": of_captum(captum.attr.GuidedBackprop),
        "captum deconvolution": of_captum(captum.attr.Deconvolution),
        "captum occlusion": of_captum(captum.attr.Occlusion, sliding_window_shapes=(1, 2, 2)),
        "captum Grad-CAM": of_captum(_grad_cam_of_captum, relu_attributions=True),
        "TorchRay gradient": of_torchray(gradient.gradient),
        "TorchRay guided backprop": of_torchray(guided_backprop.guided_backprop),
        "TorchRay DeconvNet": of_torchray(deconvnet.deconvnet),
        "TorchRay excitation backprop": of_torchray(
            excitation_backprop.excitation_backprop, saliency_layer=LAYER
        ),
        "TorchRay Grad-CAM": of_torchray(torchray_grad_cam.grad_cam, saliency_layer=LAYER),
        f"TorchRay RISE, {MASKS:,} masks": of_torchray(rise_class, num_masks=MASKS),
    }


def _grad_cam_of_captum(model: nn.Module) -> Any:
    return captum.attr.LayerGradCam(model, model.get_submodule(LAYER))


def main(quick: bool = False, pictures: int = 40) -> dict[str, Any]:
    """Print the table; return its figures."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    ours = tetromino_explainers()
    report = run_tetrominoes(
        {**ours, **rivals()}, None, 1 if quick else 3, 10 if quick else pictures, print
    )
    print(f"\n{report.markdown()}", flush=True)
    return {"table": report.csv()}


if __name__ == "__main__":
    main()
