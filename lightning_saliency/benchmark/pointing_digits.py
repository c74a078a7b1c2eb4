"""The pointing game on cluttered digits: no download, and an answer in a few minutes."""

from zlib import crc32

import torch
from torch import Tensor

from lightning_saliency.benchmark.cluttered_digits import ClutteredDigits
from lightning_saliency.benchmark.pointing_data import Annotation, PointingData, difficult_classes
from lightning_saliency.errors import InputError
from lightning_saliency.metrics import point_hit

_SIZE = 128  # pixels, what the example network was trained with


class DigitsPointing(PointingData):
    """Held-out pictures of handwritten digits over clutter, for the pointing game.

    The mask of a digit is its strokes. The tolerance is 4 pixels, which is to these pictures of 128
    pixels what 15 are to photographs of 500.

    Args:
        length: number of pictures.
        num_digits: digits in each picture, 1 or 2, of different classes.
        off_center: only pictures in which no digit is hit from the center, so that pointing there
            scores 0.
        off_centre: the old spelling of ``off_center``.

    Raises:
        InputError: ``length`` is below 1, or ``num_digits`` neither 1 nor 2.
        DependencyError: scikit-learn is not installed.
    """

    class_names = ClutteredDigits.class_names
    tolerance = 4
    areas = (0.02, 0.04)
    # On pictures this small, with a network this narrow, more hardly change the largest place.
    rise_masks = 512
    multi_label = False

    def __init__(
        self,
        length: int = 100,
        num_digits: int = 2,
        off_center: bool = False,
        *,
        off_centre: bool = False,
    ) -> None:
        off_center = off_center or off_centre
        if length < 1:
            raise InputError(f"Expected a length of at least 1 picture, got {length}.")
        # Files of results know the dataset under this name.
        self.name = f"digits_{num_digits}" + ("_off_centre" if off_center else "")
        self.missing: dict[str, str] = {}
        # Of the pictures that are drawn, more than one in three is off the center.
        self._digits = ClutteredDigits(
            "val", 10 * length if off_center else length, num_digits=num_digits, size=_SIZE
        )
        self.annotations: list[Annotation] = []
        self._places: list[int] = []
        place = 0
        while len(self.annotations) < length:
            labels, masks = self._labels(place)
            if not (off_center and self._hit_from_center(masks)):
                areas = dict(zip(labels, masks.flatten(1).sum(1).tolist(), strict=True))
                self._places.append(place)
                self.annotations.append(
                    Annotation(
                        f"val-{place:05}",
                        (_SIZE, _SIZE),
                        tuple(sorted(labels)),
                        difficult_classes(areas, _SIZE**2),
                    )
                )
            place += 1

    def scene(self, index: int) -> tuple[Tensor, Tensor]:
        """Return picture (3, H, W) and masks (K, H, W); see :meth:`PointingData.scene`."""
        picture, _, _ = self._digits[self._places[index]]
        labels, masks = self._labels(self._places[index])
        order = sorted(range(len(labels)), key=labels.__getitem__)
        return picture, masks[order]

    def fingerprint(self) -> str:
        """Return name and checksum of the first picture: more pictures are of the same dataset."""
        return f"{self.name}, {crc32(self.scene(0)[0].numpy().tobytes()):08x}"

    def _labels(self, place: int) -> tuple[list[int], Tensor]:
        _, label, masks = self._digits[place]
        return torch.as_tensor(label).reshape(-1).tolist(), masks

    def _hit_from_center(self, masks: Tensor) -> bool:
        center = torch.full((len(masks), 2), _SIZE / 2)
        return bool(point_hit(center, masks[:, None], self.tolerance).any())
