"""Sanity checks by random weights, against computations of their own."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from contract import METHODS, make_method
from processes import process_group
from scipy.stats import spearmanr
from sharded_models import make_sharded
from tiny_models import in_training, make_images, make_model
from torch import Tensor, nn
from traces import leaves_no_trace

from lightning_saliency.attribution import (
    AttributionMethod,
    ExcitationBackprop,
    GradCAM,
    Gradient,
    GuidedBackprop,
    LinearApprox,
)
from lightning_saliency.attribution.verdict import SOURCES
from lightning_saliency.benchmark import get_example_data
from lightning_saliency.errors import InputError, LayerError, MethodError, ModelError
from lightning_saliency.network.random_weights import layers_with_weights, randomize
from lightning_saliency.rendering import ColorScale, heatmap, overlay
from lightning_saliency.trust import KNOWN_TO_FAIL, VERDICTS, sanity_check, sanity_figure
from lightning_saliency.trust.sanity_figure import figure_pixels

IMAGES = make_images(3, (16, 16))
TARGETS = torch.tensor([0, 3, 4])
MEASURES = ["spearman", "ssim", "top10_iou"]


def naive_top10(first: Tensor, second: Tensor) -> float:
    count = round(0.1 * first.numel())
    a, b = (set(map(int, m.flatten().argsort(descending=True)[:count])) for m in (first, second))
    return len(a & b) / len(a | b)


@pytest.mark.parametrize("order", ["cascading", "independent"])
@pytest.mark.parametrize("absolute", [False, True])
def test_equals_the_definition_written_out(order: Any, absolute: bool) -> None:
    """Layer by layer, by hand, with scipy's rank correlation."""
    model = make_model("residual")
    method = LinearApprox("stem") if absolute else Gradient()
    check = sanity_check(model, method, IMAGES, TARGETS, order, max_stages=100)
    names = layers_with_weights(model, IMAGES)[::-1]
    assert check.order == order
    assert check.stages == tuple((name,) for name in names)
    assert check.labels == names
    trained = method(model, IMAGES, TARGETS)
    spoilt = copy.deepcopy(model)
    for stage, name in enumerate(names):
        if order == "independent":
            spoilt = copy.deepcopy(model)
        randomize(spoilt, [name], seed=0)
        maps = method(spoilt, IMAGES, TARGETS)
        assert torch.equal(check.maps[:, stage + 1], maps[:, 0])
        for index in range(3):
            pairs = {"": (maps[index], trained[index])}
            if absolute:
                pairs["_abs"] = (maps[index].abs(), trained[index].abs())
            for ending, (now, before) in pairs.items():
                rank = spearmanr(now.flatten(), before.flatten()).statistic
                came = check.similarity[f"spearman{ending}"][index, stage]
                assert float(came) == pytest.approx(rank, abs=1e-5)
                overlap = float(check.similarity[f"top10_iou{ending}"][index, stage])
                assert overlap == pytest.approx(naive_top10(now, before), abs=0.05)
    assert torch.equal(check.maps[:, 0], trained[:, 0])


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("order", ["cascading", "independent"])
def test_every_method_and_the_model_is_never_touched(name: str, order: Any) -> None:
    model, images = in_training(make_model()), IMAGES[:2]
    with leaves_no_trace(model, images):
        check = sanity_check(model, make_method(name), images, "predicted", order, max_stages=2)
    assert check.maps.shape == (2, 3, 16, 16)
    signed = bool((check.maps < 0).any())
    assert list(check.similarity) == MEASURES + [f"{m}_abs" for m in MEASURES] * signed
    for measure, values in check.similarity.items():
        assert values.shape == (2, 2), measure
        # Random weights have made other maps, or maps that show nothing.
        assert bool((values.isnan() | (values < 0.999)).all())
    assert name != "RISE" or signed


def test_stages_are_neighbours_and_all_layers_are_in_one() -> None:
    model = make_model("residual")
    check = sanity_check(model, Gradient(), IMAGES, 0, max_stages=4)
    names = [name for stage in check.stages for name in stage]
    assert names == layers_with_weights(model, IMAGES)[::-1]
    assert [len(stage) for stage in check.stages] == [2, 3, 3, 2]
    assert check.labels[-1] == "stem"


def test_blocks_of_the_users() -> None:
    model = make_model("residual")
    check = sanity_check(
        model, Gradient(), IMAGES, 0, layers=["head", "features.1", "features.0.bn2"]
    )
    assert check.stages == (
        ("head",),
        ("features.1.bn2", "features.1.conv2", "features.1.bn1", "features.1.conv1"),
        ("features.0.bn2",),
    )


def test_the_last_stage_of_the_cascade_knows_nothing_of_the_training() -> None:
    """Whatever the weights were, the fully random model explains the same."""
    models = [make_model("residual"), make_model("residual")]
    with torch.no_grad():
        for parameter in models[1].parameters():
            parameter.mul_(-0.7)
    checks = [sanity_check(model, Gradient(), IMAGES, 1) for model in models]
    assert torch.equal(checks[0].maps[:, -1], checks[1].maps[:, -1])
    assert not torch.equal(checks[0].maps[:, 0], checks[1].maps[:, 0])


def test_what_the_papers_found_shows_on_the_example() -> None:
    """With random weights above features.24, guided backprop looks as before; Grad-CAM does not."""
    model, image, category, _ = get_example_data()
    later = ["classifier", "features.28", "features.26"]

    def similarity(method: AttributionMethod, measure: str, seed: int) -> list[float]:
        check = sanity_check(model, method, image, category, layers=later, seed=seed)
        return check.means()[measure]

    for method in (GuidedBackprop(), ExcitationBackprop("features.9")):
        assert min(similarity(method, "top10_iou", 0)) > 0.7, method.name
    assert min(similarity(GuidedBackprop(), "spearman", 0)) > 0.85
    # By chance, one set of random weights may look alike; versions of torch draw different ones.
    grad_cam = GradCAM("features.29")
    for measure, most in (("spearman", 0.5), ("top10_iou", 0.4)):
        found = np.mean([similarity(grad_cam, measure, seed) for seed in range(4)], axis=0)
        assert found.max() < most, measure


def test_predicted_means_what_the_trained_model_predicts() -> None:
    model = make_model()
    predicted = model(IMAGES).argmax(1)
    by_name = sanity_check(model, Gradient(), IMAGES, "predicted")
    by_class = sanity_check(model, Gradient(), IMAGES, predicted)
    assert torch.equal(by_name.maps, by_class.maps)


def test_degenerate_maps_have_no_similarity_and_do_not_count() -> None:
    calls = []

    def fades(model: nn.Module, image: Tensor, target: Any) -> Tensor:
        calls.append(1)
        maps = image.abs().mean(1, keepdim=True).clone()
        maps[0] *= len(calls) < 2
        return maps

    check = sanity_check(make_model(), fades, IMAGES, 0, max_stages=3)
    assert check.similarity["spearman"][0].isnan().all()
    assert check.means() == {measure: [1.0, 1.0, 1.0] for measure in MEASURES}


def test_figure_shows_every_stage(tmp_path: Any) -> None:
    checks = [
        sanity_check(make_model(), LinearApprox("features"), IMAGES, 0, order, max_stages=3)
        for order in ("cascading", "independent")
    ]
    figure = sanity_figure(checks, torch.rand(3, 16, 16), "guided_backprop", sample=1)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles.count("input") == titles.count("trained") == 2
    assert titles.count("features.0") == 2
    title = figure.get_suptitle().replace("\n", " ")
    assert "fails (Adebayo et al. 2018; Nie et al. 2018; Sixt et al. 2020)" in title
    curves = [axes for axes in figure.axes if axes.lines]
    for axes, check in zip(curves, checks, strict=True):
        drawn = {line.get_label(): list(line.get_ydata()) for line in axes.lines}
        assert drawn["Spearman"] == [1.0, *check.means()["spearman"]]
        assert drawn["SSIM of |map|"] == [1.0, *check.means()["ssim_abs"]]
    pixels = figure_pixels(figure)
    assert pixels.dtype == torch.uint8
    assert pixels.shape[0] == 3
    assert all(300 < side < 2000 for side in pixels.shape[1:])
    assert len(pixels.flatten(1).unique(dim=1).T) > 100
    figure.savefig(tmp_path / "check.png")


def test_the_figure_has_the_colors_of_all_pictures() -> None:
    check = sanity_check(make_model(), LinearApprox("features"), IMAGES, 0, max_stages=2)
    picture = torch.rand(1, 16, 16)
    figure = sanity_figure([check], picture)
    maps = check.maps[0][:, None]
    assert bool((maps < 0).any())
    laid = overlay(picture.expand(3, 3, -1, -1), heatmap(maps, ColorScale(), signed=True))
    drawn = [axes.images[0].get_array() for axes in figure.axes if axes.get_title()][1:4]
    for array, wanted in zip(drawn, laid, strict=True):
        assert torch.equal(torch.as_tensor(array), wanted.permute(1, 2, 0))
    # Without a picture they lie on dark gray.
    alone = sanity_figure([check])
    array = next(axes for axes in alone.axes if axes.get_title() == "trained").images[0].get_array()
    colors = heatmap(maps[:1], ColorScale(), signed=True).color[0]
    assert torch.equal(torch.as_tensor(array), colors.permute(1, 2, 0))


@pytest.mark.parametrize("stages", [1, 3])
def test_nothing_of_the_figure_is_cut_off(stages: int) -> None:
    checks = [
        sanity_check(make_model(), LinearApprox("features"), IMAGES, 0, order, max_stages=stages)
        for order in ("cascading", "independent")
    ]
    figure = sanity_figure(checks, torch.rand(3, 16, 16), "guided_backprop")
    height, width = figure_pixels(figure).shape[1:]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()][::2] == [
        "Spearman",
        "SSIM",
        "top-10 % IoU",
    ]
    texts = [figure._suptitle, legend, *figure.axes]
    texts += [axes.title for axes in figure.axes] + [axes._left_title for axes in figure.axes]
    for text in texts:
        box = text.get_window_extent()
        assert -1 <= box.x0 <= box.x1 <= width + 1
        assert -1 <= box.y0 <= box.y1 <= height + 1
    lowest = min(axes.get_window_extent().y0 for axes in figure.axes if axes.lines)
    scale = figure.axes[-1].get_window_extent()
    names = legend.get_window_extent()
    assert scale.y1 <= names.y0 + 2
    assert names.y1 <= lowest


def test_a_figure_needs_no_picture_no_name_and_no_informative_map() -> None:
    def nothing(model: nn.Module, image: Tensor, target: Any) -> Tensor:
        return torch.full((len(image), 1, 4, 4), torch.nan)

    check = sanity_check(make_model(), nothing, IMAGES, 0)
    figure = sanity_figure([check])
    assert figure_pixels(figure).numel() > 0
    words = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert words == ["NaN"] * (1 + len(check.stages))
    with pytest.raises(InputError, match="at least one sanity check"):
        sanity_figure([])
    with pytest.raises(InputError, match="from 0 to 2"):
        sanity_figure([check], sample=3)


def test_verdicts_name_their_sources() -> None:
    assert set(VERDICTS) == {METHODS[name].name for name in METHODS}
    assert set(KNOWN_TO_FAIL) == {"guided_backprop", "deconvnet", "excitation_backprop"}
    for verdict in VERDICTS.values():
        assert set(verdict.sources) <= set(SOURCES)
        assert bool(verdict.sources) == (verdict.outcome != "not tested")


def test_bad_input() -> None:
    model = make_model()
    with pytest.raises(InputError, match="'cascading' or 'independent'"):
        sanity_check(model, Gradient(), IMAGES, 0, "top_down")  # type: ignore[arg-type]
    for stages in (0, True, 2.0):
        with pytest.raises(InputError, match="max_stages to be at least 1"):
            sanity_check(model, Gradient(), IMAGES, 0, max_stages=stages)  # type: ignore[arg-type]
    with pytest.raises(LayerError, match="no 'heda'"):
        sanity_check(model, Gradient(), IMAGES, 0, layers=["heda"])
    with pytest.raises(InputError, match="'pool' has none"):
        sanity_check(model, Gradient(), IMAGES, 0, layers=["pool"])
    with pytest.raises(InputError, match="list of names"):
        sanity_check(model, Gradient(), IMAGES, 0, layers="head")
    with pytest.raises(InputError, match="from 0 to 4"):
        sanity_check(model, Gradient(), IMAGES, 9)
    with pytest.raises(InputError, match="finite images"):
        sanity_check(model, Gradient(), IMAGES / 0, 0)
    with pytest.raises(InputError, match="Sequential has none"):
        sanity_check(nn.Sequential(nn.Flatten()), Gradient(), IMAGES, 0)
    with pytest.raises(MethodError, match="float maps"):
        sanity_check(model, lambda *_: None, IMAGES, 0)  # type: ignore[arg-type,return-value]
    with pytest.raises(InputError, match=r"torch.nn.Module"):
        sanity_check(lambda x: x, Gradient(), IMAGES, 0)  # type: ignore[arg-type]


def test_sharded_models_are_refused(tmp_path: Any) -> None:
    with process_group(tmp_path / "s"):
        model = make_sharded().eval()
        with pytest.raises(ModelError, match="are sharded"):
            sanity_check(model, Gradient(), IMAGES, 0)
        # After a pass without gradients the outermost weights lie there gathered.
        with torch.no_grad():
            model(IMAGES)
        with pytest.raises(ModelError, match="are sharded"):
            sanity_check(model, Gradient(), IMAGES, 0)
