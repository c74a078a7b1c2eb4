"""Where the maps look: the numbers of a run with ground truth and regions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import QUIET, SIDE, TinyModule, dataset, events, fit, make_trainer, train_loader
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_saliency import SaliencyCallback
from lightning_saliency.attribution import RISE, ExtremalPerturbation, Gradient
from lightning_saliency.callbacks.stages.drift import locate
from lightning_saliency.errors import InputError, SaliencyWarning

pytestmark = QUIET

generator = torch.Generator().manual_seed(0)
MAPS = torch.randn(4, 1, SIDE, SIDE, generator=generator)
OBJECTS = torch.zeros(4, 1, SIDE, SIDE, dtype=torch.bool)
for i in range(4):
    OBJECTS[i, 0, i : i + 7, 3 : 9 + i] = True


def fixed(model: Any, image: Tensor, target: Any) -> Tensor:
    return MAPS[: len(image)].to(image)


def by_hand(maps: np.ndarray, objects: np.ndarray) -> dict[str, float]:
    """The three numbers of the object, from their definitions, means over the samples."""
    energy, pointing, overlap = [], [], []
    for one, inside in zip(maps, objects, strict=True):
        energy.append(one[inside & (one > 0)].sum() / one[one > 0].sum())
        row, column = np.unravel_index(one.argmax(), one.shape)
        rows, columns = np.nonzero(inside)
        # 15 pixels at 224 are a little more than one at 16.
        distance = np.hypot(rows - row, columns - column).min()
        pointing.append(float(distance < 15 * SIDE / 224))
        largest = np.zeros(one.size, bool)
        largest[one.ravel().argsort()[-round(one.size / 10) :]] = True
        both = largest.reshape(one.shape)
        overlap.append((both & inside).sum() / (both | inside).sum())
    return {
        "energy": float(np.mean(energy)),
        "pointing": float(np.mean(pointing)),
        "top10_iou": float(np.mean(overlap)),
    }


def scalars(folder: Path, prefix: str) -> dict[str, float]:
    found = events(folder)
    tags = [tag for tag in found.Tags()["scalars"] if tag.startswith(prefix)]
    return {tag.removeprefix(prefix): found.Scalars(tag)[-1].value for tag in tags}


def test_ground_truth_and_regions_are_measured_every_time(tmp_path: Path) -> None:
    callback = SaliencyCallback(
        [fixed, Gradient()],
        samples=4,
        regions={"object": OBJECTS, "border": "border", "corner": (0, 0, 4, 6)},
    )
    trainer = fit(tmp_path, callback)
    maps, objects = MAPS[:, 0].double().numpy(), OBJECTS[:, 0].numpy()
    assert scalars(tmp_path, "saliency_object/fixed/") == pytest.approx(by_hand(maps, objects))
    corner = [np.abs(one)[:6, :4].sum() / np.abs(one).sum() for one in maps]
    frame = np.ones((SIDE, SIDE), bool)
    frame[2:-2, 2:-2] = False
    border = [np.abs(one)[frame].sum() / np.abs(one).sum() for one in maps]
    assert scalars(tmp_path, "saliency_region/fixed/") == pytest.approx(
        {"corner": np.mean(corner), "border": np.mean(border)}
    )
    assert scalars(tmp_path, "saliency_region_area/") == pytest.approx(
        {"object": objects.mean(), "corner": 24 / SIDE**2, "border": frame.mean()}
    )
    found = events(tmp_path)
    for tag in ("saliency_region/gradient/corner", "saliency_object/gradient/energy"):
        assert [event.step for event in found.Scalars(tag)] == [3, 7]
        assert tag in trainer.callback_metrics


class WithMasks(Dataset[Any]):
    """The validation data of the small runs, with the object's mask and box."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> Any:
        image, label = dataset(12, seed=2)[index]
        box = torch.tensor([3, index % 4, 9 + index % 4, index % 4 + 7])
        return image, label, OBJECTS[index % 4, 0], box


def masks(batch: Any) -> Any:
    return batch[0], batch[1], batch[2]


def boxes(batch: Any) -> Any:
    return batch[0], batch[1], {"object": batch[3], "corner": batch[2]}


@pytest.mark.parametrize("unpack", [masks, boxes])
@pytest.mark.parametrize("samples", [4, [0, 1, 2, 3]])
def test_ground_truth_comes_with_the_batch(unpack: Any, samples: Any, tmp_path: Path) -> None:
    callback = SaliencyCallback(fixed, samples=samples, unpack=unpack, on_error="raise")
    trainer = make_trainer(tmp_path, callback)
    trainer.fit(TinyModule(), train_loader(), DataLoader(WithMasks(), batch_size=3))
    maps, objects = MAPS[:, 0].double().numpy(), OBJECTS[:, 0].numpy()
    assert scalars(tmp_path, "saliency_object/fixed/") == pytest.approx(by_hand(maps, objects))
    assert ("saliency_region/fixed/corner" in trainer.callback_metrics) == (unpack is boxes)


def test_the_regions_of_the_batch_survive_a_resume() -> None:
    callback = SaliencyCallback(fixed, samples=4, unpack=masks)
    batch = next(iter(DataLoader(WithMasks(), batch_size=4)))
    callback._samples.keep(callback._samples.of(batch))
    other = SaliencyCallback(fixed, samples=4, unpack=masks)
    other.load_state_dict(callback.state_dict())
    assert other._samples.known is not None
    assert torch.equal(other._samples.known.regions["object"], OBJECTS)


def wrong_size(batch: Any) -> Any:
    return batch[0], batch[1], batch[2][:, :5]


def too_few(batch: Any) -> Any:
    return batch[0], batch[1], batch[2][:1]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"unpack": wrong_size}, r"'object' as boxes .*\(N, 16, 16\), got shape \(\d, 5, 16\)"),
        ({"regions": {"it": torch.ones(4, 8, 8)}}, r"'it' .* got shape \(4, 8, 8\)"),
        ({"regions": {"it": (50, 50, 60, 60)}}, "'it' to have a pixel in the images of 16 x 16"),
    ],
    ids=["mask of another size", "region of another size", "outside"],
)
def test_it_ends_before_the_first_step(settings: dict[str, Any], says: str, tmp_path: Path) -> None:
    module = TinyModule()
    trainer = make_trainer(tmp_path, SaliencyCallback(Gradient(), samples=4, **settings))
    with pytest.raises(InputError, match=says):
        trainer.fit(module, train_loader(), DataLoader(WithMasks(), batch_size=4))
    assert module.steps == 0


def test_a_mask_for_each_image_is_wanted(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, SaliencyCallback(Gradient(), samples=4, unpack=too_few))
    with pytest.raises(InputError, match="each of the 4 images, got 1"):
        trainer.fit(TinyModule(), train_loader(), DataLoader(WithMasks(), batch_size=4))


def some_empty(batch: Any) -> Any:
    objects = batch[2].clone()
    objects[0] = False
    return batch[0], batch[1], objects


def test_a_sample_without_an_object_is_warned_of_and_left_out(tmp_path: Path) -> None:
    callback = SaliencyCallback(fixed, samples=4, unpack=some_empty)
    trainer = make_trainer(tmp_path, callback)
    with pytest.warns(SaliencyWarning, match="'object' has no pixel in sample 0; .* leave it out"):
        trainer.fit(TinyModule(), train_loader(), DataLoader(WithMasks(), batch_size=4))
    maps, objects = MAPS[1:, 0].double().numpy(), OBJECTS[1:, 0].numpy()
    assert scalars(tmp_path, "saliency_object/fixed/") == pytest.approx(by_hand(maps, objects))


def test_a_degenerate_map_points_nowhere_and_has_no_share() -> None:
    maps = MAPS.clone()
    maps[0], maps[1] = 0.0, torch.nan
    values = locate(maps, {"object": OBJECTS, "corner": OBJECTS}, Gradient())
    for name, value in values.items():
        if name == "object/pointing":
            assert value[:2].tolist() == [0, 0]
        else:
            assert value.isnan().tolist() == [True, True, False, False], name


def test_a_map_of_another_size_is_resized_to_the_regions() -> None:
    coarse = torch.zeros(1, 1, 4, 4)
    coarse[0, 0, 3, 3] = 1.0
    region = torch.zeros(1, 1, 16, 16, dtype=torch.bool)
    region[:, :, 8:, 8:] = True
    values = locate(coarse, {"object": region}, Gradient())
    assert float(values["object/energy"]) == 1.0
    assert float(values["object/pointing"]) == 1.0


def test_the_middle_of_a_flat_mask_points_and_not_its_corner() -> None:
    maps = torch.zeros(1, 1, 64, 64)
    maps[:, :, 10:50, 10:50] = 1.0
    region = torch.zeros(1, 1, 64, 64, dtype=torch.bool)
    region[:, :, 28:33, 28:33] = True
    assert float(locate(maps, {"object": region}, ExtremalPerturbation())["object/pointing"]) == 1.0
    assert float(locate(maps, {"object": region}, Gradient())["object/pointing"]) == 0.0


def test_what_all_pixels_of_a_rise_map_share_is_subtracted() -> None:
    maps = torch.full((1, 1, 16, 16), 100.0)
    maps[0, 0, 3, 3] = 101.0
    region = torch.zeros(1, 1, 16, 16, dtype=torch.bool)
    region[0, 0, 3, 3] = True
    regions = {"object": region, "spot": region}
    of_paper = locate(maps, regions, RISE(preset="paper"))
    assert float(of_paper["object/energy"]) == 1.0
    assert float(of_paper["region/spot"]) == 1.0
    assert float(locate(maps, regions, RISE())["region/spot"]) < 0.01
