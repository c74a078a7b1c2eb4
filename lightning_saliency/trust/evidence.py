"""What does the network need? Score pictures without each of their parts; no map is involved."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from lightning_saliency.attribution.guard import guarded
from lightning_saliency.errors import InputError, ModelError
from lightning_saliency.image.parts import CONTENTS, cell_bounds, contents, filled_cells
from lightning_saliency.metrics.evidence import evidence_shares, log_odds, mean_of_probes
from lightning_saliency.network.batching import Batches, BatchSize, batches_for
from lightning_saliency.network.masked_scores import clean_logits
from lightning_saliency.network.score import (
    Target,
    all_class_scores,
    class_logits,
    class_scores,
    target_classes,
)

Probes: TypeAlias = Literal["both", "fill"]
"""How a part is removed: ``"fill"`` alone, or filled in and also exchanged with another picture's.
"""

EvidenceScore: TypeAlias = Literal["auto", "log_odds", "logit"]
"""The score of a class: the log-odds of its softmax probability, or its logit, which is the
log-odds of its sigmoid; ``"auto"`` is the logit where labels name several classes for a picture."""

_FINEST_GRID = 16


@dataclass(frozen=True)
class Evidence:
    """Measure with each explanation what the network needs: settings of a callback.

    Forward passes for each sample and measurement, with a grid of 5: 61 with ``probes="both"``, 31
    with ``"fill"``; with a grid of 4, 43 and 22.

    Attributes:
        grid: cells a side of the grid of places, 2 to 16.
        probes: how a part is removed. ``"both"`` needs samples of two classes at least; with one
            alone, parts are only filled in.
        every: measure at the first and every so many explanations.
        score: of a class. A softmax, and one unit (the logit of class 1, minus it for class 0), are
            scored by the log-odds; a network that tells several classes at once by the logit.
            Score maps are averaged over space. A callable target is taken as it is.

    Raises:
        InputError: a setting cannot be used.
    """

    grid: int = 5
    probes: Probes = "both"
    every: int = 1
    score: EvidenceScore = "auto"

    def __post_init__(self) -> None:
        """Check the settings."""
        grid = self.grid
        if isinstance(grid, bool) or not isinstance(grid, int) or not 2 <= grid <= _FINEST_GRID:
            raise InputError(
                f"Expected grid to be a number of cells a side, 2 to {_FINEST_GRID}, got {grid!r}."
            )
        if self.probes not in get_args(Probes):
            raise InputError(f"Expected probes to be 'both' or 'fill', got {self.probes!r}.")
        if isinstance(self.every, bool) or not isinstance(self.every, int) or self.every < 1:
            raise InputError(
                f"Expected every to be a number of explanations, at least 1, got {self.every!r}."
            )
        if self.score not in get_args(EvidenceScore):
            raise InputError(
                f"Expected score to be 'auto', 'log_odds' or 'logit', got {self.score!r}."
            )


@dataclass(frozen=True)
class EvidenceShares:
    """Of each picture, how its evidence is divided.

    Attributes:
        place: (N, G * G), float32, cells row by row, each row with the sum 1; NaN where removing
            no cell lowers the score.
        kind: (N, 5), the same of the kinds of content, in the order of
            :data:`~lightning_saliency.image.parts.CONTENTS`.
    """

    place: Tensor
    kind: Tensor

    def each(self, change: Callable[[Tensor], Tensor]) -> "EvidenceShares":
        """Return both tables changed alike, (N, ...)."""
        return EvidenceShares(change(self.place), change(self.kind))


def choose_partners(labels: Tensor) -> Tensor | None:
    """Choose for each picture another one of another class, the same in every call.

    Args:
        labels: (N,), class indices.

    Returns:
        (N,), int64, indices of pictures, on the CPU; the pictures of the other classes take turns.
        None if there is only one class.
    """
    labels = labels.cpu()
    others = [(labels != label).nonzero().flatten() for label in labels]
    if any(not len(other) for other in others):
        return None
    return torch.stack([other[n % len(other)] for n, other in enumerate(others)])


def measure_evidence(
    model: nn.Module,
    image: Tensor,
    target: Target,
    grid: int = 5,
    probes: Probes = "both",
    score: Literal["log_odds", "logit"] = "log_odds",
    partners: Tensor | None = None,
    batch_size: BatchSize = "auto",
) -> EvidenceShares:
    """Measure how much of the evidence for the target each place and each kind of content holds.

    Each part is removed by itself, and the loss of the score is its evidence. Nothing but forward
    passes, in eval mode and without autocast: for each image 1, one for each cell, and one for each
    of the five contents; with ``probes="both"`` the parts are also exchanged with those of another
    image, which makes twice as many, and the shares of both ways are averaged.

    Args:
        model: takes ``image`` and returns class scores; it is not changed.
        image: (N, C, H, W), as the model takes it.
        target: what is supported: classes, whose score is ``score``; a callable's scores are taken
            as they are, and it gets the outputs of all N images at once, in their order.
        grid: cells a side, at least 2; each at least 2 pixels wide.
        probes: ``"fill"`` or ``"both"``.
        score: ``"log_odds"`` of the softmax (of a single unit, of its sigmoid), or ``"logit"`` for
            models whose classes do not exclude each other. Score maps (N, classes, H, W) are
            averaged over space.
        partners: (N,), with which image each is exchanged; None for images of another class, as far
            as ``target`` tells the classes. If there is one class only, parts are filled in alone.
        batch_size: how many images go through the model at once.

    Returns:
        The shares of each image. With a callable, which tells no classes, and no partners: filled
        in alone.

    Raises:
        InputError: the images, the target or a setting cannot be used.
        ModelError: the model does not return class scores.
    """
    settings = Evidence(grid, probes, score=score)
    cell_bounds((image.shape[-2], image.shape[-1]), grid)
    with guarded(model, image) as images, torch.no_grad():
        if callable(target) and not isinstance(target, Tensor):
            batches = Batches(len(images), images.device)
            of_output: Callable[[object, Tensor], Tensor] = partial(_called, target)
        else:
            batches = batches_for(batch_size, images)
            classes = target_classes(clean_logits(model, images, batches), target)
            of_output = score_of_classes([classes], score)
            partners = choose_partners(classes) if partners is None else partners
        removals = Removals(images, images, partners, settings)
        return removals.shares(model, of_output, batches)[0]


def _called(target: Callable[..., Tensor], output: object, owner: Tensor) -> Tensor:
    return class_scores(output, target, len(owner))[:, None]


def score_of_classes(
    classes: Sequence[Tensor], score: Literal["log_odds", "logit"]
) -> Callable[[object, Tensor], Tensor]:
    """Return the function from a model's output to the scores of chosen classes.

    Args:
        classes: K choices, each (N,), one class for each picture.
        score: of a class.

    Returns:
        Takes an output for some of the pictures, and which ones they are, (rows,); returns (rows,
        K), float32 at least.
    """
    return partial(_scores_of, classes, score)


def _scores_of(
    classes: Sequence[Tensor], score: Literal["log_odds", "logit"], output: object, owner: Tensor
) -> Tensor:
    if score == "log_odds":
        logits = class_logits(output, len(owner))
        return torch.stack([log_odds(logits, each[owner]) for each in classes], 1)
    scores = all_class_scores(output, count=len(owner))
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    return torch.cat([scores.gather(1, each[owner][:, None]) for each in classes], 1)


class Removals:
    """Pictures, and what stands in for each of their parts.

    Made once for fixed pictures: nothing in it depends on the model. One picture without one part
    is made at a time, so that it takes the memory of eleven times the pictures, seventeen with
    exchanges, whatever the grid is.

    Args:
        image: (N, C, H, W), as the model takes it.
        source: (M, C, H, W), the whole set: a removed level becomes its mean, and partners are
            taken from it.
        partners: (N,), indices into ``source``; None to fill in alone.
        settings: of the grid and the ways of removing.

    Raises:
        InputError: the pictures are too small for the grid.
    """

    def __init__(
        self, image: Tensor, source: Tensor, partners: Tensor | None, settings: Evidence
    ) -> None:
        self._image = image
        self._cells = cell_bounds((image.shape[2], image.shape[3]), settings.grid)
        self._bands = contents(image)
        self._fillings = [filled_cells(image, settings.grid)]
        replaced = torch.zeros_like(self._bands)
        replaced[-1] = source.to(replaced.dtype).mean((0, 2, 3))[:, None, None]
        self._replacements = [replaced]
        if settings.probes == "both" and partners is not None:
            others = source[partners.to(source.device)]
            self._fillings.append(others.to(replaced.dtype))
            self._replacements.append(contents(others))

    @property
    def passes(self) -> int:
        """Forward passes for each picture."""
        return 1 + len(self._fillings) * (len(self._cells) + len(CONTENTS))

    def picture(self, number: int) -> Tensor:
        """Return the pictures without one part, (N, C, H, W), in their own dtype.

        Args:
            number: 0 for the pictures as they are; then for each way each cell, then for each way
                each content.
        """
        image = self._image
        if number == 0:
            return image
        way, cell = divmod(number - 1, len(self._cells))
        if way < len(self._fillings):
            rows, columns = self._cells[cell]
            changed = image.clone()
            changed[..., rows, columns] = self._fillings[way][..., rows, columns].to(image.dtype)
            return changed
        way, kind = divmod(number - 1 - len(self._fillings) * len(self._cells), len(CONTENTS))
        changed = image - self._bands[kind] + self._replacements[way][kind]
        return changed.to(image.dtype)

    def shares(
        self, model: nn.Module, score: Callable[[object, Tensor], Tensor], batches: Batches
    ) -> list[EvidenceShares]:
        """Ask the model, inside isolation and ``torch.no_grad()``.

        Args:
            model: in eval mode.
            score: takes an output and which of the N pictures its rows were made of, (rows,);
                returns (rows, K).
            batches: how many pictures go through the model at once.

        Returns:
            The shares for each of the K scores; the tables are on the CPU, float32.

        Raises:
            ModelError: the model did not return one row for each picture.
        """
        count = len(self._image)

        def work(part: slice) -> Tensor:
            owner = torch.arange(part.start, part.stop, device=self._image.device) % count
            scores = score(model(self._rows(part)), owner)
            if len(scores) != len(owner):
                raise ModelError(
                    f"Expected the model to return one row of scores for each of the {len(owner)} "
                    f"images of a batch, but it returned {len(scores)}."
                )
            return scores.float()

        found = torch.cat(batches.run(work, count * self.passes)).cpu()
        return [self._shares_of(table) for table in found.view(self.passes, count, -1).unbind(2)]

    def _rows(self, part: slice) -> Tensor:
        """Return rows of the list of all pictures, part by part; in it each part has N rows."""
        count = len(self._image)
        rows = []
        for number in range(part.start // count, -(-part.stop // count)):
            first, last = max(part.start - number * count, 0), part.stop - number * count
            rows.append(self.picture(number)[first:last])
        # A copy, because the model may write into its input.
        return torch.cat(rows)

    def _shares_of(self, table: Tensor) -> EvidenceShares:
        """Return the shares from the scores (passes, N)."""
        clean, without = table[0], table[1:].mT
        cells = len(self._fillings) * len(self._cells)
        place, kind = without[:, :cells], without[:, cells:]
        ways = len(self._fillings)
        return EvidenceShares(
            mean_of_probes([evidence_shares(clean, each) for each in place.chunk(ways, 1)]),
            mean_of_probes([evidence_shares(clean, each) for each in kind.chunk(ways, 1)]),
        )
