"""MS COCO, as the pointing game is played on it.

Lin, Maire, Belongie, Hays, Perona, Ramanan, Dollar, Zitnick. Microsoft COCO: common objects in
context. ECCV 2014, arXiv:1405.0312.
"""

import io
import warnings
from collections import defaultdict
from contextlib import redirect_stdout
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor
from torchvision.datasets import CocoDetection
from torchvision.transforms.functional import to_tensor

from lightning_saliency.benchmark.pointing_data import Annotation, PointingData, difficult_classes
from lightning_saliency.errors import DependencyError, InputError, SaliencyWarning


class COCOPointing(PointingData):
    """MS COCO for the pointing game, read by ``torchvision.datasets.CocoDetection``.

    The mask of a class is the union of its segments, crowds included. The classes are the
    categories of the annotation file in the order of their ids: 0 to 79 for COCO's 80. For the
    difficult subset the annotated areas of a class are summed.

    Args:
        root: the folder that holds the pictures in ``<split>`` and
            ``annotations/instances_<split>.json``.
        split: ``"val2014"``, which published figures are of, or another one.

    Raises:
        InputError: the folder or the annotations are not there, or cannot be used.
        DependencyError: pycocotools is not installed.
    """

    areas = (0.018, 0.025, 0.05, 0.1)

    def __init__(self, root: str | Path, split: str = "val2014") -> None:
        self.name = f"coco_{split}"
        self._folder = Path(root) / split
        self._source = _open(Path(root), split)
        coco = self._source.coco
        categories = coco.loadCats(sorted(coco.getCatIds()))
        self.class_names = tuple(category["name"] for category in categories)
        self._labels = {category["id"]: i for i, category in enumerate(categories)}
        self.missing: dict[str, str] = {}
        self.annotations = [self._annotation(image_id) for image_id in self._source.ids]
        self._warn_of_strangers()

    def scene(self, index: int) -> tuple[Tensor, Tensor]:
        """Return picture (3, H, W) and masks (K, H, W); see :meth:`PointingData.scene`.

        Raises:
            OSError: the picture cannot be read.
            ValueError: the picture has another size than its annotation says.
        """
        picture, things = self._source[index]
        annotation = self.annotations[index]
        annotation.check_size(picture.size)
        masks = torch.zeros(len(annotation.classes), *annotation.size, dtype=torch.bool)
        for thing in things:
            mask = torch.from_numpy(self._source.coco.annToMask(thing)).bool()
            masks[annotation.classes.index(self._labels[thing["category_id"]])] |= mask
        return to_tensor(picture), masks

    def _annotation(self, image_id: int) -> Annotation:
        coco = self._source.coco
        image = coco.loadImgs(image_id)[0]
        try:
            size = (int(image["height"]), int(image["width"]))
            file = image["file_name"]
        except (KeyError, ValueError, TypeError) as error:
            raise InputError(
                f"Expected file_name, height and width of image {image_id} in the annotations of "
                f"{self.name}, but it has no usable {error}."
            ) from error
        name = str(PurePosixPath(file).with_suffix(""))
        if not (self._folder / file).is_file():
            self.missing[name] = "the image is missing"
        areas: dict[int, float] = defaultdict(float)
        for thing in coco.loadAnns(coco.getAnnIds(image_id)):
            areas[self._label(thing)] += _area(coco, thing)
        return Annotation(
            name, size, tuple(sorted(areas)), difficult_classes(areas, size[0] * size[1])
        )

    def _label(self, thing: dict[str, Any]) -> int:
        label = self._labels.get(thing.get("category_id"))
        if label is None:
            raise InputError(
                f"Expected annotation {thing.get('id')} of {self.name} to have one of the "
                f"{len(self._labels)} categories of the file, got category_id "
                f"{thing.get('category_id')!r}."
            )
        return label

    def _warn_of_strangers(self) -> None:
        coco = self._source.coco
        known = {image["file_name"] for image in coco.loadImgs(self._source.ids)}
        homeless = set(coco.imgToAnns) - set(self._source.ids)
        if homeless:
            raise InputError(
                f"Expected the annotations of {self.name} to be of images in the same file, but "
                f"{len(homeless)} image ids are unknown there, for instance {min(homeless)}. The "
                "file is incomplete; download it again."
            )
        found = {path.name for path in self._folder.iterdir() if path.suffix.lower() == ".jpg"}
        strangers = sorted(found - {PurePosixPath(file).name for file in known})
        if strangers:
            warnings.warn(
                f"{len(strangers)} images in {self._folder} have no entry in the annotations and "
                f"are left out, for instance {strangers[0]}.",
                SaliencyWarning,
                stacklevel=3,
            )


def _area(coco: Any, thing: dict[str, Any]) -> float:
    area = thing.get("area")
    return float(coco.annToMask(thing).sum()) if area is None else float(area)


def _open(root: Path, split: str) -> CocoDetection:
    pictures = root / split
    annotations = root / "annotations" / f"instances_{split}.json"
    for path in (pictures, annotations):
        if not path.exists():
            raise InputError(
                f"Expected MS COCO's split '{split}' in {root}, with the pictures in {split} and "
                f"annotations/{annotations.name}, but {path} is not there. Download both from "
                "cocodataset.org, or name another split."
            )
    try:
        # pycocotools tells how far it is.
        with redirect_stdout(io.StringIO()):
            return CocoDetection(pictures, str(annotations))
    except ImportError as error:
        raise DependencyError(
            "Expected pycocotools, which reads the annotations of COCO, but it cannot be imported. "
            "Install it: pip install lightning-saliency[coco]"
        ) from error
    except (ValueError, KeyError, AssertionError, TypeError) as error:
        raise InputError(
            f"Expected the annotations of COCO in {annotations}, but the file cannot be used "
            f"({type(error).__name__}: {error}). Perhaps only half of it was downloaded."
        ) from error
