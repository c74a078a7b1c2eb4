"""The pointing game on Lightning's engine."""

import logging
import math
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from pointing_fixtures import PLAIN, Blobs, Colours, colours_model, watched
from quiet import QUIET
from small_datasets import write_voc
from torch import Tensor, nn

from lightning_saliency.attribution import AttributionMethod, GradCAM, Gradient
from lightning_saliency.benchmark.pointing_models import PointingModel
from lightning_saliency.benchmark.pointing_recipes import METHODS, Recipe, pointing_recipe
from lightning_saliency.benchmark.pointing_report import PointingReport
from lightning_saliency.benchmark.pointing_results import PointingResults
from lightning_saliency.benchmark.voc import VOCPointing
from lightning_saliency.errors import InputError
from lightning_saliency.evaluation import PointingGameModule, run_pointing_game
from lightning_saliency.evaluation.scenes import RankBatches, batches_of_equal_size
from lightning_saliency.metrics import energy_inside, pointing_hit, rank_accuracy

logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)

pytestmark = QUIET


def quiet_trainer(**settings: Any) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        **settings,
    )


def play(path: Path, data: Any = None, methods: Any = None, **settings: Any) -> PointingReport:
    return run_pointing_game(
        methods or ["center", "grad_cam"],
        settings.pop("model", None) or colours_model(),
        Blobs() if data is None else data,
        path / "results.sqlite",
        settings.pop("trainer", None) or quiet_trainer(),
        **{"batch_size": 4, **settings},
    )


def test_scores_are_those_of_a_plain_loop(tmp_path: Path) -> None:
    data, model = Blobs(), colours_model()
    report = play(tmp_path, data, batch_size=3)
    recipe = pointing_recipe("grad_cam", model, data)
    hits: dict[int, list[bool]] = {0: [], 1: [], 2: []}
    hard: dict[int, list[bool]] = {0: [], 1: [], 2: []}
    energy, rank = [], []
    for index, annotation in enumerate(data.annotations):
        picture, masks = data.scene(index)
        for mask, label in zip(masks, annotation.classes, strict=True):
            maps = recipe.maps(model.module, picture[None], [label], annotation.size)
            hit = bool(pointing_hit(maps, mask[None, None], data.tolerance))
            hits[label].append(hit)
            if label in annotation.difficult:
                hard[label].append(hit)
            energy.append(float(energy_inside(maps, mask[None, None])))
            rank.append(float(rank_accuracy(maps, mask[None, None])))
    centre, found = report.scores
    # Of four classes, one of which never occurs.
    assert found.accuracy == pytest.approx(sum(sum(h) / len(h) for h in hits.values()) / 4)
    assert found.difficult == pytest.approx(sum(sum(h) / len(h) for h in hard.values() if h) / 4)
    assert found.energy == pytest.approx(sum(energy) / len(energy))
    assert found.rank == pytest.approx(sum(rank) / len(rank))
    assert (found.pictures, found.games) == (12, len(energy))
    assert math.isnan(found.class_accuracy[3])
    # The model sees nothing but colours, so its maps find every spot.
    assert found.accuracy == 0.75
    assert centre.accuracy < 0.5
    assert math.isnan(centre.energy)


def test_the_metrics_are_logged_over_what_was_there_and_what_is_new(tmp_path: Path) -> None:
    trainer = quiet_trainer()
    play(tmp_path, methods=["grad_cam"], limit=5)
    report = play(tmp_path, methods=["grad_cam"], trainer=trainer)
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert logged == {
        "pointing_game/grad_cam/accuracy": pytest.approx(report.scores[0].accuracy),
        "pointing_game/grad_cam/accuracy_difficult": pytest.approx(report.scores[0].difficult),
    }


@pytest.fixture
def explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    log = tmp_path / "explained"
    monkeypatch.setenv("WATCHED_LOG", str(log))
    log.touch()
    return lambda: log.read_text().split()


def test_a_run_goes_on_where_it_stopped(tmp_path: Path, explained: Any) -> None:
    whole = play(tmp_path / "whole", methods=[watched()])
    everything = explained()
    assert len(everything) == whole.scores[0].games
    assert len(set(everything)) == sum(bool(a.classes) for a in Blobs().annotations)
    first = play(tmp_path, methods=[watched()], limit=5)
    assert first.scores[0].pictures == first.pictures == 5
    # Another size of the batches, so that some are begun already.
    second = play(tmp_path, methods=[watched()], batch_size=2)
    assert sorted(explained()[len(everything) :]) == sorted(everything)
    assert second == whole
    play(tmp_path, methods=[watched()])
    assert len(explained()) == 2 * len(everything)


def test_what_another_process_finished_meanwhile_is_not_explained(
    tmp_path: Path, explained: Any
) -> None:
    data, model = Blobs(), colours_model()
    recipe = Recipe("watched", watched())
    late = PointingGameModule(
        recipe, model, data, PointingResults(tmp_path / "results.sqlite"), batch_size=4
    )

    class Meanwhile(pl.Callback):
        def on_test_start(self, *_: Any) -> None:
            play(tmp_path, data, [recipe], model=model)

    trainer = quiet_trainer(callbacks=[Meanwhile()])
    trainer.test(late, verbose=False)
    assert len(explained()) == sum(len(a.classes) for a in data.annotations)
    report = play(tmp_path, data, [recipe], model=model)
    logged = float(trainer.callback_metrics["pointing_game/watched/accuracy"])
    assert logged == pytest.approx(report.scores[0].accuracy)


def test_pictures_that_cannot_be_read_are_skipped_and_listed(tmp_path: Path) -> None:
    report = play(tmp_path, Blobs(broken=[1, 7]))
    said = "it cannot be read: image file is truncated"
    assert report.skipped == {"blob 1": said, "blob 7": said}
    assert [row.pictures for row in report.scores] == [10, 10]
    assert "2 were skipped" in report.markdown()
    # Repaired, they are read.
    repaired = play(tmp_path, Blobs())
    assert repaired == play(tmp_path / "other", Blobs())


def test_real_files_that_are_corrupt(tmp_path: Path) -> None:
    names = write_voc(tmp_path, 8, classes=3)
    pictures = tmp_path / "VOCdevkit" / "VOC2007" / "JPEGImages"
    half = pictures / f"{names[1]}.jpg"
    half.write_bytes(half.read_bytes()[:300])
    (pictures / f"{names[2]}.jpg").write_bytes(b"")
    (pictures / f"{names[4]}.jpg").write_text("<html>404</html>")
    data = VOCPointing(tmp_path)
    model = PointingModel("colours", Colours(20), PLAIN)
    report = play(tmp_path, data, ["center", "gradient"], model=model)
    readable = [a for a in data.annotations if a.classes or a.name not in names[:5]]
    assert set(report.skipped) == {names[i] for i in (1, 2, 4) if data.annotations[i].classes}
    assert len(report.skipped) >= 2
    assert report.scores[0].pictures == 8 - len(report.skipped)
    assert len(readable) >= 2


def test_missing_pictures_end_it_before_the_first_unless_allowed(tmp_path: Path) -> None:
    data = Blobs()
    data.missing = {f"blob {i}": "the image is missing" for i in (0, 2, 5, 6)}
    with pytest.raises(
        InputError,
        match=r"4 cannot be used: blob 0 \(the image is missing\), .*, \.\.\.\. Complete",
    ):
        play(tmp_path, data)
    assert not (tmp_path / "results.sqlite").exists()
    report = play(tmp_path, data, allow_missing=True)
    assert set(report.skipped) == set(data.missing)
    assert report.scores[0].pictures == 8


class Says(nn.Module):
    def __init__(self, output: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.output = output

    def forward(self, image: Tensor) -> Any:
        return self.output(image)


def fails(image: Tensor) -> None:
    raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (lambda image: image.new_zeros(1, 1000), "each of the 4 classes of blobs.* got 1000"),
        (lambda image: image.new_zeros(1, 3), "got 3 scores. Fine-tune"),
        (lambda image: {"logits": image}, "got dict"),
        (lambda image: image.new_zeros(4), r"got \(4,\)"),
        (fails, r"on one of shape \(1, 3, 32, 40\) it fails: mat1 and mat2"),
    ],
)
def test_a_model_that_does_not_fit_is_refused_at_once(
    tmp_path: Path, output: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        play(tmp_path, model=PointingModel("says", Says(output), PLAIN))
    assert not (tmp_path / "results.sqlite").exists()
    # The centre needs no model.
    play(tmp_path, methods=["center"], model=PointingModel("says", Says(output), PLAIN))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"methods": ["cam"]}, r"out of center, .* got 'cam'"),
        ({"methods": ["rise", "rise"]}, "different methods, got"),
        ({"batch_size": 0}, "batch_size to be at least 1, got 0"),
        ({"num_workers": -1}, "num_workers to be at least 0, got -1"),
        ({"limit": 0}, "limit to be at least 1 picture, got 0"),
        ({"data": Blobs(0)}, "pictures of different names in blobs, got 0"),
        ({"preset": "paper"}, "'torchray', got 'paper'"),
    ],
)
def test_settings_that_cannot_be(tmp_path: Path, settings: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        play(tmp_path, **settings)


def test_results_of_other_settings_are_kept_and_refused(tmp_path: Path) -> None:
    before = play(tmp_path)
    data = Blobs()
    data.tolerance = 5
    with pytest.raises(InputError, match="tolerance = '3', and now it is '5'"):
        play(tmp_path, data)
    model = colours_model()
    with torch.no_grad():
        model.module.head.weight.add_(1)  # type: ignore[union-attr, operator]
    with pytest.raises(InputError, match=r"model = 'colours, .*, and now it is"):
        play(tmp_path, model=model)
    with pytest.raises(InputError, match=r"data = 'blobs, 12 images, .* 13 images"):
        play(tmp_path, Blobs(13))
    assert play(tmp_path) == before


def test_own_methods_and_every_method_of_the_table(tmp_path: Path) -> None:
    own: list[AttributionMethod] = [GradCAM("features.0"), Gradient(smooth=0.1)]
    report = play(tmp_path, methods=own, limit=3)
    assert [row.method for row in report.scores] == ["grad_cam", "gradient"]
    names = [name for name in METHODS if name not in ("rise", "extremal_perturbation")]
    report = play(tmp_path / "all", methods=names, limit=3)
    assert [row.method for row in report.scores] == names
    assert all(row.accuracy >= 0 for row in report.scores)


def test_the_model_and_the_random_stream_are_left_alone(tmp_path: Path) -> None:
    model = colours_model()
    model.module.train()
    model.module.features[1].eval()  # type: ignore[index, union-attr]
    state = torch.get_rng_state()
    play(tmp_path, model=model)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.requires_grad for parameter in model.module.parameters())
    assert all(parameter.grad is None for parameter in model.module.parameters())


def test_pictures_are_read_by_worker_processes_too(tmp_path: Path) -> None:
    data = Blobs(4, broken=[2])
    expected = play(tmp_path / "plain", data)
    assert play(tmp_path / "workers", data, num_workers=1) == expected


# --- dealing ----------------------------------------------------------------------------------


def test_every_batch_goes_to_one_process() -> None:
    annotations = Blobs(23).annotations
    batches = batches_of_equal_size(annotations, range(23), 3)
    assert sorted(i for batch in batches for i in batch) == list(range(23))
    for batch in batches:
        assert len({annotations[i].size for i in batch}) == 1
    for world in (1, 2, 3, 20):
        deals = [list(RankBatches(batches, rank, world)) for rank in range(world)]
        assert len({len(deal) for deal in deals}) == 1
        assert all(len(deal) == len(RankBatches(batches, 0, world)) for deal in deals)
        assert sorted(map(tuple, batches)) == sorted(
            tuple(batch) for deal in deals for batch in deal if batch
        )
    assert list(RankBatches([], 0, 2)) == [[]]
