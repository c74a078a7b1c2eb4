"""Layouts are told by where the places of a layer's output lie, in any order of the dimensions."""

from collections.abc import Callable

import pytest
import torch
from tally import Tally
from torch import Tensor, nn

from lightning_saliency.network.grid import Layout, TokenGrid, fold
from lightning_saliency.network.grid_evidence import Evidence, find_layouts
from lightning_saliency.network.isolation.undisturbed import undisturbed
from lightning_saliency.network.place_probe import PROBES, probe_places

Change = Callable[[Tensor], Tensor]


class Rearranged(nn.Module):
    """A convolution with 7 channels, then its output in another arrangement, as a layer."""

    def __init__(self, change: Change) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 7, 4, stride=4)
        self.layer = nn.Identity()
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.change(self.conv(x))).flatten(1).mean(1)


def evidence(change: Change, size: tuple[int, int] = (24, 32)) -> Evidence:
    model = Rearranged(change).eval()
    image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    with undisturbed(model):
        return find_layouts(probe_places(model, image))["layer"]


def tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


def with_extras(before: int, after: int) -> Change:
    def change(x: Tensor) -> Tensor:
        silent = x.new_ones(len(x), 1, 7)
        parts = [silent.expand(-1, before, -1), tokens(x), silent.expand(-1, after, -1)]
        return torch.cat(parts, 1)

    return change


@pytest.mark.parametrize(
    ("change", "layout"),
    [
        (lambda x: x, "channels_first"),
        (lambda x: x.permute(0, 2, 3, 1), "channels_last"),
        (lambda x: x.transpose(2, 3), "channels_first_transposed"),
        (lambda x: x.permute(0, 3, 2, 1), "channels_last_transposed"),
        (tokens, TokenGrid(6, 8)),
        (lambda x: x.flatten(2), TokenGrid(6, 8, order="NKT")),
        (lambda x: tokens(x).transpose(0, 1), TokenGrid(6, 8, order="TNK")),
        (lambda x: x.mean(2), TokenGrid(1, 8, order="NKT")),
        (lambda x: x.mean(2).transpose(1, 2), TokenGrid(1, 8)),
        (lambda x: x.mean(3).transpose(1, 2), TokenGrid(6, 1)),
        *[(with_extras(b, a), TokenGrid(6, 8, b, a)) for b, a in [(1, 0), (0, 4), (5, 3), (99, 2)]],
    ],
)
def test_layouts(change: Change, layout: Layout) -> None:
    found = evidence(change)
    assert found.layout == layout
    assert found.fit > 0.8
    grid = fold(change(torch.zeros(2, 7, 6, 8)), (24, 32), layout).shape[2:]
    assert tuple(grid) == found.grid


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.flip(2),
        lambda x: x.flip(3),
        lambda x: tokens(x)[:, torch.randperm(48, generator=torch.Generator().manual_seed(0))],
        lambda x: (tokens(x) @ tokens(x).transpose(1, 2))[:, None],
    ],
    ids=["flipped rows", "flipped columns", "shuffled", "attention"],
)
def test_no_layout(change: Change) -> None:
    assert evidence(change).layout is None


def test_long_and_narrow_picture() -> None:
    # By its proportions, (128, 157, 1) would be channels last.
    found = evidence(lambda x: x.mean(3, keepdim=True), (628, 64))
    assert found.layout == "channels_first"
    assert found.grid == (157, 1)


@pytest.mark.parametrize("size", [(8, 64), (64, 8), (23, 37), (224, 224)])
def test_sizes(size: tuple[int, int]) -> None:
    grid = size[0] // 4, size[1] // 4
    assert evidence(with_extras(5, 0), size).layout == TokenGrid(*grid, before=5)


def test_places_that_see_everything_have_the_layout_of_those_before_them() -> None:
    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.conv = nn.Conv2d(3, 8, 4, stride=4)
            self.wide = nn.Conv2d(8, 8, 15, padding=7, stride=4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            # Nearly all that a place says comes from all places.
            return self.wide(x * 0.001 + x.mean((2, 3), keepdim=True)).mean((2, 3))

    model, image = Deep().eval(), torch.randn(1, 3, 32, 48)
    with undisturbed(model):
        found = find_layouts(probe_places(model, image))
    assert found["wide"].layout == "channels_first"
    assert found["wide"].grid == (2, 3)


@pytest.mark.filterwarnings("error")
def test_places_that_answer_to_nothing_have_the_layout_of_those_before_them() -> None:
    class Dead(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.conv = nn.Conv2d(3, 8, 4, stride=4)
            self.relu, self.after = nn.ReLU(), nn.Conv2d(8, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.after(self.relu(self.conv(x) - 1000)).mean((2, 3))

    model, image = Dead().eval(), torch.randn(1, 3, 32, 48)
    with undisturbed(model):
        found = find_layouts(probe_places(model, image))
    assert found["after"].layout == "channels_first"


class Mixes(nn.Module):
    """Every place sees all of the image, more of it here or there by chance, as late in RepVGG."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 4, stride=4)
        self.weights = nn.ParameterList(torch.randn(48, 48) for _ in range(2))
        self.first, self.second = nn.Identity(), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        for weights, layer in zip(self.weights, (self.first, self.second), strict=True):
            x = layer((x.flatten(2) @ weights).view_as(x))
        return x.mean((2, 3))


def test_places_that_lie_somewhere_by_chance_are_not_rearranged() -> None:
    model, image = Mixes().eval(), torch.randn(1, 3, 24, 32)
    with undisturbed(model):
        found = find_layouts(probe_places(model, image))
    assert [found[name].grid for name in ("conv", "first", "second")] == [(6, 8)] * 3


class Unfolds(nn.Module):
    """Puts patches of two by two places into an axis of their own and back, as MobileViT does."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 4, stride=4)
        self.unfolded, self.folded = nn.Identity(), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        parts = x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).permute(0, 1, 3, 5, 2, 4)
        # At 16 x 24 pixels the picture and the patches have the same shape, 4 x 6.
        again = self.unfolded(parts.flatten(4).flatten(2, 3))
        parts = again.reshape(parts.shape).permute(0, 1, 4, 2, 5, 3)
        return self.folded(parts.flatten(4).flatten(2, 3)).mean((2, 3))


@pytest.mark.parametrize("size", [(16, 24), (16, 16), (24, 24)])
def test_patches_in_an_axis_of_their_own_are_no_picture(size: tuple[int, int]) -> None:
    model, image = Unfolds().eval(), torch.randn(1, 3, *size)
    with undisturbed(model):
        found = find_layouts(probe_places(model, image))
    assert found["unfolded"].layout is None
    assert found["folded"].layout == "channels_first"
    assert found["folded"].grid == (size[0] // 4, size[1] // 4)


def test_model_that_takes_one_image_at_a_time() -> None:
    class One(Rearranged):
        sizes: Tally

        def forward(self, x: Tensor) -> Tensor:
            self.sizes.append(len(x))
            if len(x) > 1:
                raise ValueError("one")
            return super().forward(x)

    model, image = One(with_extras(2, 0)).eval(), torch.randn(1, 3, 24, 32)
    model.sizes = Tally()
    with undisturbed(model):
        found = find_layouts(probe_places(model, image))["layer"]
    assert list(model.sizes) == [PROBES] + [1] * PROBES
    assert found.layout == TokenGrid(6, 8, before=2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtypes(dtype: torch.dtype) -> None:
    model, image = Rearranged(with_extras(1, 0)).to(dtype), torch.randn(1, 3, 24, 32, dtype=dtype)
    with undisturbed(model):
        found = find_layouts(probe_places(model, image))["layer"]
    assert found.layout == TokenGrid(6, 8, before=1)


def test_hooks_go_away_and_no_random_number_is_taken() -> None:
    model, image = Rearranged(tokens), torch.randn(1, 3, 24, 32)
    torch.manual_seed(3)
    wanted = torch.rand(1)
    torch.manual_seed(3)
    probe_places(model, image)
    assert torch.equal(torch.rand(1), wanted)
    assert not model.conv._forward_hooks
    assert not model.conv._forward_pre_hooks
