"""The table of the pointing game: numbers, Markdown, CSV."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean

import torch

from lightning_saliency.benchmark.pointing_data import PointingData
from lightning_saliency.benchmark.pointing_results import Game, PointingResults
from lightning_saliency.benchmark.published import PUBLISHED, SOURCE
from lightning_saliency.metrics import PointingTally


@dataclass(frozen=True)
class MethodScore:
    """How one method did.

    Attributes:
        method: its name.
        accuracy: mean over the classes of the share of hits, in [0, 1]; a class without a game
            counts as 0, as in published figures. NaN without any game.
        difficult: the same for the difficult subset.
        energy: mean over the games of the share of the map's positive values that lies on the
            objects; NaN if there are no maps.
        mass: of its magnitude.
        rank: of its K largest pixels, K being the number of the objects' pixels.
        area: of the picture that the objects take: the energy of an uninformative map.
        pictures: finished ones.
        games: pictures and classes that were played.
        games_difficult: those of the difficult subset.
        degenerate: maps that were constant or not finite.
        class_accuracy: of each class, NaN for one without a game.
        skipped: why pictures were skipped, by name.
    """

    method: str
    accuracy: float
    difficult: float
    energy: float
    mass: float
    rank: float
    area: float
    pictures: int
    games: int
    games_difficult: int
    degenerate: int
    class_accuracy: tuple[float, ...]
    skipped: dict[str, str] = field(default_factory=dict)


def score(
    results: PointingResults, run: int, method: str, data: PointingData, limit: int | None = None
) -> MethodScore:
    """Sum up a run.

    Args:
        results: the file.
        run: its number there.
        method: its name.
        data: the dataset.
        limit: how many pictures to use, from the first on.
    """
    names = {annotation.name for annotation in data.annotations[:limit]}
    games = [game for name, game in results.games(run) if name in names]
    difficult = [game for game in games if game.difficult]
    each = _accuracy(games, len(data.class_names))
    return MethodScore(
        method,
        _mean(each, games),
        _mean(_accuracy(difficult, len(data.class_names)), difficult),
        _known([game.energy for game in games]),
        _known([game.mass for game in games]),
        _known([game.rank for game in games]),
        _known([game.area for game in games]),
        len(results.finished(run) & names),
        len(games),
        len(difficult),
        sum(game.degenerate for game in games),
        tuple(
            value if any(game.label == label for game in games) else math.nan
            for label, value in enumerate(each)
        ),
        {name: said for name, said in results.problems(run).items() if name in names},
    )


def _accuracy(games: Sequence[Game], num_classes: int) -> list[float]:
    tally = PointingTally(num_classes, average="none")
    tally.update(
        torch.tensor([game.hit for game in games], dtype=torch.bool),
        torch.tensor([game.label for game in games], dtype=torch.long),
    )
    accuracy: list[float] = tally.compute().tolist()
    return accuracy


def _mean(each: list[float], games: Sequence[Game]) -> float:
    return fmean(each) if games else math.nan


def _known(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return fmean(known) if known else math.nan


@dataclass(frozen=True)
class PointingReport:
    """The scores of several methods on one dataset with one model.

    Attributes:
        data: name of the dataset.
        model: name of the model.
        pictures: how many there are to be.
        scores: of each method.
    """

    data: str
    model: str
    pictures: int
    scores: tuple[MethodScore, ...]

    @property
    def published(self) -> dict[str, tuple[float, float]]:
        """The published figures in per cent by method; empty if there are none for this."""
        return PUBLISHED.get((self.data, self.model), {})

    @property
    def skipped(self) -> dict[str, str]:
        """Why pictures were skipped, by name, whatever the method."""
        return {name: said for row in self.scores for name, said in row.skipped.items()}

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return the header and the rows, ready to print."""
        header = ["method", "all", "difficult", "energy", "rank", "pictures", "games", "degenerate"]
        rows = [
            [
                row.method,
                *map(_percent, (row.accuracy, row.difficult, row.energy, row.rank)),
                *map(str, (row.pictures, row.games, row.degenerate)),
            ]
            for row in self.scores
        ]
        if self.published:
            header += ["published all", "published difficult"]
            for cells in rows:
                figures = self.published.get(cells[0], (math.nan, math.nan))
                cells += [_percent(figure / 100) for figure in figures]
        return header, rows

    def notes(self) -> list[str]:
        """Return what a reader of the table must know, a sentence each."""
        area = _percent(max((row.area for row in self.scores), default=math.nan))
        notes = [
            "all, difficult: accuracy of pointing in per cent, mean over the classes. energy, "
            "rank: share of the map, and of its largest pixels, that lies on the objects, in per "
            f"cent; a map that knows nothing has {area}, the objects' share of the pictures."
        ]
        empty = [sum(map(math.isnan, row.class_accuracy)) for row in self.scores]
        if any(empty):
            classes = len(self.scores[0].class_accuracy)
            notes.append(
                f"{max(empty)} of the {classes} classes do not occur and count as 0, as in "
                "published figures."
            )
        unfinished = min((row.pictures for row in self.scores), default=0)
        if unfinished < self.pictures:
            notes.append(
                f"Not all of the {self.pictures} pictures are finished; {len(self.skipped)} were "
                "skipped."
            )
        if self.published:
            notes.append(f"published: {SOURCE}.")
        return notes

    def markdown(self) -> str:
        """Return the table in Markdown, with its notes below."""
        header, rows = self.table()
        widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

        def line(cells: Sequence[str]) -> str:
            first, *others = zip(cells, widths, strict=True)
            texts = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
            return f"| {' | '.join(texts)} |"

        rule = [
            "-" * width if i == 0 else f"{'-' * (width - 1)}:" for i, width in enumerate(widths)
        ]
        title = f"Pointing game, {self.data}, {self.model}"
        lines = [title, "", line(header), line(rule), *map(line, rows), "", *self.notes()]
        return "\n".join(lines) + "\n"

    def csv(self, class_names: Sequence[str]) -> str:
        """Return the table with all digits, as comma separated values.

        Args:
            class_names: names of the columns with each class's accuracy.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        columns = (
            *("accuracy", "difficult", "energy", "mass", "rank", "area"),
            *("pictures", "games", "games_difficult", "degenerate"),
        )
        published = ("published_accuracy", "published_difficult") if self.published else ()
        writer.writerow(("data", "model", "method", *columns, "skipped", *published, *class_names))
        for row in self.scores:
            figures = self.published.get(row.method, (math.nan, math.nan)) if published else ()
            values = [getattr(row, column) for column in columns]
            cells = [*values, len(row.skipped), *(f / 100 for f in figures), *row.class_accuracy]
            writer.writerow((self.data, self.model, row.method, *map(_cell, cells)))
        return text.getvalue()


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.1f}"


def _cell(value: float) -> str:
    if isinstance(value, int):
        return str(value)
    return "" if math.isnan(value) else f"{value:.6g}"
