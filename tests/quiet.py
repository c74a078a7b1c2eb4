"""The warnings of Lightning and torch that tests let through; all others are errors."""

from collections.abc import Callable
from typing import Any

import pytest


def ignored(*messages: str) -> list[pytest.MarkDecorator]:
    """Return marks that ignore warnings whose beginning matches one of the regular expressions."""
    return [pytest.mark.filterwarnings(f"ignore:{message}") for message in messages]


# What Lightning says of small runs on purpose.
QUIET = ignored(
    ".*does not have many workers.*",
    ".*is smaller than the logging interval.*",
    ".*isinstance.treespec, (Leaf|Tree)Spec.*",
    ".*exists and is not empty.*",
    ".*`weights_only` was not set.*",
    ".*Skipping val loop.*",
    ".*sampler has shuffling enabled.*",
    "The dirpath has changed.*",
    "Found .* module.s. in eval mode at the start of training",
    "GPU available but not used.*",
)

# What comes with more than one process; Lightning's own gathering calls all_gather.
SEVERAL_PROCESSES = ignored(
    "It is recommended to use .self.log.'val_loss'.*",
    "torch.distributed.nn.functional.all_gather is deprecated",
    ".*use of fork\\(\\) may lead to deadlocks.*",
)


def several_processes(test: Callable[..., Any]) -> Callable[..., Any]:
    """Mark one test with :data:`SEVERAL_PROCESSES`."""
    for mark in SEVERAL_PROCESSES:
        test = mark(test)
    return test
