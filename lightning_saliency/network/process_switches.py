"""What is switched for the whole process while a model explains; threads share the switches."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.utils.checkpoint


class SharedSwitch:
    """Something of the whole process that is switched as long as any thread wants it so.

    The first thread switches, the last one switches back, in whatever order they end.

    Args:
        switch: switches, and returns what switches back.
    """

    def __init__(self, switch: Callable[[], Callable[[], object]]) -> None:
        self._switch = switch
        self._lock = threading.Lock()
        self._users = 0
        self._back: Callable[[], object] = bool

    @contextmanager
    def on(self) -> Iterator[None]:
        """Have it switched inside."""
        with self._lock:
            if self._users == 0:
                self._back = self._switch()
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    self._back()


def eager_code() -> Any:
    """Run compiled modules eagerly: a hook that is added later is skipped by compiled code.

    While one thread is inside, compiled code of other threads runs eagerly, too.
    """
    return _eager.on()


def no_anomaly_detection() -> Any:
    """Switch anomaly detection off, for which a map of a broken sample would end a run."""
    return _anomaly.on()


@contextmanager
def kept_activations() -> Iterator[None]:
    """Let parts of the model that are checkpointed the reentrant way run as if they were not.

    Such a checkpoint refuses gradients with respect to an image; of the few images that are
    explained, the activations can be kept. Other checkpoints need no help. In other threads they
    are checkpointed as ever.
    """
    with _checkpoints.on():
        _here.depth = getattr(_here, "depth", 0) + 1
        try:
            yield
        finally:
            _here.depth -= 1


_here = threading.local()


def _switch_compiler() -> Callable[[], object]:
    stance = torch.compiler.set_stance("force_eager")
    return lambda: stance.__exit__(None, None, None)


def _switch_anomaly() -> Callable[[], object]:
    before = torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()
    if before[0]:
        torch.autograd.set_detect_anomaly(False)

    def back() -> None:
        if before != (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()):
            torch.autograd.set_detect_anomaly(*before)

    return back


def _switch_checkpoints() -> Callable[[], object]:
    checkpoints: Any = torch.utils.checkpoint
    original = checkpoints.CheckpointFunction

    class RunsOnce:
        """Takes the place of the autograd function of reentrant checkpoints."""

        @staticmethod
        def apply(function: Callable[..., Any], preserve_rng_state: bool, *args: Any) -> Any:
            if getattr(_here, "depth", 0):
                return function(*args)
            return original.apply(function, preserve_rng_state, *args)

    def back() -> None:
        # Unless somebody else has put something in its place since.
        if checkpoints.CheckpointFunction is RunsOnce:
            checkpoints.CheckpointFunction = original

    checkpoints.CheckpointFunction = RunsOnce
    return back


_eager = SharedSwitch(_switch_compiler)
_anomaly = SharedSwitch(_switch_anomaly)
_checkpoints = SharedSwitch(_switch_checkpoints)
