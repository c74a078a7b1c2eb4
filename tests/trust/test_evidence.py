"""Evidence by removal, on models of which it is known what they need."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_models import CLASSES, Returns, make_images, make_model
from torch import Tensor, nn
from traces import leaves_no_trace

from lightning_saliency.errors import InputError
from lightning_saliency.image.parts import CONTENTS, cell_bounds, contents
from lightning_saliency.network.batching import Batches
from lightning_saliency.trust import Evidence, measure_evidence
from lightning_saliency.trust.evidence import Removals, choose_partners

LABELS = torch.tensor([0, 1, 2, 3])


class Reads(nn.Module):
    """The score of class 0 is a number of the picture, that of class 1 minus it."""

    def __init__(self, read: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.read = read

    def forward(self, images: Tensor) -> Tensor:
        value = self.read(images)
        return torch.stack([value, -value], 1)


@pytest.mark.parametrize("probes", ["fill", "both"])
@pytest.mark.parametrize("cell", [0, 7, 24])
def test_a_model_that_reads_one_cell_has_all_evidence_there(probes: Any, cell: int) -> None:
    rows, columns = cell_bounds((20, 25), 5)[cell]
    image = make_images(4, (20, 25))
    # Brighter than what can stand in for it.
    image[:, :, rows, columns] += torch.tensor([9.0, 8.0, 7.0, 6.0]).view(4, 1, 1, 1)
    model = Reads(lambda x: x[:, :, rows, columns].mean((1, 2, 3)))
    shares = measure_evidence(model, image, 0, 5, probes)
    assert shares.place.argmax(1).tolist() == [cell] * 4
    assert torch.allclose(shares.place[:, cell], torch.ones(4))
    assert shares.kind.shape == (4, len(CONTENTS))


def test_a_model_that_reads_the_mean_color_needs_the_level() -> None:
    image = make_images(4, (20, 20))
    image += torch.tensor([9.0, 8.0, 1.0, 0.0]).view(4, 1, 1, 1)
    model = Reads(lambda x: x.mean((1, 2, 3)))
    kind = measure_evidence(model, image, torch.tensor([0, 0, 1, 1]), 5, "both").kind
    assert CONTENTS[4] == "level"
    assert torch.allclose(kind[:, 4], torch.ones(4), atol=0.02)


def test_shares_are_those_of_a_loop_over_the_parts() -> None:
    model, image = make_model(), make_images(4, (20, 20))
    partners = choose_partners(LABELS)
    assert partners is not None
    shares = measure_evidence(model, image, LABELS, 4, "both", batch_size=7)
    removals = Removals(image, image, partners, Evidence(4))

    def odds(number: int, sample: int) -> float:
        with torch.no_grad():
            p = model(removals.picture(number)[sample : sample + 1]).double().softmax(1)
        return float(p[0, LABELS[sample]].logit())

    for sample in range(4):
        ways = []
        for first in (1, 17):
            lost = [max(0.0, odds(0, sample) - odds(first + j, sample)) for j in range(16)]
            ways.append(torch.tensor(lost) / sum(lost))
        assert torch.allclose(shares.place[sample], (ways[0] + ways[1]) / 2, atol=1e-3)
    assert removals.passes == 43


def test_each_picture_lacks_one_part_and_no_other() -> None:
    image = make_images(4, (20, 20))
    partners = torch.tensor([1, 0, 3, 2])
    removals = Removals(image, image, partners, Evidence(4))
    assert torch.equal(removals.picture(0), image)
    for cell, (rows, columns) in enumerate(cell_bounds((20, 20), 4)):
        exchanged = image.clone()
        exchanged[..., rows, columns] = image[partners][..., rows, columns]
        assert torch.allclose(removals.picture(17 + cell), exchanged)
        filled = removals.picture(1 + cell)
        changed = (filled != image).any(1).any(0)
        inside = torch.zeros(20, 20, dtype=torch.bool)
        inside[rows, columns] = True
        assert torch.equal(changed, inside)
    bands = contents(image)
    for kind in range(4):
        assert torch.allclose(removals.picture(33 + kind), image - bands[kind], atol=1e-5)
        expected = image - bands[kind] + bands[kind][partners]
        assert torch.allclose(removals.picture(38 + kind), expected, atol=1e-5)
    levels = removals.picture(37).mean((2, 3))
    assert torch.allclose(levels, image.mean((0, 2, 3)).expand(4, 3), atol=1e-5)


@pytest.mark.parametrize(("grid", "probes", "passes"), [(5, "both", 61), (5, "fill", 31)])
def test_passes(grid: int, probes: Any, passes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    run = Batches.run

    def counting(self: Batches, work: Any, count: int) -> list[Any]:
        seen.append(count)
        return run(self, work, count)

    # Not a hook of the model, which isolation takes out.
    monkeypatch.setattr(Batches, "run", counting)
    measure_evidence(make_model(), make_images(4, (20, 20)), LABELS, grid, probes)
    # One more pass finds the classes.
    assert seen == [4, 4 * passes]


def test_unchanged_weights_give_the_same_shares_to_the_last_bit() -> None:
    model, image = make_model(), make_images(4, (20, 20))
    one, other = (measure_evidence(model, image, LABELS) for _ in range(2))
    assert torch.equal(one.place, other.place)
    assert torch.equal(one.kind, other.kind)


def test_logits_times_ten_keep_the_shares_of_two_classes() -> None:
    image = make_images(4, (20, 20))
    weights = torch.rand(3, 20, 20, generator=torch.Generator().manual_seed(1))
    tens = [Reads(lambda x, f=f: f * (x * weights).sum((1, 2, 3))) for f in (1.0, 10.0)]
    one, other = (measure_evidence(model, image, LABELS % 2) for model in tens)
    assert torch.allclose(one.place, other.place, atol=1e-5)
    assert bool(((other.place >= 0) & (other.place <= 1)).all())


# --- heads: what the score is for each ------------------------------------------------------------


def one_unit(logits: Tensor) -> Tensor:
    return logits[:, 0]


def test_one_unit_is_scored_by_its_logit() -> None:
    image = make_images(4, (20, 20))
    alone = measure_evidence(Returns(one_unit), image, torch.tensor([1, 0, 1, 0]), probes="fill")
    paired = measure_evidence(
        Returns(lambda z: torch.stack([-z[:, 0], z[:, 0]], 1)),
        image,
        torch.tensor([1, 0, 1, 0]),
        probes="fill",
    )
    assert torch.allclose(alone.place, paired.place, atol=1e-5)


def test_several_classes_at_once_are_scored_by_the_logit_alone() -> None:
    image = make_images(4, (20, 20))
    found = measure_evidence(make_model(), image, 2, probes="fill", score="logit")
    as_callable = measure_evidence(make_model(), image, lambda z: z[:, 2], probes="fill")
    assert torch.allclose(found.place, as_callable.place, atol=1e-4)
    assert not torch.allclose(found.place, measure_evidence(make_model(), image, 2).place)


class Segments(nn.Module):
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"out": torch.cat([images[:, :1], -images[:, :1]], 1)}


def test_a_class_of_a_segmentation_in_a_mask_of_each_picture() -> None:
    image = make_images(3, (20, 20)).abs() + 5
    masks = torch.zeros(3, 20, 20)
    cells = cell_bounds((20, 20), 5)
    for mask, cell in zip(masks, (0, 12, 24), strict=True):
        mask[cells[cell]] = 1.0

    def in_the_mask(output: dict[str, Tensor]) -> Tensor:
        return (output["out"][:, 0] * masks).sum((1, 2)) / masks.sum((1, 2))

    image[:, :, 8:12, 8:12] += 5
    image[:, :, :4, :4] += 5
    image[:, :, 16:, 16:] += 5
    shares = measure_evidence(Segments(), image, in_the_mask, batch_size=2)
    assert shares.place.argmax(1).tolist() == [0, 12, 24]
    whole = measure_evidence(Segments(), image, 0, probes="fill")
    assert float(whole.place.nan_to_num().max()) < 0.7


# --- partners -------------------------------------------------------------------------------------


def test_partners_are_of_other_classes_and_take_turns() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    partners = choose_partners(labels)
    assert partners is not None
    assert bool((labels[partners] != labels).all())
    assert len(set(partners[:3].tolist())) == 3
    assert choose_partners(torch.tensor([4, 4, 4])) is None


def test_one_class_only_is_filled_in_alone() -> None:
    model, image = make_model(), make_images(4, (20, 20))
    both, fill = (measure_evidence(model, image, 3, 5, probes) for probes in ("both", "fill"))
    assert torch.equal(both.place, fill.place)


# --- precision, isolation, bad input --------------------------------------------------------------


def test_bfloat16() -> None:
    image = make_images(4, (20, 20))
    exact = measure_evidence(make_model(), image, LABELS)
    found = measure_evidence(make_model(dtype=torch.bfloat16), image.bfloat16(), LABELS)
    assert found.place.dtype == torch.float32
    assert torch.allclose(found.place.mean(0), exact.place.mean(0), atol=0.05)


def test_nothing_is_left_behind() -> None:
    model, image = make_model().train(), make_images(4, (20, 20))
    with leaves_no_trace(model, image):
        measure_evidence(model, image, LABELS)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"grid": 0}, "2 to 16"),
        ({"grid": 17}, "2 to 16"),
        ({"grid": True}, "2 to 16"),
        ({"grid": 12}, "at least 24 x 24"),
        ({"probes": "swap"}, "'both' or 'fill'"),
        ({"score": "probability"}, "'log_odds'"),
        ({"target": CLASSES}, "from 0 to 4"),
        ({"target": lambda output: output}, "one score for each image"),
    ],
)
def test_bad_input(settings: dict[str, Any], words: str) -> None:
    given: dict[str, Any] = {"target": LABELS, **settings}
    with pytest.raises(InputError, match=words):
        measure_evidence(make_model(), make_images(4, (20, 20)), **given)


def test_settings_of_a_callback() -> None:
    assert Evidence() == Evidence(grid=5, probes="both", every=1)
    with pytest.raises(InputError, match="at least 1"):
        Evidence(every=0)
