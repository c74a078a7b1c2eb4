"""What an alarm says: a line for the log, a text for TensorBoard, a picture of before and after."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from lightning_saliency.callbacks.explanation import ExplanationRound
from lightning_saliency.callbacks.samples.batch import known_labels
from lightning_saliency.callbacks.tags import logged_tag
from lightning_saliency.metrics.map_statistics import canonical
from lightning_saliency.metrics.movement import movement

_MOST_SHOWN = 6


@dataclass(frozen=True)
class Finding:
    """One number that is out of the usual.

    Attributes:
        tag: that it is logged under.
        value: as logged.
        score: of the alarm, above 1.
        usual: smallest and largest value it was compared with, as logged; None if there was none.
        limit: which limit it has passed and in which direction; "" if it has not.
    """

    tag: str
    value: float
    score: float
    usual: tuple[float, float] | None
    limit: str = ""

    def __str__(self) -> str:
        """Return the number beside what is usual."""
        usual = "" if self.usual is None else f" (usually {_span(self.usual)})"
        limit = f", {self.limit}" if self.limit else ""
        return f"{logged_tag(self.tag)} is {self.value:.3g}{limit}{usual}"

    @property
    def row(self) -> str:
        """The number as a row of a table in Markdown."""
        said = [] if self.usual is None else [_span(self.usual)]
        said += [self.limit] if self.limit else []
        beside = "; ".join(said) or "-"
        return f"| {logged_tag(self.tag)} | {self.value:.3f} | {beside} | {self.score:.1f} |"


class Report:
    """An alarm in words and in a picture, for the findings of one series and one reference.

    Args:
        series: for instance ``"grad_cam"``.
        reference: ``"previous"`` or ``"pinned"``.
        findings: what is out of the usual, at least one.
        round: the explanation that they are from.
    """

    def __init__(
        self, series: str, reference: str, findings: Sequence[Finding], round: ExplanationRound
    ) -> None:
        self.series = series
        self.reference = reference
        self.findings = list(findings)
        self._round = round
        self._now = round.explanations[series]
        references = round.references[series]
        self._before = references.pinned if reference == "pinned" else references.previous
        # As in the filmstrip and the table of samples, whichever measure is out of the usual.
        self._amounts = movement(self._before.maps, canonical(self._now.saliency).cpu())

    @property
    def most_moved(self) -> list[int]:
        """The samples that moved most, at most six; those that cannot be compared come last."""
        order = self._amounts.nan_to_num(-1.0).sort(descending=True, stable=True).indices
        return order[:_MOST_SHOWN].tolist()

    @property
    def flips(self) -> int:
        """How many samples have another predicted class than at the reference."""
        return int((self._now.predicted != self._before.predicted).sum())

    def line(self) -> str:
        """Return the alarm in one line."""
        found = "; ".join(str(finding) for finding in self.findings)
        first = ", ".join(str(index) for index in self.most_moved[:3])
        return (
            f"Epoch {self._round.epoch}: {found}. {self._verdict()} Samples that moved most: "
            f"{first}."
        )

    def text(self, picture_tag: str) -> str:
        """Return the alarm as Markdown.

        Args:
            picture_tag: where the picture is found.
        """
        rows = [finding.row for finding in self.findings]
        samples = [self._row(index) for index in self.most_moved]
        return "\n".join(
            [
                f"### Epoch {self._round.epoch}: {self.series} looks elsewhere",
                "",
                "| number | now | usually | score (alarm above 1) |",
                "|---|---|---|---|",
                *rows,
                "",
                self._verdict(),
                "",
                f"Before and after: picture **{picture_tag}** in the Images tab, at this step.",
                "",
                f"| # | class | predicted {self._when()} | predicted now | p | moved |",
                "|---|---|---|---|---|---|",
                *samples,
            ]
        )

    def picture(self) -> Tensor:
        """Draw the three samples that moved most: the image, the map before, the map now.

        Returns:
            (3, height, width), RGB, uint8.
        """
        return self._round.pictures.before_and_after(
            self.series,
            self._round.samples.images,
            self._before,
            self._round.references[self.series].current,
            self._amounts,
            known_labels(self._round.samples.labels),
        )

    def _verdict(self) -> str:
        count = len(self._amounts)
        if self.flips == 0:
            return f"No prediction of the {count} samples changed: the same answers, otherwise."
        return f"{self.flips} of {count} predictions changed too."

    def _when(self) -> str:
        return f"in epoch {self._before.epoch}"

    def _row(self, index: int) -> str:
        name = self._round.pictures.class_name
        moved = float(self._amounts[index])
        cells = [
            str(index),
            self._now.explained(index, name),
            name(int(self._before.predicted[index])),
            name(int(self._now.predicted[index])),
            f"{float(self._now.sureness[index]):.2f}",
            f"{moved:.2f}" if math.isfinite(moved) else "-",
        ]
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _span(usual: tuple[float, float]) -> str:
    low, high = sorted(usual)
    return f"{low:.3g}" if f"{low:.3g}" == f"{high:.3g}" else f"{low:.3g} to {high:.3g}"
