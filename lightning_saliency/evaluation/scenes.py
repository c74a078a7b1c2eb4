"""Batches of pictures for the pointing game, distributed over the processes."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils.data import Dataset, DistributedSampler

from lightning_saliency.benchmark.pointing_data import Annotation, PointingData
from lightning_saliency.benchmark.preprocessing import Preprocessing


@dataclass
class SceneBatch:
    """Some pictures of one size.

    Attributes:
        images: float32 (N, 3, h, w), as the model takes them; (0,) if there are none.
        masks: for each picture bool (K, H, W), one for each class.
        places: where in the dataset each picture is.
        problems: why pictures could not be read, by name.
    """

    images: Tensor
    masks: list[Tensor] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)


@dataclass(eq=False)
class Scenes(Dataset[SceneBatch]):
    """Reads whole batches; a picture that cannot be read is a problem of that picture.

    Args:
        data: the dataset.
        preprocessing: from pictures to images.
        square: whether images are square.
    """

    data: PointingData
    preprocessing: Preprocessing
    square: bool

    def __getitem__(self, places: Sequence[int]) -> SceneBatch:
        """Return the pictures at these places of the dataset."""
        batch = SceneBatch(torch.zeros(0))
        images = []
        for place in places:
            try:
                picture, masks = self.data.scene(place)
            except (OSError, ValueError, SyntaxError) as error:
                batch.problems[self.data.annotations[place].name] = _reason(error)
                continue
            images.append(self.preprocessing(picture, self.square))
            batch.masks.append(masks)
            batch.places.append(place)
        if images:
            batch.images = torch.stack(images)
        return batch


def _reason(error: Exception) -> str:
    said = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"it cannot be read: {said}"


def batches_of_equal_size(
    annotations: Sequence[Annotation], places: Collection[int], batch_size: int
) -> list[list[int]]:
    """Divide pictures into batches of the same height and width.

    The division does not depend on how many processes there are: the same pictures meet in a
    batch, which computes the same numbers.

    Args:
        annotations: of all pictures of the dataset.
        places: which of them are wanted.
        batch_size: the largest number in a batch.

    Example:
        >>> tall, wide = Annotation("a", (9, 5), (0,)), Annotation("b", (5, 9), (0,))
        >>> batches_of_equal_size([tall, wide, tall, tall], range(4), batch_size=2)
        [[0, 2], [3], [1]]
    """
    alike: dict[tuple[int, int], list[int]] = defaultdict(list)
    for place in sorted(places):
        alike[annotations[place].size].append(place)
    return [
        group[start : start + batch_size]
        for group in alike.values()
        for start in range(0, len(group), batch_size)
    ]


class RankBatches(DistributedSampler[list[int]]):
    """Gives the processes batches in turn, the same number to each.

    A process that would have one batch less gets an empty one, and all get at least one, so that
    all come to the end at the same time. Nothing is repeated, unlike in the sampler that this is
    derived from so that Lightning leaves it alone.

    Args:
        batches: of all processes.
        rank: of this process.
        world_size: number of processes.
    """

    def __init__(self, batches: Sequence[list[int]], rank: int, world_size: int) -> None:
        # The parent's own __init__ would count the items of a dataset.
        self.batches = batches
        self.rank = rank
        self.num_replicas = world_size

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the batches of this process."""
        mine = list(self.batches[self.rank :: self.num_replicas])
        yield from mine + [[]] * (len(self) - len(mine))

    def __len__(self) -> int:
        """Return how many batches each process gets."""
        return max(1, -(-len(self.batches) // self.num_replicas))

    def set_epoch(self, epoch: int) -> None:
        """Do nothing: the order is the same in every epoch.

        Args:
            epoch: its number.
        """
