"""What a replay has done so far, so that a stopped one goes on."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from lightning_saliency.errors import InputError
from lightning_saliency.replaying.files import Checkpoint

STATE = "replay_state.pt"
"""The file, in the folder of the replay."""
_VERSION = 1


class ReplayState:
    """The file in which a replay keeps where it is, and what its callbacks know.

    Args:
        folder: of the replay.
        callbacks: of the replay, in their order.
    """

    def __init__(self, folder: Path, callbacks: Sequence[pl.Callback]) -> None:
        self._path = folder / STATE
        self._callbacks = callbacks
        self._kinds = [type(callback).__name__ for callback in callbacks]

    def load(self, checkpoints: Sequence[Checkpoint]) -> int:
        """Give the callbacks what they knew, if there was a replay before.

        Args:
            checkpoints: of this replay, in order.

        Returns:
            How many of them are done.

        Raises:
            InputError: the file is damaged, or of another replay.
        """
        if not self._path.exists():
            return 0
        try:
            state = torch.load(self._path, map_location="cpu", weights_only=True)
            done = [tuple(place) for place in state["done"]]
            version, kinds, states = state["version"], state["kinds"], state["callbacks"]
        except Exception as error:
            raise InputError(
                f"Expected {self._path} to be what a stopped replay has left, but it cannot be "
                f"read ({type(error).__name__}). Remove it to replay from the first checkpoint."
            ) from error
        ours = [_mark(each) for each in checkpoints]
        if version != _VERSION or kinds != self._kinds or ours[: len(done)] != done:
            raise InputError(
                f"Expected {self._path} to be of the replay of these checkpoints by these "
                "callbacks, but it is of another one. Give another output folder, or remove the "
                "file to replay from the first checkpoint."
            )
        for callback, each in zip(self._callbacks, states, strict=True):
            callback.load_state_dict(each)
        return len(done)

    def save(self, done: Sequence[Checkpoint]) -> None:
        """Keep what is known; the file is the new one or the old one.

        Args:
            done: the checkpoints so far.
        """
        state: dict[str, Any] = {
            "version": _VERSION,
            "kinds": self._kinds,
            "done": [_mark(each) for each in done],
            "callbacks": [callback.state_dict() for callback in self._callbacks],
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        part = self._path.with_suffix(".part")
        torch.save(state, part)
        os.replace(part, self._path)


def _mark(checkpoint: Checkpoint) -> tuple[str, int, int]:
    return checkpoint.path.name, checkpoint.epoch, checkpoint.step
