"""Where in the image the places of every layer's output lie, found by experiment.

The model runs once on an image and on noisy copies of it, whose noise grows down the rows or along
the columns. How strongly a place answers to noise everywhere, and to each kind of growing noise,
says how much it depends on the image and where the part that it depends on has its center.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lightning_saliency.network.layers import layer_names

Centers = NDArray[np.float64]
"""Shape (3, ...): for each place how much it answers, and where (row, column) the part of the image
lies that it answers to, as fractions of its height and width; NaN where it does not answer."""

_DRAWS = 2
PROBES = 1 + 3 * _DRAWS
"""How many images one probe runs through the model."""

_NOISE = 0.3  # in standard deviations of the image
# Of the strongest answer; less is rounding.
_SILENT = 1e-9


@dataclass
class Probed:
    """What a layer put out.

    Attributes:
        name: of the layer.
        shape: of its output for one image, without the batch.
        batch_axis: which axis of the output counts the images, 0 or 1.
        centers: by the axis that holds the channels (of the output without the batch).
        is_input: whether this is what entered the layer, not what came out.
    """

    name: str
    shape: tuple[int, ...]
    batch_axis: int
    centers: dict[int, Centers] = field(default_factory=dict)
    is_input: bool = False


def probe_places(model: nn.Module, image: Tensor) -> list[Probed]:
    """Return the centers of all layers' places, in the order in which the layers finished.

    Of layers that put out no single float tensor of three or four dimensions, or that ran several
    times, nothing is returned. The model runs once on :data:`PROBES` images; if it does not take
    as many, once on each. Call this inside
    :func:`~lightning_saliency.network.isolation.undisturbed.undisturbed`.

    Args:
        model: in eval mode.
        image: (N, C, H, W), what the model takes; the first one is used.
    """
    images = _noisy(image[:1].detach())
    watch = _Watch(len(images))
    try:
        _run(model, images, watch.note)
    except (RuntimeError, ValueError, IndexError, AssertionError):
        # A batch of another size than the model was made for, or too little memory.
        watch = _Watch(len(images))
        runs: list[list[_Event]] = []
        for one in torch.split(images, 1):
            runs.append([])
            _run(model, one, lambda event: runs[-1].append(event.kept()))
        for events in zip(*runs, strict=True):
            watch.note(events[0].joined(events))
    return watch.found()


@dataclass(frozen=True)
class _Event:
    """Something went into a layer, or came out of it."""

    name: str
    value: object
    is_input: bool

    def kept(self) -> _Event:
        value = self.value.clone() if isinstance(self.value, Tensor) else None
        return _Event(self.name, value, self.is_input)

    def joined(self, events: Sequence[_Event]) -> _Event:
        values = [event.value for event in events if isinstance(event.value, Tensor)]
        same = len(values) == len(events) and len({value.shape for value in values}) == 1
        rows = same and values[0].dim() > 0 and len(values[0]) == 1
        return _Event(self.name, torch.cat(values) if rows else None, self.is_input)


def _run(model: nn.Module, images: Tensor, note: Callable[[_Event], None]) -> None:
    def entered(name: str) -> Callable[..., None]:
        return lambda _m, inputs: note(_Event(name, inputs[0] if inputs else None, True))

    def left(name: str) -> Callable[..., None]:
        return lambda _m, _inputs, output: note(_Event(name, output, False))

    # A layer that the model holds under several names goes by the first.
    layers = {layer: name for name, layer in reversed(layer_names(model).items())}
    handles = []
    try:
        for layer, name in layers.items():
            if not isinstance(layer, torch.jit.ScriptModule):
                handles.append(layer.register_forward_pre_hook(entered(name)))
                handles.append(layer.register_forward_hook(left(name)))
        with torch.no_grad():
            # A clone, because the model may write into its input.
            model(images.clone())
    finally:
        for handle in handles:
            handle.remove()


def _noisy(image: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    height, width = image.shape[2:]
    scale = _NOISE * float(image.float().std(correction=0)) or _NOISE
    noise = scale * torch.randn(_DRAWS, *image.shape[1:], generator=generator)
    # The variance of the noise grows from 0 to 1; so the answers' energy weighs each pixel by it.
    rows = ((torch.arange(height) + 0.5) / height).sqrt()[:, None]
    columns = ((torch.arange(width) + 0.5) / width).sqrt()
    added = torch.cat([torch.zeros(1, *image.shape[1:]), noise, noise * rows, noise * columns])
    return image + added.to(image)


class _Watch:
    """Keeps the centers of what goes in and out of the layers."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._runs: Counter[str] = Counter()
        self._probed: list[tuple[Probed, list[Tensor]]] = []
        self._seen: set[tuple[int, ...]] = set()

    def note(self, event: _Event) -> None:
        value = event.value
        self._runs[event.name] += not event.is_input
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return
        axis = next((a for a in (0, 1) if a < value.dim() and value.shape[a] == self._count), None)
        if axis is None or value.dim() not in (3, 4) or (axis == 1 and value.dim() == 4):
            return
        # Of inputs, only what no layer has put out before: where tokens are put together, those
        # that belong to no place can still be told.
        tokens = tuple(value.shape[:2])
        if not event.is_input or (value.dim() == 3 and tokens not in self._seen):
            self._seen.add(tokens)
            shape = tuple(value.shape[:axis] + value.shape[axis + 1 :])
            probed = Probed(event.name, shape, axis, is_input=event.is_input)
            self._probed.append((probed, _energies(value.movedim(axis, 0))))

    def found(self) -> list[Probed]:
        """Return what was kept of layers that ran once."""
        kept = [
            (each, energies)
            for each, energies in self._probed
            if each.is_input or self._runs[each.name] == 1
        ]
        # All come from the device at once.
        every = [part for _, energies in kept for part in energies]
        flat = torch.cat([part.flatten() for part in every]).cpu() if every else torch.empty(0)
        parts = iter(torch.split(flat, [part.numel() for part in every]))
        for each, energies in kept:
            for axis, part in zip((0, len(each.shape) - 1), energies, strict=True):
                each.centers[axis] = _centers(next(parts).reshape(part.shape))
        return [each for each, _ in kept]


def _energies(value: Tensor) -> list[Tensor]:
    """Return how strongly the places answer to each kind of noise, (3, ...), on the device.

    Args:
        value: (images, ...); the channels come first or last of the other axes.

    Returns:
        Summed over the first of these axes, and over the last.
    """
    energies = (value[1:] - value[:1]).float().square_()
    energies = energies.reshape(3, _DRAWS, *energies.shape[1:]).sum(1)
    return [energies.sum(1), energies.sum(value.dim() - 1)]


def _centers(energies: Tensor) -> Centers:
    strength, rows, columns = energies.double().numpy()
    answers = strength > _SILENT * strength.max(initial=0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        # Not quite fractions where the answers are not linear in the noise.
        places = np.stack([rows / strength, columns / strength]).clip(0, 1)
    return np.concatenate([strength[None], np.where(answers, places, np.nan)])
