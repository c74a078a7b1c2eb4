"""What an alarm says of the evidence: what gained, by how much, in how many samples; never more."""

from collections.abc import Iterable, Mapping, Sequence
from math import isqrt

import torch
from torch import Tensor

from lightning_saliency.callbacks.drift_alarm.report import Finding
from lightning_saliency.callbacks.evidence_change import LAG, EvidenceChange, Gain, score_owner
from lightning_saliency.callbacks.explanation import ExplanationRound
from lightning_saliency.image.parts import CONTENTS, cell_bounds
from lightning_saliency.rendering import evidence_card

WATCHED_GAINS = ("place_gain", "kind_gain")
"""Whose outliers are alarms."""

_MOST_SHOWN = 4
_NUMERALS = {3: "three"}
_CONTENT_WORDS: Mapping[str, str] = {
    "fine": "the fine detail",
    "middle": "detail of middle size",
    "coarse": "coarse detail",
    "low": "the large forms",
    "level": "the overall color and brightness",
}


def evidence_of(tag: str, round: ExplanationRound) -> EvidenceChange | None:
    """Return the evidence that a number is of; None if it is another number.

    Args:
        tag: that the number is logged under.
        round: the explanation that it is from.
    """
    for change in round.evidence.values():
        if tag.startswith(f"{change.prefix}saliency_evidence/{change.name}/"):
            return change
    return None


def gain_tags(round: ExplanationRound) -> list[str]:
    """Return the tags of the watched gains, also as long as there is nothing to compare with."""
    return [
        f"{change.prefix}saliency_evidence/{change.name}/{what}"
        for change in round.evidence.values()
        for what in WATCHED_GAINS
    ]


class EvidenceReport:
    """An alarm in words and in a picture, for the evidence of one choice of class.

    Args:
        change: what has been measured, with something to compare with.
        findings: what is out of the usual, at least one.
        round: the explanation that they are from.
    """

    def __init__(
        self, change: EvidenceChange, findings: Sequence[Finding], round: ExplanationRound
    ) -> None:
        self.series = f"evidence/{change.name}"
        self.prefix = change.prefix
        self.findings = list(findings)
        self._change = change
        self._round = round

    @property
    def tag(self) -> str:
        """Under which the text is logged."""
        return f"{self.prefix}saliency_alarm/{self.series}"

    def line(self) -> str:
        """Return the alarm in one line."""
        return f"Epoch {self._round.epoch}: {' '.join(self._sentences())}"

    def text(self, picture_tag: str) -> str:
        """Return the alarm as Markdown.

        Args:
            picture_tag: where the picture is found.
        """
        rows = [finding.row for finding in self.findings]
        named = {"place": self._change.place, "kind": self._change.kind}
        gains = [
            f"| {what} | {_words(what, gain, self._change.grid)} | {gain.before:.2f} | "
            f"{gain.now:.2f} | {gain.rose} of {gain.count} | {gain.probability:.2g} |"
            for what, gain in named.items()
            if gain is not None
        ]
        return "\n".join(
            [
                f"### Epoch {self._round.epoch}: the evidence has moved",
                "",
                *self._sentences(),
                "",
                "| number | now | usually | score (alarm above 1) |",
                "|---|---|---|---|",
                *rows,
                "",
                "| | what gained most | share before | now | rose in samples | by chance, p |",
                "|---|---|---|---|---|---|",
                *gains,
                "",
                "Training changes what a network needs all the time: a small p alone is no alarm.",
                "",
                f"Before and after: picture **{picture_tag}** in the Images tab, at this step.",
            ]
        )

    def picture(self) -> Tensor:
        """Draw the samples in which the place gained most: its cells before, and now.

        Where a kind of content alone has gained, the profile over the run instead.

        Returns:
            (3, height, width), RGB, uint8.
        """
        change, images = self._change, self._round.samples.images
        if all(finding.tag.endswith("/kind_gain") for finding in self.findings):
            return change.strip()
        before = change.now if change.before is None else change.before
        risen = _risen(change).nan_to_num(-1.0)
        chosen = risen.sort(descending=True, stable=True).indices[:_MOST_SHOWN].tolist()
        size = images.shape[2], images.shape[3]
        return evidence_card(
            self._round.pictures.show(images[chosen]),
            [shares_as_maps(each.place[chosen], size) for each in (before, change.now)],
            [f"epoch {epoch}" for epoch in change.epochs],
            [f"sample {index}: {float(risen[index]):+.2f}" for index in chosen],
            f"evidence for {score_owner(change.name)} score, by place",
        )

    def _sentences(self) -> list[str]:
        loud = {finding.tag.rpartition("/")[2].partition("_")[0] for finding in self.findings}
        # The place first: a small mark raises the finest detail, too.
        named = {"place": self._change.place, "kind": self._change.kind}
        said = [
            self._sentence(what, gain)
            for what, gain in named.items()
            if what in loud and gain is not None
        ]
        if not said:
            return [f"{'; '.join(map(str, self.findings))}."]
        advice = "look at the place." if "place" in loud else "look at this content."
        return [*said, f"This may be learning or a shortcut; {advice}"]

    def _sentence(self, what: str, gain: Gain) -> str:
        owner = score_owner(self._change.name)
        return (
            f"In {gain.rose} of {gain.count} samples {owner} score now depends more on "
            f"{_words(what, gain, self._change.grid)}: its share of the evidence, measured "
            f"by removing it, rose from {gain.before:.2f} to {gain.now:.2f} in "
            f"{_NUMERALS.get(LAG, str(LAG))} explanations."
        )


def shares_as_maps(shares: Tensor, size: tuple[int, int]) -> Tensor:
    """Return place shares as maps: each cell shows its share of the evidence.

    Args:
        shares: (N, G * G), of a square grid.
        size: (height, width) of the maps, in pixels.

    Returns:
        (N, 1, height, width), float32; zero where a sample has no evidence.
    """
    grid = isqrt(shares.shape[1])
    maps = torch.zeros(len(shares), 1, *size)
    for column, (rows, columns) in enumerate(cell_bounds(size, grid)):
        maps[..., rows, columns] = shares[:, column].nan_to_num(0.0).view(-1, 1, 1, 1)
    return maps


def place_in_words(cells: Iterable[int], grid: int) -> str:
    """Return where some cells of a grid lie, such as "the top left".

    Args:
        cells: at least one, row by row.
        grid: cells a side.
    """
    chosen = list(cells)
    if 2 * len(chosen) > grid * grid:
        return "most of the picture"
    rows = sum(cell // grid + 0.5 for cell in chosen) / len(chosen) / grid
    columns = sum(cell % grid + 0.5 for cell in chosen) / len(chosen) / grid
    vertical = ("top", "", "bottom")[min(2, int(3 * rows))]
    horizontal = ("left", "", "right")[min(2, int(3 * columns))]
    return f"the {' '.join(filter(None, (vertical, horizontal))) or 'center'}"


def _risen(change: EvidenceChange) -> Tensor:
    """Return by how much the share of the place that gained rose in each sample, (N,)."""
    if change.before is None or change.place is None or not change.place.parts:
        return torch.zeros(len(change.now.place))
    parts = list(change.place.parts)
    return (change.now.place - change.before.place)[:, parts].sum(1)


def _words(what: str, gain: Gain, grid: int) -> str:
    if not gain.parts:
        return "-"
    return (
        place_in_words(gain.parts, grid)
        if what == "place"
        else _CONTENT_WORDS[CONTENTS[gain.index]]
    )
