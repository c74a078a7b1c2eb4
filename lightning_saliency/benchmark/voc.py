"""PASCAL VOC, as the pointing game is played on it.

Everingham, Van Gool, Williams, Winn, Zisserman. The PASCAL visual object classes (VOC) challenge.
International journal of computer vision 2010.
"""

from collections import defaultdict
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch
from torch import Tensor
from torchvision.datasets import VOCDetection
from torchvision.transforms.functional import to_tensor

from lightning_saliency.benchmark.pointing_data import Annotation, PointingData, difficult_classes
from lightning_saliency.errors import InputError

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
"""The twenty classes of PASCAL VOC, in alphabetical order."""


class VOCPointing(PointingData):
    """PASCAL VOC for the pointing game, read by ``torchvision.datasets.VOCDetection``.

    The mask of a class is the union of its bounding boxes. A class all of whose boxes are marked
    difficult is not played; if only some are, all of them count. For the difficult subset all
    boxes count, also the ones that are marked difficult: their areas are summed, and a class of
    which there are only such boxes is another class.

    Args:
        root: the folder that holds ``VOCdevkit``; that folder or ``VOC2007`` in it do as well.
        year: ``"2007"`` to ``"2012"``.
        split: ``"train"``, ``"val"`` or ``"trainval"``; for 2007 also ``"test"``, which published
            figures are of.

    Raises:
        InputError: the folders are not there, or an annotation cannot be used.
    """

    class_names = VOC_CLASSES

    def __init__(self, root: str | Path, year: str = "2007", split: str = "test") -> None:
        self.name = f"voc_{year}_{split}"
        self.missing: dict[str, str] = {}
        self._source = _open(_above_devkit(Path(root), year), year, split)
        # Blank lines in the list of names are no pictures.
        self._places = [
            i for i, path in enumerate(self._source.images) if Path(path).name != ".jpg"
        ]
        self.annotations = [self._annotation(place) for place in self._places]

    def scene(self, index: int) -> tuple[Tensor, Tensor]:
        """Return picture (3, H, W) and masks (K, H, W); see :meth:`PointingData.scene`.

        Raises:
            OSError: the picture cannot be read.
            ValueError: the picture has another size than its annotation says.
        """
        picture, label = self._source[self._places[index]]
        annotation = self.annotations[index]
        annotation.check_size(picture.size)
        masks = torch.zeros(len(annotation.classes), *annotation.size, dtype=torch.bool)
        for thing in label["annotation"]["object"]:
            left, top, right, bottom = _box(thing)
            if (class_id := VOC_CLASSES.index(thing["name"])) in annotation.classes:
                mask = masks[annotation.classes.index(class_id)]
                # Boxes count pixels from 1, and include the last one.
                mask[max(top - 1, 0) : bottom, max(left - 1, 0) : right] = True
        return to_tensor(picture), masks

    def _annotation(self, place: int) -> Annotation:
        path = Path(self._source.annotations[place])
        name = path.stem
        if not Path(self._source.images[place]).is_file():
            self.missing[name] = "the image is missing"
        if not path.is_file():
            self.missing[name] = "the annotation is missing"
            return Annotation(name, (1, 1), ())
        try:
            tree = ElementTree.parse(path).getroot()
            label = self._source.parse_voc_xml(tree)["annotation"]
            size = (int(label["size"]["height"]), int(label["size"]["width"]))
            return _read(name, size, label["object"])
        except ElementTree.ParseError as error:
            # Half of a file: that picture cannot be used, the others can.
            self.missing[name] = f"the annotation cannot be read ({error})"
            return Annotation(name, (1, 1), ())
        except (KeyError, ValueError, TypeError) as error:
            what = error if isinstance(error, InputError) else f"it has no usable {error}"
            raise InputError(f"Expected an annotation of VOC in {path}, but {what}.") from error


def _read(name: str, size: tuple[int, int], things: list[Any]) -> Annotation:
    areas: dict[int, float] = defaultdict(float)
    played = set()
    for thing in things:
        if thing["name"] not in VOC_CLASSES:
            raise InputError(
                f"it has an object of the class '{thing['name']}', which is none of the "
                f"{len(VOC_CLASSES)} of PASCAL VOC"
            )
        label = VOC_CLASSES.index(thing["name"])
        left, top, right, bottom = _box(thing)
        areas[label] += (right - left + 1) * (bottom - top + 1)
        if not int(thing.get("difficult", 0)):
            played.add(label)
    difficult = difficult_classes(areas, size[0] * size[1])
    return Annotation(name, size, tuple(sorted(played)), difficult & played)


def _box(thing: dict[str, Any]) -> tuple[int, int, int, int]:
    left, top, right, bottom = (
        int(float(thing["bndbox"][side])) for side in ("xmin", "ymin", "xmax", "ymax")
    )
    return left, top, right, bottom


def _above_devkit(root: Path, year: str) -> Path:
    """Return the folder that holds VOCdevkit, also if a folder inside it was named."""
    for folder in (root, root.parent, root.parent.parent):
        if (folder / "VOCdevkit" / f"VOC{year}").is_dir():
            return folder
    raise InputError(
        f"Expected PASCAL VOC {year} in {root}, with the pictures in "
        f"VOCdevkit/VOC{year}/JPEGImages, but "
        f"{'that is not there' if root.is_dir() else 'there is no such folder'}. Download it from "
        "host.robots.ox.ac.uk/pascal/VOC and unpack it there, or name another --root."
    )


def _open(root: Path, year: str, split: str) -> VOCDetection:
    folder = root / "VOCdevkit" / f"VOC{year}"
    for part in ("JPEGImages", "Annotations", f"ImageSets/Main/{split}.txt"):
        if not (folder / part).exists():
            raise InputError(
                f"Expected {part} in {folder}, but it is not there: the dataset is incomplete, or "
                f"holds another split than '{split}'. Unpack it again, or name another split."
            )
    try:
        return VOCDetection(root, year=year, image_set=split)
    except (RuntimeError, ValueError, OSError) as error:
        raise InputError(f"Expected PASCAL VOC {year}, split '{split}', in {root}: {error}") from (
            error
        )
