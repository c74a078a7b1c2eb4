"""VOC and COCO for the pointing game, against TorchRay's benchmark on small datasets."""

import random
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from small_datasets import (
    COCO_IDS,
    SIZES,
    write_coco,
    write_coco_annotations,
    write_picture,
    write_voc,
    write_voc_annotation,
    write_voc_split,
)
from torchvision.datasets import CocoDetection, VOCDetection

from lightning_saliency.benchmark.coco import COCOPointing
from lightning_saliency.benchmark.pointing_data import PointingData
from lightning_saliency.benchmark.pointing_digits import DigitsPointing
from lightning_saliency.benchmark.voc import VOC_CLASSES, VOCPointing
from lightning_saliency.errors import InputError, SaliencyWarning
from lightning_saliency.metrics import PointingTally, point_hit


def torchray_benchmark() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("torchray.benchmark.pointing_game")


def play_both(
    data: PointingData,
    dataset: Any,
    class_ids: Any,
    theirs: Any,
    theirs_difficult: Any,
    points_for_each: int,
) -> tuple[int, int, int]:
    """Play every class with some points; return how many hit, missed and were skipped."""
    rng = random.Random(0)
    classes = len(data.class_names)
    tally, tally_difficult = PointingTally(classes), PointingTally(classes)
    outcomes = {1: 0, -1: 0, 0: 0}
    for index, annotation in enumerate(data.annotations):
        _, label = dataset[index]
        picture, masks = data.scene(index)
        assert picture.shape[1:] == masks.shape[1:] == annotation.size
        assert len(masks) == len(annotation.classes)
        for class_id in class_ids(label):
            for _ in range(points_for_each):
                row, column = rng.randrange(annotation.size[0]), rng.randrange(annotation.size[1])
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    result = theirs.evaluate(label, class_id, (column, row))
                    hard = theirs_difficult.evaluate(label, class_id, (column, row))
                theirs.aggregate(result, class_id)
                theirs_difficult.aggregate(hard, class_id)
                outcomes[result] += 1
                assert (result == 0) == (class_id not in annotation.classes)
                if result == 0:
                    continue
                mask = masks[annotation.classes.index(class_id)][None, None]
                hit = point_hit(torch.tensor([[row, column]]), mask, 15)
                assert hit.tolist() == [result == 1]
                tally.update(hit, torch.tensor([class_id]))
                assert (hard != 0) == (class_id in annotation.difficult)
                if hard != 0:
                    tally_difficult.update(hit, torch.tensor([class_id]))
    torch.testing.assert_close(tally.compute(), theirs.accuracy.float())
    torch.testing.assert_close(tally_difficult.compute(), theirs_difficult.accuracy.float())
    return outcomes[1], outcomes[-1], outcomes[0]


# The flags are TorchRay's list for the real pictures, and computed here for these: in the plainest
# way, from the annotations as they are written.
def flags(areas: dict[int, float], picture: float, classes: int) -> list[bool]:
    others = [sum(label != c for label in areas) > 0 for c in range(classes)]
    return [c in areas and others[c] and areas[c] * 4 < picture for c in range(classes)]


def test_voc_is_played_as_by_torchray(tmp_path: Path) -> None:
    module = torchray_benchmark()
    write_voc(tmp_path, 40)
    dataset = VOCDetection(tmp_path, year="2007", image_set="test")
    theirs = module.PointingGameBenchmark(dataset)
    difficult = module.PointingGameBenchmark(dataset, difficult=True)
    difficult.difficult_flags = {}
    for path in dataset.annotations:
        tree = ElementTree.parse(path)
        areas: dict[int, float] = {}
        for thing in tree.iter("object"):
            left, top, right, bottom = (int(side.text) for side in thing.find("bndbox"))
            label = VOC_CLASSES.index(thing.findtext("name"))
            areas[label] = areas.get(label, 0) + (right + 1 - left) * (bottom + 1 - top)
        size = tree.find("size")
        picture = int(size.findtext("width")) * int(size.findtext("height"))
        difficult.difficult_flags[Path(path).stem] = flags(areas, picture, 20)

    def class_ids(label: Any) -> list[int]:
        return sorted({VOC_CLASSES.index(o["name"]) for o in label["annotation"]["object"]})

    data = VOCPointing(tmp_path)
    hits, misses, skipped = play_both(data, dataset, class_ids, theirs, difficult, 8)
    assert min(hits, misses, skipped) > 50
    assert any(" " in annotation.name for annotation in data.annotations)
    assert any(not annotation.classes for annotation in data.annotations)
    assert data.missing == {}


def test_coco_is_played_as_by_torchray(tmp_path: Path) -> None:
    module = torchray_benchmark()
    content = write_coco(tmp_path, 40)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.print", lambda *_: None)
        dataset = CocoDetection(
            tmp_path / "val2014", str(tmp_path / "annotations" / "instances_val2014.json")
        )
    theirs = module.PointingGameBenchmark(dataset)
    difficult = module.PointingGameBenchmark(dataset, difficult=True)
    difficult.difficult_flags = {}
    for image in content["images"]:
        areas: dict[int, float] = {}
        for thing in content["annotations"]:
            if thing["image_id"] == image["id"]:
                label = COCO_IDS.index(thing["category_id"])
                areas[label] = areas.get(label, 0) + thing["area"]
        name = image["file_name"].split(".")[0]
        picture = image["width"] * image["height"]
        difficult.difficult_flags[name] = flags(areas, picture, 80)

    def class_ids(label: Any) -> list[int]:
        return sorted({COCO_IDS.index(thing["category_id"]) for thing in label})

    data = COCOPointing(tmp_path)
    assert data.class_names[:2] == ("thing 1", "thing 2")
    hits, misses, skipped = play_both(data, dataset, class_ids, theirs, difficult, 8)
    assert min(hits, misses) > 50
    assert skipped == 0
    assert any(thing["iscrowd"] for thing in content["annotations"])
    assert any(not annotation.classes for annotation in data.annotations)


def test_voc_by_hand(tmp_path: Path) -> None:
    folder = tmp_path / "VOCdevkit" / "VOC2007"
    write_picture(folder / "JPEGImages" / "a b.jpg", (20, 10), 0)
    dog = {"name": "dog", "difficult": False, "box": (1, 1, 4, 3)}
    hard_cat = {"name": "cat", "difficult": True, "box": (5, 5, 20, 10)}
    hard_dog = {"name": "dog", "difficult": True, "box": ("19.0", "9.5", "20.0", "10.2")}
    write_voc_annotation(
        folder / "Annotations" / "a b.xml", "a b", (20, 10), [dog, hard_cat, hard_dog]
    )
    write_voc_split(tmp_path, ["a b", ""])
    data = VOCPointing(tmp_path)
    (annotation,) = data.annotations
    # The cat is too hard to be played, but it is another class in the picture.
    assert annotation.size == (10, 20)
    assert annotation.classes == (VOC_CLASSES.index("dog"),)
    assert annotation.difficult == {VOC_CLASSES.index("dog")}
    expected = torch.zeros(10, 20, dtype=torch.bool)
    expected[0:3, 0:4] = True
    expected[8:10, 18:20] = True
    picture, masks = data.scene(0)
    assert torch.equal(masks, expected[None])
    assert picture.dtype == torch.float32
    assert 0 <= float(picture.min()) < float(picture.max()) <= 1


@pytest.mark.parametrize("inside", ["", "VOCdevkit", "VOCdevkit/VOC2007"])
def test_voc_is_found_from_inside_too(tmp_path: Path, inside: str) -> None:
    write_voc(tmp_path, 3)
    assert len(VOCPointing(tmp_path / inside)) == 3


# --- what is wrong with a dataset -------------------------------------------------------------


def test_a_missing_voc(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"VOCdevkit/VOC2007/JPEGImages, but that is not there"):
        VOCPointing(tmp_path)
    with pytest.raises(InputError, match="there is no such folder"):
        VOCPointing(tmp_path / "nowhere")
    write_voc(tmp_path, 2)
    with pytest.raises(InputError, match=r"ImageSets/Main/val\.txt"):
        VOCPointing(tmp_path, split="val")
    with pytest.raises(InputError, match="VOC 1999"):
        VOCPointing(tmp_path, year="1999")


def test_half_a_voc(tmp_path: Path) -> None:
    names = write_voc(tmp_path, 6)
    folder = tmp_path / "VOCdevkit" / "VOC2007"
    (folder / "JPEGImages" / f"{names[1]}.jpg").unlink()
    (folder / "Annotations" / f"{names[2]}.xml").unlink()
    broken = folder / "Annotations" / f"{names[4]}.xml"
    broken.write_text(broken.read_text()[:100])
    data = VOCPointing(tmp_path)
    assert len(data) == 6
    assert set(data.missing) == {names[1], names[2], names[4]}
    assert data.missing[names[1]] == "the image is missing"
    assert data.missing[names[2]] == "the annotation is missing"
    assert "cannot be read" in data.missing[names[4]]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<name>", "<name>space", "the class 'space.*none of the 20 of PASCAL VOC"),
        ("<xmin>", "<xmin>x", "no usable"),
        ("<height>", "<height>?", "no usable"),
        ("bndbox>", "polygon>", "no usable 'bndbox'"),
    ],
)
def test_voc_annotations_that_mean_nothing(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    (name,) = write_voc(tmp_path, 1)
    path = tmp_path / "VOCdevkit" / "VOC2007" / "Annotations" / f"{name}.xml"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(InputError, match=message):
        VOCPointing(tmp_path)


def test_a_missing_coco(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"val2014 is not there"):
        COCOPointing(tmp_path)
    write_coco(tmp_path, 3)
    path = tmp_path / "annotations" / "instances_val2014.json"
    with pytest.raises(InputError, match=r"val2017 is not there"):
        COCOPointing(tmp_path, "val2017")
    path.write_text(path.read_text()[:-40])
    with pytest.raises(InputError, match="only half of it was downloaded"):
        COCOPointing(tmp_path)
    path.write_text("[]")
    with pytest.raises(InputError, match="cannot be used"):
        COCOPointing(tmp_path)


def test_images_without_annotations_and_the_reverse(tmp_path: Path) -> None:
    content = write_coco(tmp_path, 4)
    gone = content["images"][1]["file_name"]
    (tmp_path / "val2014" / gone).unlink()
    write_picture(tmp_path / "val2014" / "stranger.jpg", SIZES[0], 0)
    with pytest.warns(SaliencyWarning, match=r"1 images .* no entry .* stranger\.jpg"):
        data = COCOPointing(tmp_path)
    assert data.missing == {Path(gone).stem: "the image is missing"}
    content["annotations"][0]["image_id"] = 4711
    write_coco_annotations(tmp_path, content)
    with pytest.raises(InputError, match="unknown there, for instance 4711"):
        COCOPointing(tmp_path)


def test_coco_annotations_of_an_unknown_category(tmp_path: Path) -> None:
    content = write_coco(tmp_path, 4)
    content["annotations"][0]["category_id"] = 12
    write_coco_annotations(tmp_path, content)
    with pytest.raises(
        InputError, match="one of the 80 categories of the file, got category_id 12"
    ):
        COCOPointing(tmp_path)


def test_a_picture_of_another_size_than_its_annotation(tmp_path: Path) -> None:
    (name,) = write_voc(tmp_path, 1, sizes=[(40, 30)])
    write_picture(tmp_path / "VOCdevkit" / "VOC2007" / "JPEGImages" / f"{name}.jpg", (30, 40), 0)
    with pytest.raises(ValueError, match="it has 30 x 40 pixels, its annotation says 40 x 30"):
        VOCPointing(tmp_path).scene(0)


# --- digits and fingerprints ------------------------------------------------------------------


def test_digits_off_the_centre_are_not_hit_from_there() -> None:
    for digits in (1, 2):
        data = DigitsPointing(20, digits, off_centre=True)
        assert len(data) == 20
        for index, annotation in enumerate(data.annotations):
            picture, masks = data.scene(index)
            assert picture.shape == (3, 128, 128)
            assert len(masks) == len(annotation.classes) == digits
            assert list(annotation.classes) == sorted(annotation.classes)
            centre = torch.full((digits, 2), 64.0)
            assert not point_hit(centre, masks[:, None], data.tolerance).any()
    near = DigitsPointing(60, 2)
    assert any(bool(near.scene(i)[1][:, 62:66, 62:66].any()) for i in range(60))


def test_the_masks_of_two_digits_are_in_the_order_of_the_classes() -> None:
    data = DigitsPointing(12, 2)
    for index, annotation in enumerate(data.annotations):
        _, labels, masks = data._digits[index]
        _, sorted_masks = data.scene(index)
        for label, mask in zip(labels.tolist(), masks, strict=True):
            assert torch.equal(sorted_masks[annotation.classes.index(label)], mask)


def test_fingerprints_tell_datasets_apart(tmp_path: Path) -> None:
    write_voc(tmp_path, 5)
    first = VOCPointing(tmp_path).fingerprint()
    assert first == VOCPointing(tmp_path).fingerprint()
    write_voc(tmp_path, 5, seed=1)
    assert VOCPointing(tmp_path).fingerprint() != first
    assert DigitsPointing(3).fingerprint() == DigitsPointing(5).fingerprint()
    assert DigitsPointing(3).fingerprint() != DigitsPointing(3, 1).fingerprint()
