"""Pictures with several objects each, and where those are: what the pointing game is played on."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from zlib import crc32

from torch import Tensor


@dataclass(frozen=True)
class Annotation:
    """What is known of a picture without reading it.

    Attributes:
        name: of the picture, unique in its dataset.
        size: (height, width) in pixels.
        classes: the classes that the game is played for, rising.
        difficult: those of them that belong to the difficult subset.
    """

    name: str
    size: tuple[int, int]
    classes: tuple[int, ...]
    difficult: frozenset[int] = field(default_factory=frozenset)

    def check_size(self, picture: tuple[int, int]) -> None:
        """Raise unless a picture has the size that is annotated.

        Args:
            picture: its (width, height) in pixels, as Pillow gives them.

        Raises:
            ValueError: it has another size.
        """
        height, width = self.size
        if picture != (width, height):
            raise ValueError(
                f"it has {picture[0]} x {picture[1]} pixels, its annotation says {width} x {height}"
            )


class PointingData(ABC):
    """A dataset for the pointing game; implement :meth:`scene` for your own.

    Attributes:
        name: of the dataset and its part, as shown in the table (``"voc_2007_test"``).
        class_names: in the order of the model's scores.
        annotations: one for each picture.
        tolerance: radius of the pointing game, in pixels of the pictures.
        areas: of the masks of extremal perturbation, fractions of the picture.
        rise_masks: how many masks RISE takes, None for its default.
        multi_label: whether a picture can hold several classes, so that a model's scores are
            logits of a sigmoid each; False for the softmax.
        missing: reasons, by name, why pictures of ``annotations`` cannot be read, as far as that is
            known without reading them.
    """

    name: str
    class_names: Sequence[str]
    annotations: Sequence[Annotation]
    tolerance: float = 15
    areas: tuple[float, ...] = (0.025, 0.05, 0.1, 0.2)
    rise_masks: int | None = None
    multi_label: bool = True
    missing: Mapping[str, str]

    @abstractmethod
    def scene(self, index: int) -> tuple[Tensor, Tensor]:
        """Read a picture and the masks of its objects.

        Args:
            index: of one of ``annotations``.

        Returns:
            The picture, float32 (3, H, W) in [0, 1], and bool masks (K, H, W), one for each of the
            annotation's ``classes``, of all objects of that class.

        Raises:
            OSError: the picture cannot be read. ``ValueError`` and ``SyntaxError`` count as that
                too: decoders raise them.
        """

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.annotations)

    def fingerprint(self) -> str:
        """Return what identifies this dataset: name, number of pictures, and a checksum."""
        checksum = 0
        for annotation in self.annotations:
            known = (annotation.name, annotation.size, annotation.classes)
            checksum = crc32(repr((known, sorted(annotation.difficult))).encode(), checksum)
        return f"{self.name}, {len(self)} images, {checksum:08x}"


def difficult_classes(areas: Mapping[int, float], picture_area: float) -> frozenset[int]:
    """Return the classes of a picture that belong to the difficult subset of the pointing game.

    The definition of Zhang et al. (Top-down neural attention by excitation backprop, ECCV 2016,
    arXiv:1608.00507): the objects of the class take less than a quarter of the picture, and there
    is at least one other class in it.

    Args:
        areas: of all objects of each class in the picture, summed, in pixels.
        picture_area: in pixels.

    Example:
        >>> sorted(difficult_classes({3: 10.0, 7: 80.0}, picture_area=100.0))
        [3]
        >>> sorted(difficult_classes({3: 10.0}, picture_area=100.0))
        []
    """
    if len(areas) < 2:
        return frozenset()
    return frozenset(label for label, area in areas.items() if area < picture_area / 4)
