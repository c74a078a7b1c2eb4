from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from tiny_models import in_training, make_images, make_model
from torch import Tensor, nn
from traces import leaves_no_trace

from lightning_saliency.attribution.method import AttributionMethod
from lightning_saliency.errors import InputError, MethodError
from lightning_saliency.image.blur import gaussian_blur
from lightning_saliency.image.saliency_map import resize


@dataclass(frozen=True)
class Returns(AttributionMethod):
    """Returns whatever it is told to, as float maps of half the image's size by default."""

    name: ClassVar[str] = "returns"
    change: Any = None

    def attribute(self, model: nn.Module, image: Tensor, target: Any) -> Any:
        maps = image[:, :1, ::2, ::2]
        return maps if self.change is None else self.change(maps)


IMAGES = make_images(2, (16, 20))
HALF = IMAGES[:, :1, ::2, ::2]


def explain(dtype: torch.dtype = torch.float32, **settings: Any) -> Tensor:
    return Returns(**settings)(make_model(dtype=dtype), IMAGES.to(dtype), 1)


def test_resized_to_the_image() -> None:
    assert torch.equal(explain(), resize(HALF, (16, 20)))
    assert torch.equal(explain(resize_mode="nearest"), resize(HALF, (16, 20), "nearest"))
    assert torch.equal(explain(resize=(5, 3)), resize(HALF, (5, 3)))
    assert torch.equal(explain(resize=[5, 3]), resize(HALF, (5, 3)))


def test_left_as_it_is() -> None:
    assert torch.equal(explain(resize=False), HALF)


def test_smoothed_by_a_fraction_of_the_longer_side() -> None:
    assert torch.equal(explain(smooth=0.1), gaussian_blur(resize(HALF, (16, 20)), 2.0, truncate=4))
    assert torch.equal(explain(smooth=0.1, resize=False), gaussian_blur(HALF, 1.0, truncate=4))


@pytest.mark.parametrize(
    ("dtype", "wanted"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_dtype_is_that_of_the_image_but_float32_at_least(
    dtype: torch.dtype, wanted: torch.dtype
) -> None:
    assert explain(dtype).dtype == wanted
    # Whatever the method itself has computed in.
    assert explain(dtype, change=lambda maps: maps.double()).dtype == wanted


def test_result_is_detached_even_if_the_method_forgot() -> None:
    saliency = explain(change=lambda maps: maps * torch.ones(1, requires_grad=True))
    assert not saliency.requires_grad


@pytest.mark.parametrize(
    ("change", "came"),
    [
        (lambda maps: None, "NoneType"),
        (lambda maps: [maps], "list"),
        (lambda maps: maps[0], r"shape \(1, 8, 10\)"),
        (lambda maps: maps[:1], r"shape \(1, 1, 8, 10\)"),
        (lambda maps: maps.expand(2, 3, 8, 10), r"shape \(2, 3, 8, 10\)"),
        (lambda maps: maps[:, :, :0], r"shape \(2, 1, 0, 10\)"),
        (lambda maps: maps > 0, r"torch.bool of shape \(2, 1, 8, 10\)"),
        (lambda maps: maps.long(), r"torch.int64 of shape \(2, 1, 8, 10\)"),
    ],
)
def test_what_a_method_returns_is_checked(change: Any, came: str) -> None:
    wanted = r"Returns to return float maps of shape \(2, 1, h, w\) for 2 images, got "
    with pytest.raises(MethodError, match=wanted + came):
        explain(change=change)


def test_maps_that_are_not_finite_are_given_back() -> None:
    # Whoever shows or measures them says so; hiding them would be a lie.
    assert not torch.isfinite(explain(change=lambda maps: maps * torch.inf)).any()


def test_method_may_write_into_the_image() -> None:
    model, images = in_training(make_model()), IMAGES.clone()
    with leaves_no_trace(model, images):
        Returns(change=lambda maps: maps.zero_())(model, images, 1)


def test_settings_of_all_methods_are_keywords() -> None:
    with pytest.raises(TypeError):
        Returns(None, True)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="'size'"):
        Returns(size=3)  # type: ignore[call-arg]


def test_method_without_a_formula_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="attribute"):
        AttributionMethod()  # type: ignore[abstract]


# --- prepare ----------------------------------------------------------------------------------


def test_prepare_checks_the_model() -> None:
    method = Returns()
    assert method.prepare(make_model(), IMAGES) is method
    with pytest.raises(InputError, match=r"shape \(2, 1\)"):
        method.prepare(make_model(), IMAGES[:, :1, 0, 0])
    with pytest.raises(InputError, match="meta"):
        method.prepare(make_model().to("meta"), IMAGES)
