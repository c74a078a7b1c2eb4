import pytest
import torch

from lightning_saliency.callbacks.samples.sample_set import Samples, SampleSet
from lightning_saliency.errors import InputError


def batch(start: int, count: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    numbers = torch.arange(start, start + count)
    return numbers.view(-1, 1, 1, 1).repeat(1, 3, 2, 2).float(), numbers


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (0, "at least 1"),
        (-3, "at least 1"),
        (True, "number of samples"),
        (2.0, "number of samples"),
        ("first", "number of samples"),
        ([], "empty list"),
        ([0, -1], ">= 0, got -1"),
        ([3, 5, 3], "got 3 more than once"),
        ([0, 1.5], "number of samples"),
        ((torch.zeros(3, 2, 2), None), "pair of tensors"),
        ((torch.zeros(0, 3, 2, 2), None), "pair of tensors"),
        ((torch.zeros(2, 3, 2, 2), torch.zeros(3)), "each of the 2 images in samples, got 3"),
        ((torch.zeros(2, 3, 2, 2), [0, 1]), "got list"),
        ((torch.zeros(2, 3, 2, 2),), "pair of tensors"),
    ],
)
def test_what_are_no_samples_is_refused(spec: object, says: str) -> None:
    with pytest.raises(InputError, match=says):
        Samples(spec)  # type: ignore[arg-type]


def test_the_first_samples_are_gathered_over_batches() -> None:
    samples = Samples(6)
    samples.begin()
    for start in (0, 4, 8):
        samples.collect(batch(start))
    seen = samples.collected()
    assert seen is not None
    assert seen.labels is not None
    assert seen.labels.tolist() == [0, 1, 2, 3, 4, 5]
    assert seen.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5]


def test_gathering_starts_again_with_each_run() -> None:
    samples = Samples(6)
    samples.begin()
    samples.collect(batch(0))
    samples.begin()
    samples.collect(batch(8))
    seen = samples.collected()
    assert seen is not None
    assert len(seen) == 4


def test_samples_that_are_kept_stay() -> None:
    samples = Samples(2)
    samples.keep(SampleSet(*batch(0, 2)))
    samples.begin()
    samples.collect(batch(4))
    assert samples.collected() is None
    assert samples.known is not None
    assert samples.known.images[1, 0, 0, 0] == 1


def test_gathered_samples_are_no_inference_tensors_and_no_views() -> None:
    samples = Samples(2)
    samples.begin()
    with torch.inference_mode():
        images, labels = batch(0)
        samples.collect((images, labels))
        images -= 10
    seen = samples.collected()
    assert seen is not None
    assert seen.labels is not None
    assert not seen.images.is_inference()
    assert not seen.labels.is_inference()
    assert seen.images.min() >= 0


def test_images_of_different_sizes_are_refused() -> None:
    samples = Samples(2)
    samples.begin()
    samples.collect((torch.zeros(1, 3, 4, 4), torch.tensor([0])))
    samples.collect((torch.zeros(1, 3, 5, 4), torch.tensor([0])))
    with pytest.raises(InputError, match="one size"):
        samples.collected()


def test_state_comes_back() -> None:
    samples = Samples(2)
    assert samples.state_dict() == {}
    samples.keep(SampleSet(*batch(0, 2)))
    other = Samples(2)
    other.load_state_dict(samples.state_dict())
    assert other.known is not None
    assert torch.equal(other.known.images, batch(0, 2)[0])


def test_given_tensors_are_not_replaced_by_a_checkpoint() -> None:
    samples = Samples((torch.ones(1, 3, 2, 2), None))
    samples.load_state_dict({"images": torch.zeros(1, 3, 2, 2), "labels": None})
    assert samples.known is not None
    assert samples.known.images.min() == 1
