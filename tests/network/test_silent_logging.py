"""What a LightningModule logs while it is explained goes nowhere."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, Logger
from tiny_models import make_images, make_model
from torch import Tensor, nn

from lightning_saliency.attribution import Gradient
from lightning_saliency.network.isolation.undisturbed import undisturbed

IMAGES = make_images()


class Talks(pl.LightningModule):
    """Logs whenever it runs, in all ways there are."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = make_model()
        self.part = Part([self])

    def forward(self, x: Tensor) -> Tensor:
        self.log("mean", x.mean())
        self.log_dict({"least": x.min(), "most": x.max()})
        self.logger.log_metrics({"a": 1.0}, step=0)
        self.loggers[0].experiment.log_metrics({"b": 1.0}, 0)
        self.logger.log_image(key="image", images=[x])
        return self.part(self.inner(x))


class Part(nn.Module):
    """Has the LightningModule, but not as a layer."""

    def __init__(self, owner: list[pl.LightningModule]) -> None:
        super().__init__()
        self.owner = owner

    def forward(self, x: Tensor) -> Tensor:
        self.owner[0].log("part", x.mean())
        return x


class Trainer:
    """As much of a Trainer as logging wants."""

    def __init__(self, logger: Logger) -> None:
        self._loggers = [logger]
        self.barebones = False

    @property
    def loggers(self) -> list[Logger]:
        return self._loggers

    @property
    def logger(self) -> Logger:
        return self._loggers[0]


@pytest.fixture
def module(tmp_path: Path) -> Talks:
    module = Talks()
    module._trainer = Trainer(CSVLogger(tmp_path))
    return module


def test_nothing_is_logged_and_nothing_fails(module: Talks, tmp_path: Path) -> None:
    logger = module.trainer.logger
    Gradient()(module, IMAGES, 1)
    assert module.trainer._loggers == [logger]
    assert logger.experiment.metrics == []
    assert "log" not in vars(module)
    assert "log_dict" not in vars(module)


def test_a_part_that_has_the_module_in_a_list(module: Talks) -> None:
    model = nn.Sequential(module.inner, module.part)
    Gradient()(model, IMAGES, 1)
    assert "log" not in vars(module)


def test_after_an_error_and_inside_another_context(module: Talks) -> None:
    with pytest.raises(ArithmeticError), undisturbed(module), undisturbed(module):  # noqa: PT012
        module.log("a", 1.0)
        with undisturbed(module.part):
            module.log("a", 1.0)
        module.log("a", 1.0)
        raise ArithmeticError
    assert "log" not in vars(module)


def test_a_function_of_the_users_in_the_place_of_log_comes_back(module: Talks) -> None:
    def mine(*_: Any, **__: Any) -> None:
        raise AssertionError("called while explaining")

    module.log = mine  # type: ignore[method-assign]
    Gradient()(module, IMAGES, 1)
    assert vars(module)["log"] is mine


def test_other_modules_may_have_a_log(module: Talks) -> None:
    class Logs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.note = make_model(), SimpleNamespace(seen=0)

        def log(self, x: Tensor) -> Tensor:
            return x.exp()

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(self.log(x))

    leaf = IMAGES.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(make_model()(leaf.exp())[:, 1].sum(), leaf)
    assert torch.equal(Gradient()(Logs(), IMAGES, 1), wanted.abs().amax(1, keepdim=True))
