"""The noise of methods with chance in them: when it is measured, and what it is used for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from contract import CHEAP, METHODS
from small_runs import QUIET, TinyModule, events, fit, make_trainer, train_loader, val_loader
from tiny_models import make_images, make_model

from lightning_saliency import SaliencyCallback
from lightning_saliency.attribution import RISE, AttributionMethod, ExtremalPerturbation, Gradient
from lightning_saliency.errors import InputError
from lightning_saliency.metrics import SIMILARITIES, mean_drift, sample_drift

pytestmark = QUIET

NOISY = {
    "rise": RISE(num_masks=128),
    "extremal_perturbation": ExtremalPerturbation(max_iter=6, areas=(0.2,)),
}
LEVEL = "saliency_similarity_level/{}/noise/{}"


class Still(TinyModule):
    """A module whose weights and statistics never change."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)

    def on_train_start(self) -> None:
        for module in self.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 0.0


@pytest.mark.parametrize("name", NOISY)
@pytest.mark.parametrize("preset", [None, "torchray"])
def test_another_seed_gives_another_map_and_the_same_seed_the_same(name: str, preset: Any) -> None:
    settings: dict[str, Any] = {"preset": preset}
    if preset and name == "extremal_perturbation":
        # The published lengths are too long for these images.
        settings |= {"step": 2, "sigma": 6.0, "max_iter": 6}
    method = type(NOISY[name])(**{**vars(NOISY[name]), **settings})
    other = method.reseeded()
    model, images = make_model(), make_images()
    first, again, second = (m(model, images, 1) for m in (method, method, other))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


def test_without_jitter_a_search_for_masks_has_no_chance_in_it() -> None:
    method = ExtremalPerturbation(max_iter=6, jitter=False)
    other = ExtremalPerturbation(max_iter=6, jitter=False, seed=5)
    model, images = make_model(), make_images()
    assert torch.equal(method(model, images, 1), other(model, images, 1))


@pytest.mark.parametrize("seed", [-1, 0.5, None, True])
def test_a_seed_is_an_integer(seed: Any) -> None:
    with pytest.raises(InputError, match="seed to be an integer >= 0"):
        ExtremalPerturbation(seed=seed)


def test_methods_without_chance_have_no_noise(tmp_path: Path) -> None:
    fit(tmp_path, SaliencyCallback(Gradient(), samples=2))
    assert not [t for t in events(tmp_path).Tags()["scalars"] if "noise" in t]


@pytest.mark.parametrize(
    ("every", "epochs"), [(1, [0, 1, 2, 3]), (2, [0, 2]), (10, [0]), (None, [])]
)
def test_noise_is_measured_at_the_first_and_every_so_many(
    every: int | None, epochs: list[int], tmp_path: Path
) -> None:
    callback = SaliencyCallback(
        NOISY["rise"], samples=2, noise_every=every, on_error="raise", log="full"
    )
    fit(tmp_path, callback, max_epochs=4)
    found = events(tmp_path)
    for measure in SIMILARITIES:
        tag = LEVEL.format("rise", measure)
        steps = [e.step for e in found.Scalars(tag)] if tag in found.Tags()["scalars"] else []
        assert steps == [4 * epoch + 3 for epoch in epochs]


def test_noise_is_the_drift_between_two_seeds_on_the_same_weights(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, SaliencyCallback(NOISY["rise"], samples=4), max_epochs=1)
    module = Still()
    trainer.fit(module, train_loader(), val_loader())
    images, labels = (tensor[:4] for tensor in val_loader().dataset.tensors)  # type: ignore[attr-defined]
    maps = [RISE(num_masks=128, seed=seed)(module, images, labels) for seed in (0, 1)]
    expected = mean_drift(sample_drift(maps[1], maps[0]))
    for measure in SIMILARITIES:
        value = trainer.callback_metrics[LEVEL.format("rise", measure)]
        assert float(value) == pytest.approx(float(expected[measure]), rel=1e-6)


def test_the_budget_has_no_room_for_noise(tmp_path: Path) -> None:
    callback = SaliencyCallback(NOISY["rise"], samples=2, noise_every=1, max_overhead=1e-9)
    with pytest.warns(UserWarning, match="Nothing was explained"):
        fit(tmp_path, callback)
    assert not [t for t in events(tmp_path).Tags()["scalars"] if "noise" in t]


@pytest.mark.parametrize("every", [0, -1, True])
def test_how_often_is_checked(every: Any) -> None:
    with pytest.raises(InputError, match="noise_every to be at least 1, or None"):
        SaliencyCallback(Gradient(), noise_every=every)


def cheap(method: str) -> AttributionMethod:
    made = METHODS[method](**CHEAP.get(method, {}))
    return NOISY.get(made.name, made)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.filterwarnings("ignore:Expected excitation maps that sum to 1")
def test_unchanged_weights_drift_by_exactly_nothing_or_less_than_the_noise(
    method: str, tmp_path: Path
) -> None:
    entry = cheap(method)
    callback = SaliencyCallback(entry, samples=4, noise_every=1, on_error="raise", log="full")
    trainer = make_trainer(tmp_path, callback, max_epochs=3)
    trainer.fit(Still(), train_loader(), val_loader())
    found = events(tmp_path)
    for reference in ("previous", "pinned"):
        for measure in SIMILARITIES:
            tag = f"saliency_similarity/{entry.name}/{reference}/{measure}"
            values = [event.value for event in found.Scalars(tag)]
            # The same seed each time: no drift at all, for these methods too.
            assert values == [1.0] * 2, tag
            relative = found.Scalars(f"saliency_drift_relative/{entry.name}/{reference}/{measure}")
            assert [event.value for event in relative] == [0.0] * 2
            if entry.name in NOISY:
                noise = found.Scalars(LEVEL.format(entry.name, measure))
                assert all(event.value < 1 for event in noise)
