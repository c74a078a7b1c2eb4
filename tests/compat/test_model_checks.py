"""The judge of the table of networks tells right layouts and maps from wrong ones."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_saliency.attribution import GradCAM, TokenGrid


@pytest.fixture(autouse=True)
def _beside(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    yield
    for name in ("model_cases", "model_checks"):
        sys.modules.pop(name, None)


class Tokens(nn.Module):
    """Patches as tokens, after others that do not depend on the image."""

    def __init__(self, extras: int = 0, size: tuple[int, int] = (32, 48)) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.extras = nn.Parameter(torch.randn(1, extras, 8))
        self.patches = nn.Conv2d(3, 8, 8, stride=8)
        self.block = nn.Sequential(nn.Linear(8, 8), nn.GELU())
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.extras.expand(len(x), -1, -1), tokens], 1)
        return self.head(self.block(tokens).mean(1))


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.block = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU()
        )
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(x).mean((2, 3)))


@pytest.mark.parametrize(
    ("make", "layout", "is_right"),
    [
        (lambda: Tokens(1), TokenGrid(4, 6, before=1), True),
        # Of 25 tokens, the last 24 may be these, too.
        (lambda: Tokens(1), TokenGrid(6, 4, before=1), False),
        (lambda: Tokens(4), TokenGrid(4, 6, before=4), True),
        # The sheared and the shifted grids that proportions suggest.
        (lambda: Tokens(4), TokenGrid(4, 7), False),
        (lambda: Tokens(4), TokenGrid(4, 6, after=4), False),
        # One row too early.
        (lambda: Tokens(6), TokenGrid(4, 6, after=6), False),
        (Convolutions, "channels_first", True),
        (Convolutions, "channels_first_transposed", False),
        (Convolutions, lambda output: output.flip(2), False),
    ],
)
def test_wrong_layouts_are_seen(
    make: Callable[[], nn.Module], layout: Any, is_right: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import model_checks

    if callable(layout) and not isinstance(layout, TokenGrid):
        monkeypatch.setattr(model_checks, "_fold", lambda output, _: layout(output))
    image = torch.randn(1, 3, 32, 48)
    found = model_checks.locality(make().eval(), image, "block", layout)
    assert found.shows(layout) is is_right


def test_wrong_maps_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    import model_checks
    from model_cases import Case

    case = Case("made/tokens", lambda: Tokens(4), (32, 48), 8, (4, 0))
    right = model_checks.verdict(case)
    assert right.layer == "right"
    assert {name: word for name, word in right.methods.items() if word == "right"}.keys() >= {
        *("gradient", "linear_approx", "attn_lrp", "grad_cam", "grad_cam_pp", "hires_cam"),
    }
    # The judge has no map of these for networks without ReLU, and they refuse them.
    assert right.methods["guided_backprop"] == "refused"
    monkeypatch.setattr(GradCAM, "layer_map", staticmethod(lambda a, g: (a * g).sum(1, True).abs()))
    wrong = model_checks.verdict(case)
    assert wrong.methods["grad_cam"].startswith("wrong (off by")
    assert wrong.methods["hires_cam"] == "right"


def test_refusals_without_a_reason_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    import model_checks
    from model_cases import Case

    class Blind(model_checks.Census):
        """Takes the network for one of ReLUs."""

        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            self.called.add("relu")
            return func(*args, **(kwargs or {}))

    monkeypatch.setattr(model_checks, "Census", Blind)
    case = Case("made/tokens", lambda: Tokens(4), (32, 48), 8, (4, 0))
    found = model_checks.verdict(case).methods
    assert found["guided_backprop"].startswith("wrong (refused without a reason: ")
    assert found["excitation_backprop"].startswith("wrong (refused without a reason: ")


def test_networks_of_relus_are_right_for_all() -> None:
    import model_checks
    from model_cases import Case

    found = model_checks.verdict(Case("made/convolutions", Convolutions, (32, 48), 4))
    assert found.layer == "right"
    assert set(found.methods.values()) == {"right"}, found.methods


def test_a_wrong_truth_is_seen() -> None:
    import model_checks
    from model_cases import Case

    for case in (
        Case("made/tokens", lambda: Tokens(4), (32, 48), 8, (3, 1)),
        Case("made/convolutions", Convolutions, (32, 48), 8),
    ):
        assert model_checks.verdict(case).layer == "wrong"
