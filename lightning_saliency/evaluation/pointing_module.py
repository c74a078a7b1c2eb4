"""The pointing game as a test loop of Lightning."""

from collections.abc import Mapping

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader

from lightning_saliency.benchmark.pointing_data import PointingData
from lightning_saliency.benchmark.pointing_models import PointingModel
from lightning_saliency.benchmark.pointing_recipes import Recipe
from lightning_saliency.benchmark.pointing_results import (
    Game,
    PictureResult,
    PointingResults,
    RunKey,
)
from lightning_saliency.errors import InputError
from lightning_saliency.evaluation.play import play
from lightning_saliency.evaluation.scenes import (
    RankBatches,
    SceneBatch,
    Scenes,
    batches_of_equal_size,
)
from lightning_saliency.metrics import PointingTally


class PointingGameModule(pl.LightningModule):
    """Explains the pictures of a dataset with one method, and looks where the maps point.

    ``Trainer.test(module)`` does it on any devices and nodes. Each picture goes to the file of
    results as soon as its batch is explained; what is finished there is not explained again. The
    accuracies are logged as ``pointing_game/<method>/accuracy`` and
    ``pointing_game/<method>/accuracy_difficult``, over what was there and what is new.

    Args:
        recipe: the method.
        model: the model, and what has to be known of it.
        data: the dataset.
        results: the file of results.
        batch_size: the largest number of maps made, and pictures read, at once.
        num_workers: processes that read pictures, for each device.
        limit: how many pictures to use, from the first on; None for all.

    Raises:
        InputError: a number is out of its range, or the file has results of other settings.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: PointingModel,
        data: PointingData,
        results: PointingResults,
        batch_size: int = 16,
        num_workers: int = 0,
        limit: int | None = None,
    ) -> None:
        super().__init__()
        for name, value, least in (("batch_size", batch_size, 1), ("num_workers", num_workers, 0)):
            if value < least:
                raise InputError(f"Expected {name} to be at least {least}, got {value}.")
        if limit is not None and limit < 1:
            raise InputError(f"Expected limit to be at least 1 picture, got {limit}.")
        self.recipe = recipe
        self.model = model
        self.data = data
        self.results = results
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.wanted = range(len(data) if limit is None else min(limit, len(data)))
        self.module = model.whole if recipe.whole and model.whole is not None else model.module
        self.tally = PointingTally(len(data.class_names))
        self.tally_difficult = PointingTally(len(data.class_names))
        self.run_id = results.open_run(RunKey(data.name, model.name, recipe.name), self.settings())
        self._batches: list[list[int]] = []
        self._before: list[Game] = []

    def settings(self) -> Mapping[str, str]:
        """Return everything that the results depend on."""
        settings = {
            "data": self.data.fingerprint(),
            "recipe": repr(self.recipe),
            "tolerance": f"{self.data.tolerance:g}",
        }
        if self.recipe.method is not None:
            settings["model"] = self.model.fingerprint()
        return settings

    def setup(self, stage: str) -> None:
        """Find out what is left to do; the same on all processes.

        Args:
            stage: ``"test"``.
        """
        if self.trainer.is_global_zero:
            self._record_unplayable()
            done = self.results.finished(self.run_id)
            names = {self.data.annotations[place].name for place in self.wanted}
            self._before = [
                game for name, game in self.results.games(self.run_id) if name in done & names
            ]
            annotations, missing = self.data.annotations, self.data.missing
            # Batches of the whole dataset, so that going on finds the ones that were begun.
            self._batches = [
                left
                for batch in batches_of_equal_size(annotations, self.wanted, self.batch_size)
                if (left := [i for i in batch if annotations[i].name not in {*done, *missing}])
            ]
        self._batches = self.trainer.strategy.broadcast(self._batches)

    def test_dataloader(self) -> DataLoader[SceneBatch]:
        """Return the loader of what is left for this process."""
        scenes = Scenes(self.data, self.model.preprocessing, self.recipe.square)
        sampler = RankBatches(self._batches, self.trainer.global_rank, self.trainer.world_size)
        # A generator of its own, because loaders draw a seed for their workers from it.
        return DataLoader(
            scenes,
            batch_size=None,
            sampler=sampler,
            num_workers=self.num_workers,
            generator=torch.Generator(),
        )

    def on_test_start(self) -> None:
        """Count what was finished before, on one process."""
        self._count(self._before)

    def test_step(self, batch: SceneBatch, batch_idx: int) -> None:
        """Explain a batch, play the game, and write the results.

        Args:
            batch: pictures (N, 3, h, w) and masks.
            batch_idx: number of the batch.
        """
        others: list[int] = []
        mine: list[int] = []
        names = [self.data.annotations[place].name for place in batch.places]
        for position, name in enumerate(names):
            # By another process that works on the same file.
            finished = self.results.is_finished(self.run_id, name)
            (others if finished else mine).append(position)
        found = [PictureResult(name, problem=said) for name, said in batch.problems.items()]
        games = play(self.recipe, self.module, self.data, batch, mine, self.batch_size)
        found += [PictureResult(names[position], tuple(games[position])) for position in mine]
        self.results.add(self.run_id, found)
        for position in others:
            before = self.results.games(self.run_id, names[position])
            self._count([game for _, game in before])
        self._count([game for position in mine for game in games[position]])

    def on_test_epoch_end(self) -> None:
        """Log the accuracies over all processes."""
        prefix = f"pointing_game/{self.recipe.name}"
        self.log(f"{prefix}/accuracy", self.tally)
        self.log(f"{prefix}/accuracy_difficult", self.tally_difficult)

    def _record_unplayable(self) -> None:
        """Record the pictures that need not be read: those without objects, and missing ones."""
        unplayable = []
        for place in self.wanted:
            annotation = self.data.annotations[place]
            problem = self.data.missing.get(annotation.name)
            if problem is not None or not annotation.classes:
                unplayable.append(PictureResult(annotation.name, problem=problem))
        self.results.add(self.run_id, unplayable)

    def _count(self, games: list[Game]) -> None:
        for tally, chosen in (
            (self.tally, games),
            (self.tally_difficult, [game for game in games if game.difficult]),
        ):
            hits = torch.tensor([game.hit for game in chosen], dtype=torch.bool)
            labels = torch.tensor([game.label for game in chosen], dtype=torch.long)
            tally.update(hits.to(self.device), labels.to(self.device))
