from collections import UserDict, namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from lightning_saliency.callbacks.samples.batch import class_indices, unpack_batch
from lightning_saliency.errors import InputError

IMAGES = torch.zeros(2, 3, 4, 4)
LABELS = torch.tensor([1, 0])

Pair = namedtuple("Pair", ["pixels", "category"])


@dataclass
class Item:
    index: Tensor
    images: Tensor
    labels: Tensor


@pytest.mark.parametrize(
    "batch",
    [
        (IMAGES, LABELS),
        [IMAGES, LABELS],
        (IMAGES, LABELS, "more"),
        Pair(IMAGES, LABELS),
        {"image": IMAGES, "label": LABELS},
        {"pixel_values": IMAGES, "labels": LABELS},
        {"idx": LABELS, "x": IMAGES, "y": LABELS},
        UserDict({"pixel_values": IMAGES, "labels": LABELS}),
        ({"img": IMAGES, "target": LABELS}, 0),
        Item(torch.tensor([5, 6]), IMAGES, LABELS),
    ],
    ids=lambda batch: type(batch).__name__,
)
def test_usual_batches_are_taken_apart(batch: object) -> None:
    images, labels, *_ = unpack_batch(batch)
    assert images is IMAGES
    assert labels is LABELS


@pytest.mark.parametrize("batch", [IMAGES, (IMAGES,), {"images": IMAGES}])
def test_a_batch_may_have_no_labels(batch: object) -> None:
    images, labels, *_ = unpack_batch(batch)
    assert images is IMAGES
    assert labels is None


def test_the_users_own_way_comes_first() -> None:
    images, labels, *_ = unpack_batch({"a": IMAGES, "b": LABELS}, lambda batch: (batch["a"], None))
    assert images is IMAGES
    assert labels is None


@pytest.mark.parametrize(
    ("batch", "says"),
    [
        ({"pixels": IMAGES, "class_": LABELS}, "keys 'pixels', 'class_'"),
        ((LABELS, IMAGES), r"tensor of shape \(2,\)"),
        ("text", "a str"),
        ((), "a tuple of 0"),
        ((IMAGES, torch.zeros(3)), "2 images and 3 labels"),
    ],
)
def test_other_batches_say_how_to_give_unpack(batch: object, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        unpack_batch(batch)
    assert "unpack=" in str(caught.value)


@pytest.mark.parametrize("returned", [IMAGES, None, (IMAGES, LABELS, 0), (LABELS, None)])
def test_what_unpack_returns_is_checked(returned: object) -> None:
    with pytest.raises(InputError, match="unpack"):
        unpack_batch((IMAGES, LABELS), lambda batch: returned)  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize(
    "labels",
    [
        LABELS,
        LABELS.int(),
        LABELS[:, None],
        LABELS.to(torch.uint8),
        # Two classes, as they are given to a loss for one unit.
        LABELS.float(),
        LABELS.bool()[:, None],
        # One-hot.
        torch.tensor([[0, 1, 0], [1, 0, 0]]),
        torch.tensor([[0.0, 1.0], [1.0, 0.0]]),
    ],
)
def test_class_indices_come_as_int64(labels: Tensor) -> None:
    indices = class_indices(labels, "the samples")
    assert indices.dtype == torch.int64
    assert indices.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (None, "found none"),
        (torch.tensor([0.5, 1.0]), "numbers of a regression by one unit.*target=1"),
        (torch.tensor([0, -1]), "some negative"),
        (torch.tensor([[1, 1, 0], [0, 1, 0]]), "several classes for each image.*target=1"),
        (torch.tensor([[0.5, 0.5], [1.0, 0.0]]), r"float32 of shape \(2, 2\) in the samples\. "),
        (torch.zeros(2, 4, 4).long(), "a class for each pixel.*target=1"),
    ],
)
def test_labels_that_are_no_class_indices_name_the_ways_out(
    labels: Tensor | None, says: str
) -> None:
    with pytest.raises(InputError, match=says) as caught:
        class_indices(labels, "the samples")
    assert "target='predicted'" in str(caught.value)
