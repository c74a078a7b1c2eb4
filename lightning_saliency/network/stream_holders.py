"""State that is not in attributes: random streams, positions in files, numbers of NumPy."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from typing_extensions import override

from lightning_saliency.network.holders import MISSING, Holder, same_entries


class RandomStream(Holder):
    """The state of a generator of random numbers of the model's own."""

    def __init__(self, owner: Any) -> None:
        self.owner = owner

    @override
    def take(self) -> Any:
        if isinstance(self.owner, torch.Generator):
            return self.owner.get_state()
        if isinstance(self.owner, random.Random):
            return self.owner.getstate()
        if isinstance(self.owner, np.random.Generator):
            return self.owner.bit_generator.state
        if isinstance(self.owner, np.random.RandomState):
            return self.owner.get_state(legacy=False)
        return self.owner.state

    @override
    def same(self, kept: Any) -> bool:
        now = self.take()
        return torch.equal(now, kept) if isinstance(now, torch.Tensor) else repr(now) == repr(kept)

    @override
    def put(self, kept: Any) -> None:
        if isinstance(self.owner, torch.Generator):
            self.owner.set_state(kept)
        elif isinstance(self.owner, random.Random):
            self.owner.setstate(kept)
        elif isinstance(self.owner, np.random.Generator):
            self.owner.bit_generator.state = kept
        elif isinstance(self.owner, np.random.RandomState):
            self.owner.set_state(kept)
        else:
            self.owner.state = kept


class FilePosition(Holder):
    """Where a file that is open for reading is read next."""

    def __init__(self, owner: Any) -> None:
        self.owner = owner

    @override
    def take(self) -> Any:
        try:
            return MISSING if self.owner.closed else self.owner.tell()
        except (OSError, ValueError):
            return MISSING

    @override
    def same(self, kept: Any) -> bool:
        return bool(self.take() == kept)

    @override
    def put(self, kept: Any) -> None:
        if kept is not MISSING:
            self.owner.seek(kept)


class ArrayValues(Holder):
    """The numbers of an array of NumPy."""

    def __init__(self, owner: np.ndarray[Any, Any]) -> None:
        self.owner = owner
        # Not by the methods of a class of its own.
        self._numbers = np.asarray(owner)

    @override
    def take(self) -> np.ndarray[Any, Any]:
        return self._numbers.copy()

    @override
    def same(self, kept: np.ndarray[Any, Any]) -> bool:
        if self.owner.shape != kept.shape or self.owner.dtype != kept.dtype:
            return False
        if self.owner.dtype.hasobject:
            return same_entries(self._numbers.flat, kept.flat)
        return self._numbers.tobytes() == kept.tobytes()

    @override
    def put(self, kept: np.ndarray[Any, Any]) -> None:
        if self.owner.shape != kept.shape:
            self.owner.resize(kept.shape, refcheck=False)
        np.asarray(self.owner)[...] = kept
