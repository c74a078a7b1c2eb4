"""The gradient methods against TorchRay's, captum's, pytorch-grad-cam's and the bare passes."""

from __future__ import annotations

import copy
import importlib.util
import statistics
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import torch
from digit_networks import NETWORKS
from timing import Verdict, alternate, ratio, table, verdict
from torch import Tensor, nn
from whole import explain_all

from lightning_saliency.attribution import (
    DeconvNet,
    GradCAM,
    Gradient,
    GuidedBackprop,
    LinearApprox,
)
from lightning_saliency.attribution.deconvnet import deconvnet
from lightning_saliency.attribution.excitation_backprop import excitation_backprop
from lightning_saliency.attribution.grad_cam import grad_cam
from lightning_saliency.attribution.gradient import gradient
from lightning_saliency.attribution.guided_backprop import guided_backprop
from lightning_saliency.attribution.linear_approx import linear_approx
from lightning_saliency.callbacks.samples.sample_set import SampleSet
from lightning_saliency.callbacks.settings import methods_of

BATCH, SIDE = 16, 64
Run = Callable[[], object]


class Setting:
    """A network, its last stage, and a batch of images."""

    def __init__(self, name: str) -> None:
        torch.manual_seed(0)
        self.name = name
        is_resnet = name == "resnet18"
        self.model = NETWORKS[name][0]().eval()
        self.stage = "layer4" if is_resnet else "11"
        self.middle = "layer3" if is_resnet else "7"
        self.images = torch.rand(BATCH, 3, SIDE, SIDE)
        self.target = [i % 10 for i in range(BATCH)]
        # The bare passes are those of a model without gradients of its parameters.
        self.bare = copy.deepcopy(self.model).requires_grad_(False)
        parts = list(self.bare.children())
        if is_resnet:
            parts = [*parts[:-1], nn.Flatten(), parts[-1]]
        cut = {"layer4": 8, "layer3": 7, "11": 12, "7": 8}
        self.head = {
            stage: nn.Sequential(*parts[: cut[stage]]) for stage in (self.stage, self.middle)
        }
        self.tail = {
            stage: nn.Sequential(*parts[cut[stage] :]) for stage in (self.stage, self.middle)
        }

    def forward(self) -> Tensor:
        with torch.no_grad():
            return self.bare(self.images)

    def passes(self, backwards: int = 1) -> None:
        """One recorded forward pass, and backward passes down to the image."""
        leaf = self.images.clone().requires_grad_()
        score = self._score(self.bare(leaf))
        for i in range(backwards):
            torch.autograd.grad(score, leaf, retain_graph=i + 1 < backwards)

    def passes_from(self, stage: str, forwards: int = 1) -> None:
        """A forward pass that is recorded from one layer on, and a backward pass down to it."""
        with torch.no_grad():
            found = self.head[stage](self.images)
        leaf = found.requires_grad_()
        for _ in range(forwards - 1):
            self.tail[stage](leaf)
        torch.autograd.grad(self._score(self.tail[stage](leaf)), leaf)

    def two_forwards(self) -> None:
        """What excitation backprop takes: each layer runs again with its positive weights."""
        self.forward()
        self.passes()

    def _score(self, output: Tensor) -> Tensor:
        return output.gather(1, torch.tensor(self.target)[:, None]).sum()


def main(quick: bool = False) -> dict[str, Any]:
    """Measure; print and return the tables."""
    rounds = 5 if quick else 15
    results: dict[str, Any] = {}
    for name in ("resnet18", "small"):
        setting = Setting(name)
        seconds = alternate(_rivals(setting), rounds)
        rows = _rows(setting, seconds)
        title = f"{name}, {BATCH} images of {SIDE} px: CPU time, median of {rounds} rounds"
        print(table(title, rows))
        print(_milliseconds(seconds))
        results[name] = {"rows": rows, "seconds": seconds}
    return results


def _rivals(setting: Setting) -> dict[str, Run]:
    model, images, target = setting.model, setting.images, setting.target
    ours: dict[str, Run] = {
        "gradient": partial(gradient, model, images, target),
        "guided_backprop": partial(guided_backprop, model, images, target),
        "deconvnet": partial(deconvnet, model, images, target),
        "grad_cam": partial(grad_cam, model, images, target, saliency_layer=setting.stage),
        "linear_approx": partial(
            linear_approx, model, images, target, saliency_layer=setting.stage
        ),
        "excitation_backprop": partial(excitation_backprop, model, images, target),
        "excitation_middle": partial(
            excitation_backprop, model, images, target, saliency_layer=setting.middle
        ),
    }
    bare: dict[str, Run] = {
        "forward": setting.forward,
        "forward + backward": setting.passes,
        "forward + tail backward": partial(setting.passes_from, setting.stage),
        "2 forward + backward": setting.two_forwards,
        "forward + middle": partial(setting.passes_from, setting.middle, 2),
        "forward + 3 backward": partial(setting.passes, 3),
    }
    return {
        **{f"bare {name}": run for name, run in bare.items()},
        **{f"ours {name}": run for name, run in ours.items()},
        "ours five": _five(setting),
        **_torchray(setting),
        **_captum(setting),
        **_pytorch_grad_cam(setting),
    }


FLOORS = {
    "gradient": "forward + backward",
    "guided_backprop": "forward + backward",
    "deconvnet": "forward + backward",
    "grad_cam": "forward + tail backward",
    "linear_approx": "forward + tail backward",
    "excitation_backprop": "2 forward + backward",
    "excitation_middle": "forward + middle",
}


def _rows(setting: Setting, seconds: dict[str, list[float]]) -> list[Verdict]:
    rows = []
    for name, floor in FLOORS.items():
        mine = f"ours {name}"
        rows.append(verdict(f"{name} / {floor}", ratio(seconds, mine, f"bare {floor}"), 1.10))
        if f"torchray {name}" in seconds:
            times = ratio(seconds, mine, f"torchray {name}")
            rows.append(verdict(f"{name} / TorchRay", times, 1.05))
        if f"captum {name}" in seconds:
            times = ratio(seconds, mine, f"captum {name}")
            rows.append(verdict(f"{name} / captum", times, 1.05))
    forward = ratio(seconds, "ours grad_cam", "bare forward")
    rows.append(verdict("grad_cam / forward", forward, 1.08))
    if "pytorch-grad-cam grad_cam" in seconds:
        times = ratio(seconds, "pytorch-grad-cam grad_cam", "ours grad_cam")
        # The target is that of ResNet-18; of a network with few weights there is less to leave out.
        wanted = 3.5 if setting.name == "resnet18" else 1.0
        rows.append(verdict("pytorch-grad-cam / grad_cam", times, wanted, at_least=True))
    five = ratio(seconds, "ours five", "bare forward + 3 backward")
    rows.append(verdict("five methods / forward + 3 backward", five, 1.15))
    if "torchray five" in seconds:
        times = ratio(seconds, "torchray five", "ours five")
        rows.append(verdict("TorchRay's five / five methods", times, 1.8, at_least=True))
    return rows


def _five(setting: Setting) -> Run:
    """Return what a callback with five methods does: maps, classes and probabilities."""
    stage = setting.stage
    methods = methods_of(
        [Gradient(), GuidedBackprop(), DeconvNet(), GradCAM(stage), LinearApprox(stage)]
    )
    samples = SampleSet(setting.images, torch.tensor(setting.target))
    return lambda: explain_all(setting.model, methods, samples)


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _torchray(setting: Setting) -> dict[str, Run]:
    if not _installed("torchray"):
        return {}
    from torchray.attribution import (
        deconvnet,
        excitation_backprop,
        grad_cam,
        gradient,
        guided_backprop,
        linear_approx,
    )
    from torchray.attribution.excitation_backprop import update_resnet

    images, target = setting.images, setting.target

    def run(module: ModuleType, model: nn.Module = setting.model, layer: str = "") -> Run:
        name = module.__name__.rpartition(".")[2]
        return lambda: getattr(module, name)(model, images, target, saliency_layer=layer)

    # TorchRay wants residual additions as modules.
    changed = copy.deepcopy(setting.model)
    if setting.name == "resnet18":
        changed = update_resnet(changed)
    runs = {
        "gradient": run(gradient),
        "guided_backprop": run(guided_backprop),
        "deconvnet": run(deconvnet),
        "grad_cam": run(grad_cam, layer=setting.stage),
        "linear_approx": run(linear_approx, layer=setting.stage),
    }
    five = list(runs.values())
    return {
        **{f"torchray {name}": of for name, of in runs.items()},
        "torchray five": lambda: [one() for one in five],
        "torchray excitation_backprop": run(excitation_backprop, changed),
        "torchray excitation_middle": run(excitation_backprop, changed, setting.middle),
    }


def _captum(setting: Setting) -> dict[str, Run]:
    if not _installed("captum"):
        return {}
    from captum.attr import Deconvolution, GuidedBackprop, LayerGradCam, Saliency

    # captum wants ReLUs out of place, and leaves eval mode and the weights to its caller.
    model = copy.deepcopy(setting.bare)
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    target = torch.tensor(setting.target)
    methods = {
        "gradient": Saliency(model),
        "guided_backprop": GuidedBackprop(model),
        "deconvnet": Deconvolution(model),
        "grad_cam": LayerGradCam(model, model.get_submodule(setting.stage)),
    }

    def run(method: Any) -> Run:
        return lambda: method.attribute(setting.images.clone().requires_grad_(), target=target)

    return {f"captum {name}": run(method) for name, method in methods.items()}


def _pytorch_grad_cam(setting: Setting) -> dict[str, Run]:
    if not _installed("pytorch_grad_cam"):
        return {}
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    model = copy.deepcopy(setting.model)
    method = pytorch_grad_cam.GradCAM(model, [model.get_submodule(setting.stage)])
    targets = [ClassifierOutputTarget(index) for index in setting.target]
    return {"pytorch-grad-cam grad_cam": lambda: method(setting.images, targets)}


def _milliseconds(seconds: dict[str, list[float]]) -> str:
    medians = {name: 1000 * statistics.median(times) for name, times in seconds.items()}
    lines = []
    for name, median in medians.items():
        who, _, what = name.partition(" ")
        lines.append(f"{who} {what} {median:.1f}")
    return "  ms: " + ", ".join(lines)
