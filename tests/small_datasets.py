"""Small datasets on disk in the formats of PASCAL VOC and of COCO, with all that occurs in them."""

import json
import random
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from PIL import Image, ImageDraw

from lightning_saliency.benchmark.voc import VOC_CLASSES

SIZES = [(90, 60), (60, 90), (80, 80)]


def write_picture(path: Path, size: tuple[int, int], seed: int) -> None:
    """Noise-like but compressible: a few rectangles of random colors."""
    rng = random.Random(seed)
    picture = Image.new("RGB", size, tuple(rng.randrange(256) for _ in range(3)))
    draw = ImageDraw.Draw(picture)
    for _ in range(6):
        left, top = rng.randrange(size[0] - 5), rng.randrange(size[1] - 5)
        color = tuple(rng.randrange(256) for _ in range(3))
        draw.rectangle((left, top, left + 15, top + 15), fill=color)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, quality=95)


def write_voc(
    root: Path,
    count: int,
    seed: int = 0,
    classes: int = 5,
    year: str = "2007",
    split: str = "test",
    sizes: list[tuple[int, int]] | None = None,
) -> list[str]:
    """Write pictures with 0 to 4 objects; return their names, of which some have spaces."""
    rng = random.Random(seed)
    folder = root / "VOCdevkit" / f"VOC{year}"
    names = []
    for i in range(count):
        name = f"{i:06}" if i % 3 else f"photo {i} of many"
        size = rng.choice(sizes or SIZES)
        objects = [_box(rng, size, classes) for _ in range(0 if i % 7 == 3 else rng.randint(1, 4))]
        write_picture(folder / "JPEGImages" / f"{name}.jpg", size, i)
        write_voc_annotation(folder / "Annotations" / f"{name}.xml", name, size, objects)
        names.append(name)
    write_voc_split(root, names, year, split)
    return names


def write_voc_split(root: Path, names: list[str], year: str = "2007", split: str = "test") -> None:
    path = root / "VOCdevkit" / f"VOC{year}" / "ImageSets" / "Main" / f"{split}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}\n" for name in names))


def _box(rng: random.Random, size: tuple[int, int], classes: int) -> dict[str, Any]:
    left, top = rng.randint(1, size[0] - 4), rng.randint(1, size[1] - 4)
    return {
        "name": VOC_CLASSES[rng.randrange(classes)],
        "difficult": rng.random() < 0.4,
        "box": (left, top, rng.randint(left, size[0]), rng.randint(top, size[1])),
    }


def write_voc_annotation(
    path: Path, name: str, size: tuple[int, int], objects: list[dict[str, Any]]
) -> None:
    things = "".join(
        f"<object><name>{escape(thing['name'])}</name><pose>Left</pose><truncated>0</truncated>"
        f"<difficult>{int(thing['difficult'])}</difficult><bndbox>"
        + "".join(
            f"<{side}>{value}</{side}>"
            for side, value in zip(("xmin", "ymin", "xmax", "ymax"), thing["box"], strict=True)
        )
        + "</bndbox></object>"
        for thing in objects
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"<annotation><folder>VOC2007</folder><filename>{escape(name)}.jpg</filename>"
        f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
        f"<segmented>0</segmented>{things}</annotation>"
    )


COCO_IDS = [i for i in range(1, 91) if i not in {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}]


def write_coco(root: Path, count: int, seed: int = 0, split: str = "val2014") -> dict[str, Any]:
    """Write pictures with polygons and crowds, some without objects; return the annotations."""
    rng = random.Random(seed)
    images, annotations = [], []
    for i in range(count):
        size = rng.choice(SIZES)
        name = f"COCO_{split}_{i:012}.jpg" if i % 3 else f"photo {i} of many.jpg"
        write_picture(root / split / name, size, i)
        images.append({"id": 1000 - i, "file_name": name, "width": size[0], "height": size[1]})
        for _ in range(0 if i % 5 == 2 else rng.randint(1, 4)):
            thing = _segment(rng, size)
            thing.update(id=len(annotations) + 1, image_id=1000 - i)
            thing["category_id"] = rng.choice([1, 13, 44, 90])
            annotations.append(thing)
    # Not in the order of their ids, and with the gaps of the real ones.
    categories = [{"id": i, "name": f"thing {i}"} for i in reversed(COCO_IDS)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    write_coco_annotations(root, content, split)
    return content


def write_coco_annotations(root: Path, content: dict[str, Any], split: str = "val2014") -> None:
    path = root / "annotations" / f"instances_{split}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def _segment(rng: random.Random, size: tuple[int, int]) -> dict[str, Any]:
    width, height = size
    left, top = rng.randint(0, width - 8), rng.randint(0, height - 8)
    right, bottom = rng.randint(left + 5, width - 1), rng.randint(top + 5, height - 1)
    if rng.random() < 0.25:
        # A crowd: run lengths, column by column, beginning with what is outside.
        start, length = left * height + top, (right - left) * height // 2
        counts = [start, length, width * height - start - length]
        box = [left, top, right - left, bottom - top]
        area = float(length)
        segments: Any = {"counts": counts, "size": [height, width]}
        return {"segmentation": segments, "area": area, "iscrowd": 1, "bbox": box}
    corners = [left, top, right, top, right, bottom, left, bottom]
    area = float((right - left) * (bottom - top))
    return {
        "segmentation": [corners],
        "area": area,
        "iscrowd": 0,
        "bbox": [left, top, right - left, bottom - top],
    }
