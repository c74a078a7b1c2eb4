import pytest
import torch

from lightning_saliency.errors import InputError
from lightning_saliency.network.batching import Batches, batches_for, check_batch_size

CPU = torch.device("cpu")


@pytest.mark.parametrize("size", [1, 3, 10, 100])
def test_slices_cover_the_list_in_order(size: int) -> None:
    seen = Batches(size, CPU).run(lambda batch: list(range(10))[batch], 10)
    assert [entry for some in seen for entry in some] == list(range(10))
    assert [len(some) for some in seen[:-1]] == [size] * (len(seen) - 1)


def test_nothing_to_do() -> None:
    assert Batches(4, CPU).run(lambda batch: batch, 0) == []


def test_halved_when_the_memory_does_not_suffice() -> None:
    tried = []

    def work(batch: slice) -> int:
        tried.append(batch.stop - batch.start)
        if batch.stop - batch.start > 5:
            raise torch.OutOfMemoryError
        return batch.stop - batch.start

    batches = Batches(16, CPU)
    assert batches.run(work, 11) == [5, 5, 1]
    assert tried == [11, 5, 5, 1]
    # The next list begins with the size that fitted.
    assert batches.size == 5
    assert batches.run(work, 6) == [5, 1]
    assert 6 not in tried


def test_one_entry_that_does_not_fit() -> None:
    def work(batch: slice) -> None:
        raise torch.OutOfMemoryError("of the device")

    with pytest.raises(torch.OutOfMemoryError, match="of the device"):
        Batches(8, CPU).run(work, 8)


def test_other_errors_pass() -> None:
    def work(batch: slice) -> None:
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        Batches(8, CPU).run(work, 8)


@pytest.mark.parametrize(
    ("device", "height", "width", "size"),
    [
        ("cpu", 28, 28, 32),
        ("cpu", 64, 64, 32),
        ("cpu", 112, 112, 32),
        ("cpu", 128, 128, 16),
        ("cpu", 224, 224, 8),
        ("cpu", 225, 224, 4),
        ("cpu", 3000, 2000, 1),
        ("meta", 64, 64, 128),
        ("meta", 3000, 2000, 128),
    ],
)
def test_auto_depends_on_the_device_and_the_images(
    device: str, height: int, width: int, size: int
) -> None:
    assert batches_for("auto", torch.empty(2, 3, height, width, device=device)).size == size


def test_a_size_that_is_given_stays() -> None:
    assert batches_for(100, torch.empty(2, 3, 500, 500, device="meta")).size == 100


@pytest.mark.parametrize("size", [0, -1, 2.0, True, "large", None])
def test_bad_size(size: object) -> None:
    with pytest.raises(InputError, match="positive integer or 'auto'"):
        check_batch_size(size)
    with pytest.raises(InputError):
        batches_for(size, torch.empty(1, 3, 8, 8))
