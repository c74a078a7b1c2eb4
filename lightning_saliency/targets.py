"""What is explained, where that is not one class of a classifier.

A target is a callable from the model's output to one score for each image, (N,), that can be
differentiated. Every method takes it as ``target``; its ``name`` stands in the tags. The ones here
are picklable. A function of one's own does as well::

    def difference(output):
        return output[:, 3] - output[:, 5]
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_saliency.errors import InputError, ModelError
from lightning_saliency.network.score import class_logits, spatial_logits

__all__ = [
    "BoxScore",
    "ClassInMask",
    "LogitDifference",
    "ScoreTarget",
    "Similarity",
    "name_of_target",
]


class ScoreTarget(ABC):
    """From a model's output to what is explained.

    A target of one's own need not be derived from it: any function will do, and goes by its own
    name. Classes that are, can be named with their settings in configuration files.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """In snake case, for tags."""

    @abstractmethod
    def __call__(self, output: Any) -> Tensor:
        """Return the score of each image, (N,).

        Args:
            output: what the model returned for N images.
        """


def name_of_target(target: Callable[..., Tensor]) -> str:
    """Return the name of a callable target, for tags.

    Args:
        target: with a ``name``, or a function; returns (N,).
    """
    name = getattr(target, "name", None) or getattr(target, "__name__", type(target).__name__)
    return "".join(c if c.isalnum() or c in "_-" else "_" for c in str(name)).strip("_")


@dataclass(frozen=True)
class LogitDifference(ScoreTarget):
    """Why this class and not that one: the difference of their logits.

    Args:
        this: class index.
        other: class index.
    """

    this: int
    other: int

    @property
    def name(self) -> str:
        """For example ``"class_3_minus_5"``."""
        return f"class_{self.this}_minus_{self.other}"

    def __call__(self, output: Any) -> Tensor:
        """Return the differences, (N,).

        Args:
            output: anything in which logits are found, see
                :func:`~lightning_saliency.network.score.class_logits`.

        Raises:
            InputError: the model has fewer classes.
        """
        logits = class_logits(output)
        for wanted in (self.this, self.other):
            _check_class(wanted, logits.shape[1])
        return logits[:, self.this] - logits[:, self.other]


@dataclass(frozen=True, eq=False)
class ClassInMask(ScoreTarget):
    """The mean logit of a class at some pixels of a segmentation.

    Args:
        index: class index; 0 of a model with one unit for each pixel, the unit.
        mask: (H, W) for all images, bool or in [0, 1]; it is resized to the output by nearest
            neighbors. None takes the pixels where the class is predicted, of each image; where that
            is nowhere, all.
    """

    index: int
    mask: Tensor | None = None

    @property
    def name(self) -> str:
        """For example ``"class_3_in_mask"``."""
        return f"class_{self.index}_in_mask"

    def __call__(self, output: Any) -> Tensor:
        """Return the mean logits, (N,).

        Args:
            output: with logits (N, classes, H, W).

        Raises:
            InputError: the model has fewer classes, or the mask is empty.
        """
        logits = spatial_logits(output)
        _check_class(self.index, logits.shape[1])
        wanted = logits[:, self.index]
        if self.mask is None:
            there = _predicted(logits.detach(), self.index).to(wanted.dtype)
            there = torch.where(there.sum((1, 2), keepdim=True) == 0, 1.0, there)
        else:
            mask = self.mask.detach().to(wanted)[None, None]
            there = F.interpolate(mask, wanted.shape[1:], mode="nearest")[0]
            if not bool(there.any()):
                raise InputError(
                    "Expected a mask that marks some of the output's "
                    f"{wanted.shape[1]} x {wanted.shape[2]} pixels, but it marks none."
                )
            there = there.expand_as(wanted)
        return (wanted * there).sum((1, 2)) / there.sum((1, 2))


def _predicted(logits: Tensor, index: int) -> Tensor:
    return logits[:, 0] > 0 if logits.shape[1] == 1 else logits.argmax(1) == index


@dataclass(frozen=True, eq=False)
class Similarity(ScoreTarget):
    """The cosine similarity of embeddings to a reference, as for self-supervised models.

    Args:
        reference: (K,) for all images, or (N, K), one for each.
        embed: from the model's output to embeddings (N, K, ...); None takes the output itself, or
            its first tensor. More than two dimensions are averaged over.
    """

    reference: Tensor
    embed: Callable[[Any], Tensor] | None = None

    @property
    def name(self) -> str:
        """``"similarity"``."""
        return "similarity"

    def __call__(self, output: Any) -> Tensor:
        """Return the similarities, in [-1, 1], (N,).

        Args:
            output: what the model returned.

        Raises:
            InputError: the reference has another length than the embeddings.
            ModelError: no embedding is found in the output.
        """
        embedding = _first_tensor(output) if self.embed is None else self.embed(output)
        if embedding.dim() > 2:
            embedding = embedding.flatten(2).mean(2)
        reference = self.reference.detach().to(embedding)
        fits = reference.shape[-1:] == embedding.shape[-1:] and (
            reference.dim() == 1 or reference.shape == embedding.shape
        )
        if embedding.dim() != 2 or not fits:
            raise InputError(
                f"Expected a reference of the embeddings' shape {tuple(embedding.shape)}, or one "
                f"of them, got {tuple(reference.shape)}. Give embed= if the embedding is another "
                "part of the output."
            )
        return F.cosine_similarity(embedding, reference.expand_as(embedding), dim=1)


def _first_tensor(output: Any) -> Tensor:
    if isinstance(output, Tensor):
        return output
    parts = output.values() if isinstance(output, Mapping) else output
    if isinstance(output, (Mapping, tuple, list)):
        for part in parts:
            if isinstance(part, Tensor) and part.is_floating_point() and part.dim() >= 2:
                return part
    raise ModelError(
        f"Expected embeddings (N, K) in the model's output, got {type(output).__name__}. Say where "
        "they are: Similarity(reference, embed=lambda output: output.image_embeds)."
    )


@dataclass(frozen=True)
class BoxScore(ScoreTarget):
    """The score of a class at detected boxes: of torchvision's detectors and DETR-like ones.

    Torchvision's return for each image a dict with ``boxes``, ``labels`` and ``scores``; DETR-like
    ones logits (N, queries, classes), as ``logits`` or ``pred_logits``.

    Args:
        label: the class.
        box: (x1, y1, x2, y2) in pixels: of torchvision's boxes of the class, the one with the
            largest overlap (IoU) counts; None takes all of them, by the sum of their scores.
        query: of DETR-like outputs, which query; None takes the one with the largest logit.
    """

    label: int
    box: tuple[float, float, float, float] | None = None
    query: int | None = None

    @property
    def name(self) -> str:
        """For example ``"box_of_3"``."""
        return f"box_of_{self.label}"

    def __call__(self, output: Any) -> Tensor:
        """Return the scores, (N,): probabilities (torchvision) or logits (DETR).

        An image without such a box has a score of 0 with a gradient of 0: its map is empty, as in
        the first epochs of a detector that finds nothing yet.

        Args:
            output: what the model returned.

        Raises:
            InputError: the model has fewer classes.
            ModelError: the output is none of a detector.
        """
        if isinstance(output, (list, tuple)) and output and _is_detection(output[0]):
            return torch.stack([self._of_boxes(each) for each in output])
        queries = _query_logits(output)
        _check_class(self.label, queries.shape[2])
        wanted = queries[:, :, self.label]
        return wanted.amax(1) if self.query is None else wanted[:, self.query]

    def _of_boxes(self, found: Mapping[str, Tensor]) -> Tensor:
        chosen = found["labels"] == self.label
        scores, boxes = found["scores"][chosen], found["boxes"][chosen].detach()
        if not len(scores):
            # Part of the graph: that nothing is found yet is no fault of the model.
            return 0 * found["scores"].sum()
        if self.box is None:
            return scores.sum()
        return scores[_overlap(boxes, boxes.new_tensor(self.box)).argmax()]


def _is_detection(found: object) -> bool:
    return isinstance(found, Mapping) and {"boxes", "labels", "scores"} <= set(found)


def _query_logits(output: Any) -> Tensor:
    found = output
    for key in ("logits", "pred_logits"):
        if isinstance(output, Mapping) and key in output:
            found = output[key]
        elif hasattr(output, key):
            found = getattr(output, key)
    if not isinstance(found, Tensor) or found.dim() != 3:
        raise ModelError(
            "Expected a detector's output, a list of dicts with 'boxes', 'labels' and 'scores' or "
            f"logits (N, queries, classes), got {type(output).__name__}."
        )
    return found


def _overlap(boxes: Tensor, box: Tensor) -> Tensor:
    """Return the IoU of boxes (M, 4) with one, (M,)."""
    low = torch.maximum(boxes[:, :2], box[:2])
    high = torch.minimum(boxes[:, 2:], box[2:])
    both = (high - low).clamp(min=0).prod(1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (box[2:] - box[:2]).prod()
    return both / (areas - both).clamp(min=1e-9)


def _check_class(index: int, classes: int) -> None:
    if not 0 <= index < classes:
        raise InputError(
            f"Expected a class from 0 to {classes - 1}, because the model has {classes}, got "
            f"{index}."
        )
