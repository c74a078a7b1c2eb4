import pickle
import re
import sys
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from traces import random_streams

from lightning_saliency.benchmark import ClutteredDigits
from lightning_saliency.benchmark.cluttered_digits import enlarge, load_scans
from lightning_saliency.errors import DependencyError, InputError

both_splits = pytest.mark.parametrize("split", ["train", "val"])


def same(first: tuple[Any, ...], second: tuple[Any, ...]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(torch.as_tensor(a), torch.as_tensor(b))
        for a, b in zip(first, second, strict=True)
    )


@both_splits
@pytest.mark.parametrize("size", [32, 64, 128])
def test_one_digit(split: Any, size: int) -> None:
    for image, label, mask in ClutteredDigits(split, 12, size=size):
        assert image.shape == (3, size, size)
        assert image.dtype == torch.float32
        assert image.min() >= 0
        assert image.max() <= 1
        assert image.std() > 0.05
        assert type(label) is int
        assert mask.shape == (1, size, size)
        assert mask.dtype == torch.bool


@both_splits
@pytest.mark.parametrize("size", [32, 128])
def test_two_digits(split: Any, size: int) -> None:
    seconds = set()
    for number, (image, label, mask) in enumerate(
        ClutteredDigits(split, 100, num_digits=2, size=size)
    ):
        assert image.shape == (3, size, size)
        assert label.shape == (2,)
        assert label.dtype == torch.int64
        assert label[0] == number % 10
        assert 0 <= label[1] < 10
        assert label[0] != label[1]
        assert mask.shape == (2, size, size)
        assert mask.any((1, 2)).all()
        assert not (mask[0] & mask[1]).any()
        seconds.add(int(label[1]))
    assert seconds == set(range(10))


def test_the_default_dtype_does_not_matter() -> None:
    expected = ClutteredDigits("val", num_digits=2)[3]
    torch.set_default_dtype(torch.float64)
    try:
        found = ClutteredDigits("val", num_digits=2)[3]
    finally:
        torch.set_default_dtype(torch.float32)
    assert found[0].dtype == torch.float32
    assert same(found, expected)


def test_without_mask_the_rest_stays() -> None:
    image, label = ClutteredDigits("val", with_mask=False)[5]
    whole = ClutteredDigits("val")[5]
    assert same((image, label), whole[:2])


def test_lengths() -> None:
    assert len(ClutteredDigits("train")) == 1390
    assert len(ClutteredDigits("val")) == 350
    assert len(ClutteredDigits("val", 7)) == 7
    assert len(list(ClutteredDigits("val", 7))) == 7


def test_an_item_does_not_depend_on_the_length() -> None:
    assert same(ClutteredDigits("val", 5)[4], ClutteredDigits("val", 5000)[4])


def test_indices_count_from_the_end_too_and_end() -> None:
    data = ClutteredDigits("val", 7)
    assert same(data[-1], data[6])
    assert same(data[-7], data[0])
    for index in (7, -8):
        with pytest.raises(IndexError, match=f"below 7, got {index}"):
            data[index]


def test_past_the_last_scan_a_scan_comes_again_elsewhere() -> None:
    data = ClutteredDigits("val", 351)
    (first, label, mask), (again, label_again, mask_again) = data[0], data[350]
    assert label == label_again
    assert mask.sum() == mask_again.sum()
    assert not torch.equal(first, again)


def test_no_global_random_stream_is_read_or_moved() -> None:
    torch.manual_seed(1)
    before = random_streams()
    first = ClutteredDigits("val", num_digits=2)[11]
    assert random_streams() == before
    torch.manual_seed(2)
    assert same(first, ClutteredDigits("val", num_digits=2)[11])


def test_the_order_of_reading_does_not_matter() -> None:
    data = ClutteredDigits("train", 6)
    forwards = [data[index] for index in range(6)]
    backwards = [data[index] for index in reversed(range(6))][::-1]
    assert all(same(a, b) for a, b in zip(forwards, backwards, strict=True))


def test_seeds_indices_splits_and_numbers_of_digits_give_different_pictures() -> None:
    pictures = [
        ClutteredDigits(split, seed=seed, num_digits=digits)[index][0]
        for split in ("train", "val")
        for seed in (0, 1)
        for digits in (1, 2)
        for index in (0, 1, 10)
    ]
    for number, picture in enumerate(pictures):
        for other in pictures[:number]:
            # Where two streams were the same, so were most of the pixels.
            assert (picture == other).float().mean() < 0.2


def test_another_seed_shows_the_same_scans() -> None:
    first, second = ClutteredDigits("val", seed=0), ClutteredDigits("val", seed=1)
    for index in range(20):
        assert first[index][1] == second[index][1]
        assert first[index][2].sum() == second[index][2].sum()


def test_pickling() -> None:
    data = ClutteredDigits("val", 20, num_digits=2, size=48, with_mask=False, seed=3)
    copy = pickle.loads(pickle.dumps(data))
    assert len(copy) == 20
    assert same(copy[7], data[7])


@pytest.mark.slow
def test_a_worker_process_draws_the_same_items() -> None:
    data = ClutteredDigits("val", 8, num_digits=2)
    here = list(DataLoader(data, 4))
    torch.manual_seed(5)
    there = list(DataLoader(data, 4, num_workers=1))
    assert len(here) == len(there) == 2
    assert all(same(tuple(a), tuple(b)) for a, b in zip(here, there, strict=True))


# --- splits and classes -----------------------------------------------------------------------


def test_the_splits_share_no_scan() -> None:
    train, val = load_scans("train"), load_scans("val")
    assert train.shape == (1390, 8, 8)
    assert val.shape == (350, 8, 8)
    assert not {scan.numpy().tobytes() for scan in train} & {scan.numpy().tobytes() for scan in val}


@both_splits
def test_an_item_of_one_split_shows_nothing_of_the_other(
    split: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither as a digit nor in the clutter."""
    from sklearn import datasets

    expected = [ClutteredDigits(split, num_digits=2)[index] for index in range(20)]
    digits = datasets.load_digits()
    held_out = torch.zeros(len(digits.target), dtype=torch.bool)
    for label in range(10):
        of_class = torch.from_numpy((digits.target == label).nonzero()[0])
        held_out[of_class[139:]] = True

    def spoil(which: Tensor) -> list[tuple[Any, ...]]:
        spoilt = datasets.load_digits()
        spoilt.images[which.numpy()] = 0
        monkeypatch.setattr(datasets, "load_digits", lambda: spoilt)
        data = ClutteredDigits(split, num_digits=2)
        monkeypatch.undo()
        return [data[index] for index in range(20)]

    own, other = (~held_out, held_out) if split == "train" else (held_out, ~held_out)
    assert all(same(a, b) for a, b in zip(spoil(other), expected, strict=True))
    assert not any(same(a, b) for a, b in zip(spoil(own), expected, strict=True))


@both_splits
def test_the_classes_take_turns(split: Any) -> None:
    data = ClutteredDigits(split, with_mask=False)
    assert [data[index][1] for index in range(25)] == [index % 10 for index in range(25)]
    assert len(data) % 10 == 0


@both_splits
def test_labels_are_those_of_the_scans(split: Any) -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    known = {
        image.tobytes(): label for image, label in zip(digits.images, digits.target, strict=True)
    }
    for index, scan in enumerate(load_scans(split)):
        assert known[(scan.double() * 16).numpy().tobytes()] == index % 10


# --- masks ------------------------------------------------------------------------------------


def crop(mask: Tensor) -> Tensor:
    """Cut a mask (H, W) to the box around it."""
    rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
    return mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]


@pytest.mark.parametrize("size", [64, 128])
def test_the_mask_has_the_whole_digits_shape(size: int) -> None:
    scans = enlarge(load_scans("val"), round(0.4 * size)) > 0.5
    data = ClutteredDigits("val", size=size)
    for index in range(60):
        mask = crop(data[index][2][0])
        assert torch.equal(mask, crop(scans[index]))
        assert 0.25 * size < mask.shape[0] < 0.4 * size


@pytest.mark.parametrize("num_digits", [1, 2])
def test_the_mask_lies_on_the_digit(num_digits: int) -> None:
    data = ClutteredDigits("val", 100, num_digits=num_digits)
    brightness = torch.zeros(9, 9)
    brighter = 0
    for image, _, masks in data:
        for mask in masks:
            grey = image.mean(0)
            around = torch.nn.functional.max_pool2d(mask[None].float(), 7, 1, 3)[0].bool() & ~mask
            brighter += bool(grey[mask].mean() > grey[around].mean() + 0.1)
            for dy in range(-4, 5):
                for dx in range(-4, 5):
                    moved = grey.roll((dy, dx), (0, 1))
                    brightness[dy + 4, dx + 4] += moved[mask].mean()
    assert brighter >= 0.97 * 100 * num_digits
    # Of all places, the mask's own is the brightest.
    assert brightness.argmax() == 4 * 9 + 4


@pytest.mark.parametrize("num_digits", [1, 2])
def test_digits_reach_every_part_of_the_picture(num_digits: int) -> None:
    data = ClutteredDigits("train", 600, num_digits=num_digits, size=32)
    for layer in range(num_digits):
        often = torch.stack([mask[layer] for _, _, mask in data]).float().mean(0)
        assert torch.nn.functional.avg_pool2d(often[None], 8).min() > 0
        # As often above as below, and on the left as on the right.
        torch.testing.assert_close(often[:16].mean(), often[16:].mean(), rtol=0.2, atol=0)
        torch.testing.assert_close(often[:, :16].mean(), often[:, 16:].mean(), rtol=0.2, atol=0)


# --- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split": "test"}, "Expected split to be 'train' or 'val', got 'test'."),
        ({"num_digits": 3}, "Expected num_digits to be 1 or 2, got 3."),
        ({"num_digits": True}, "Expected num_digits to be 1 or 2, got True."),
        ({"num_digits": 2.0}, "Expected num_digits to be 1 or 2, got 2.0."),
        ({"size": 31}, "Expected size to be an integer of at least 32, got 31."),
        ({"size": 64.0}, "Expected size to be an integer of at least 32, got 64.0."),
        ({"length": 0}, "Expected length to be an integer of at least 1, got 0."),
        ({"length": True}, "Expected length to be an integer of at least 1, got True."),
        ({"seed": -1}, "Expected seed to be an integer of at least 0, got -1."),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        ClutteredDigits(**settings)


def test_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sklearn", "sklearn.datasets"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(DependencyError, match=r"pip install lightning-saliency\[demo\]"):
        ClutteredDigits("val")
