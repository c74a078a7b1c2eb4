"""The fixed validation samples that are explained again and again."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_saliency.callbacks.samples.batch import (
    Unpack,
    class_indices,
    image_key,
    unpack_batch,
)
from lightning_saliency.callbacks.samples.chosen import Chosen, PerClass, Wrong
from lightning_saliency.errors import InputError

SampleSpec: TypeAlias = int | PerClass | Wrong | Sequence[int] | tuple[Tensor, Tensor | None]
"""Which samples are explained: that many first samples of the validation run; the first of each
class, or those that the model gets wrong; indices into the validation dataset; or a pair of
tensors, images (N, C, H, W) and labels (N,) or None."""


SAME = 0.01
"""Pictures that differ by less than this share of the largest value are the same: the rest is the
rounding of another precision or device."""

# 16 pictures of three channels take 96 KiB.
_THUMBNAIL = 32
_HALF_RANGE = torch.finfo(torch.half).min, torch.finfo(torch.half).max


@dataclass(frozen=True)
class SampleSet:
    """Samples in the form in which the model sees them.

    Attributes:
        images: (N, C, H, W), normalized as the model takes them.
        labels: as they come with the batch, first dimension N, or None.
        regions: by name, bool, (N, 1, H, W): what came with the batch to measure the maps on.
        key: the name under which the images stood in their batch, if it had names.
        inputs: by name, first dimension N: what the model gets beside the images; a single one
            without a name under ``""``.
    """

    images: Tensor
    labels: Tensor | None
    regions: Mapping[str, Tensor] = field(default_factory=dict)
    key: str | None = None
    inputs: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, which: slice | list[int]) -> "SampleSet":
        return self.each(lambda tensor: tensor[which])

    def each(self, change: Callable[[Tensor], Tensor]) -> "SampleSet":
        """Return the samples with all their tensors changed in the same way."""
        return SampleSet(
            change(self.images),
            None if self.labels is None else change(self.labels),
            {name: change(region) for name, region in self.regions.items()},
            self.key,
            {name: change(value) for name, value in self.inputs.items()},
        )

    def to(self, device: torch.device | str) -> "SampleSet":
        """Return these samples on ``device``."""
        return self.each(lambda tensor: tensor.to(device))


class Samples:
    """Collects the samples once, and keeps them.

    Args:
        spec: see :data:`SampleSpec`; checked here.
        unpack: from a batch to (images, labels); None for the usual forms.

    Attributes:
        known: the samples, on the device they were seen on; None as long as they are not known.
        indices: into the validation dataset, if the samples are given so.
        count: how many samples are asked for.
        steady: whether a second validation run has shown the same; None as long as there was none.
        are_given: whether they are the user's own tensors.
        chosen: by what they are chosen, if they are; ``count`` is then that of each class, or of
            the wrong ones.
        expected: thumbnails and labels in the checkpoint that the run resumes from, as long as the
            samples are not known.

    Raises:
        InputError: ``spec`` is none of the three forms, or holds no valid samples.
    """

    def __init__(self, spec: SampleSpec, unpack: Unpack | None = None) -> None:
        self.unpack = unpack
        self.known: SampleSet | None = None
        self.indices: list[int] | None = None
        self.steady: bool | None = None
        self.are_given = False
        self.expected: SampleSet | None = None
        self.chosen: Chosen | None = None
        self._collected: list[SampleSet] = []
        if isinstance(spec, PerClass | Wrong):
            self.chosen, self.count = spec, spec.count
        elif isinstance(spec, int) and not isinstance(spec, bool):
            if spec < 1:
                raise InputError(
                    f"Expected samples to be at least 1, got {spec}. Give the number of "
                    "validation samples to explain, for instance samples=8."
                )
            self.count = spec
        elif isinstance(spec, (tuple, list)) and any(isinstance(e, Tensor) for e in spec):
            self.are_given = True
            self.known = _checked_pair(spec)
            self.count = len(self.known)
        else:
            self.indices = _checked_indices(spec)
            self.count = len(self.indices)

    @property
    def is_complete(self) -> bool:
        """Whether as many samples have been collected as were asked for."""
        return sum(map(len, self._collected)) >= self.count

    def begin(self) -> None:
        """A run over the validation data begins: collect from its start."""
        self._collected = []

    def collect(
        self, batch: object, predict: Callable[["SampleSet"], Tensor] | None = None
    ) -> None:
        """Take what is still missing of the samples from a batch.

        Args:
            batch: what the model's ``validation_step`` receives, on the device.
            predict: from samples to the classes that the model predicts, (N,), int64; None where
                the model is not asked.

        Raises:
            InputError: the batch cannot be unpacked, or has no labels to choose by.
        """
        if self.chosen is not None:
            if self.known is None:
                self._choose(self.of(batch), self.chosen, predict)
            return
        missing = self.count - sum(map(len, self._collected))
        if self.known is None and missing > 0:
            self._collected.append(self.of(batch)[:missing])

    def _choose(
        self,
        found: SampleSet,
        chosen: Chosen,
        predict: Callable[["SampleSet"], Tensor] | None,
    ) -> None:
        labels = class_indices(found.labels, f"the batch to choose samples={chosen} by")
        before = [class_indices(one.labels, "the batch") for one in self._collected]
        needed = torch.cat(before) if before else labels[:0]
        asks = isinstance(chosen, Wrong) and predict is not None
        predicted = predict(found) if asks and predict is not None else None
        places = chosen.places(labels, predicted, needed)
        if places:
            self._collected.append(found[places])

    def of(self, batch: object) -> SampleSet:
        """Return the samples of a batch, as clones that gradients can go through.

        Args:
            batch: what the model's ``validation_step`` receives.

        Raises:
            InputError: the batch cannot be unpacked.
        """
        images, labels, regions, inputs = unpack_batch(batch, self.unpack)
        # A clone made inside inference mode would be an inference tensor like the batch.
        with torch.inference_mode(False):
            found = SampleSet(images, labels, regions, image_key(batch, images), inputs)
            return found.each(lambda tensor: tensor.detach().clone())

    def collected(self) -> SampleSet | None:
        """Return what this run has given so far, None if nothing.

        Raises:
            InputError: the images are of different sizes.
        """
        if not self._collected:
            return None
        return concat(self._collected)

    def keep(self, samples: SampleSet, steady: bool | None = None) -> list[int]:
        """From now on these samples are explained.

        Args:
            samples: as the model takes them.
            steady: whether they were the same when they were read again, None if they were not.

        Returns:
            The numbers of those that look otherwise than in the checkpoint that the run resumes
            from.
        """
        self.known, self._collected, self.steady = samples, [], steady
        expected, self.expected = self.expected, None
        if expected is None:
            return []
        return differing(SampleSet(thumbnails(samples.images), samples.labels), expected)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs to find the samples again, on the CPU.

        Nothing of given tensors, which a resumed run is given again; of samples by index, small
        pictures by which they are recognized, if they look the same each time; all of the
        first samples, because a loader that shuffles would give others. Empty as long as the
        samples are not known.
        """
        if self.known is None or self.are_given:
            return {}
        if self.indices is not None and self.steady:
            return {
                "thumbnails": thumbnails(self.known.images),
                "labels": self.known.to("cpu").labels,
                "steady": self.steady,
            }
        known = self.known.to("cpu")
        return {
            "images": known.images,
            "labels": known.labels,
            "regions": dict(known.regions),
            "key": known.key,
            "steady": self.steady,
            # Older versions know nothing of them.
            **({"inputs": dict(known.inputs)} if known.inputs else {}),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the samples of a checkpoint, or how they look, unless tensors were given.

        Args:
            state: from :meth:`state_dict`, or of version 0.1, which held samples by index too.

        Raises:
            Exception: there is something else in it. Nothing has changed then.
        """
        if not state or self.are_given:
            return
        if "thumbnails" in state:
            expected = SampleSet(state["thumbnails"], state["labels"])
            if len(expected) != self.count or expected.images.dim() != 4:
                raise ValueError("thumbnails")
            self.expected, self.steady = expected, state.get("steady")
            return
        inputs = dict(state.get("inputs", {}))
        regions = dict(state["regions"])
        known = SampleSet(state["images"], state["labels"], regions, state["key"], inputs)
        if known.images.dim() != 4:
            raise ValueError("images")
        self.known, self.steady = known, state.get("steady")


def concat(parts: Sequence[SampleSet]) -> SampleSet:
    """Return several sets of samples as one.

    Args:
        parts: at least one, all on one device.

    Raises:
        InputError: the images are of different sizes.
    """
    shapes = {tuple(part.images.shape[1:]) for part in parts}
    if len(shapes) > 1:
        raise InputError(
            "Expected validation images of one size, got "
            + " and ".join(str(shape) for shape in sorted(shapes))
            + ". Explain samples of one size: samples=[indices], or samples=(images, labels)."
        )
    labels = [part.labels for part in parts if part.labels is not None]
    return SampleSet(
        torch.cat([part.images for part in parts]),
        torch.cat(labels) if len(labels) == len(parts) else None,
        {
            name: torch.cat([part.regions[name] for part in parts])
            for name in parts[0].regions
            if all(name in part.regions for part in parts)
        },
        parts[0].key,
        {
            name: torch.cat([part.inputs[name] for part in parts])
            for name in parts[0].inputs
            if all(name in part.inputs for part in parts)
        },
    )


def thumbnails(images: Tensor) -> Tensor:
    """Return small pictures by which images are recognized, (N, C, h, w), float16, on the CPU.

    Args:
        images: (N, C, H, W).
    """
    size = min(_THUMBNAIL, images.shape[2]), min(_THUMBNAIL, images.shape[3])
    small = F.adaptive_avg_pool2d(images.detach().cpu().double(), size)
    return small.clamp(*(float(v) for v in _HALF_RANGE)).half()


def unlike(first: Tensor, second: Tensor) -> list[int]:
    """Return the numbers of the pictures that differ by more than rounding and compression.

    Args:
        first: (N, C, h, w).
        second: (N, C, h, w); of another size, all differ.
    """
    if first.shape != second.shape:
        return list(range(len(first)))
    one, other = first.double(), second.double()
    most = SAME * float(one.abs().max())
    return [int(n) for n in ((one - other).abs().flatten(1).amax(1) > most).nonzero().flatten()]


def differing(first: SampleSet, second: SampleSet) -> list[int]:
    """Return the numbers of the samples whose picture, label or region differs.

    Pictures are the same up to the rounding of other precisions and devices. What only one of the
    two has, more samples for instance, is not compared.

    Args:
        first: N samples.
        second: M samples.
    """
    count = min(len(first), len(second))
    if first.images.shape[1:] != second.images.shape[1:]:
        return list(range(count))
    images = [each.images[:count].detach().cpu() for each in (first, second)]
    differ = torch.zeros(count, dtype=torch.bool)
    differ[unlike(*images)] = True
    pairs = [(first.labels, second.labels)]
    pairs += [(first.regions[n], second.regions[n]) for n in first.regions if n in second.regions]
    for one, other in pairs:
        if one is not None and other is not None:
            differ |= _unequal(one[:count].cpu(), other[:count].cpu())
    return [int(number) for number in differ.nonzero().flatten()]


def _unequal(one: Tensor, other: Tensor) -> Tensor:
    if one.shape != other.shape:
        return torch.ones(len(one), dtype=torch.bool)
    return (one != other).reshape(len(one), -1).any(1)


def _checked_pair(pair: Sequence[Any]) -> SampleSet:
    images, labels = pair if len(pair) == 2 else (None, None)
    if not isinstance(images, Tensor) or images.dim() != 4 or len(images) == 0:
        raise InputError(
            "Expected samples to be a pair of tensors, images (N, C, H, W) and labels (N,) or "
            f"None, got {len(pair)} entries with the first "
            + (f"of shape {tuple(images.shape)}." if isinstance(images, Tensor) else "no tensor.")
        )
    if labels is not None and (not isinstance(labels, Tensor) or len(labels) != len(images)):
        came = len(labels) if isinstance(labels, Tensor) else type(labels).__name__
        raise InputError(
            f"Expected one label for each of the {len(images)} images in samples, got {came}."
        )
    with torch.inference_mode(False):
        return SampleSet(images.detach().clone(), None if labels is None else labels.clone())


def _checked_indices(spec: Any) -> list[int]:
    is_list = isinstance(spec, Sequence) and not isinstance(spec, (str, bytes))
    if not is_list or not all(isinstance(i, int) and not isinstance(i, bool) for i in spec):
        raise InputError(
            "Expected samples to be a number of samples (8), a list of indices into the "
            "validation dataset ([0, 5, 17]), or a pair of tensors (images, labels), got "
            f"{spec!r}."
        )
    indices: list[int] = list(spec)
    if not indices:
        raise InputError("Expected at least one index in samples, got an empty list.")
    if min(indices) < 0:
        raise InputError(
            f"Expected indices into the validation dataset that are >= 0, got {min(indices)}."
        )
    twice = sorted({index for index in indices if indices.count(index) > 1})
    if twice:
        raise InputError(
            f"Expected each index in samples once, got {twice[0]} more than once. Remove it: the "
            "same sample would only be explained twice."
        )
    return indices
