"""What every test gets: one thread, and a check that it left the global state as it was."""

import os
from collections.abc import Iterator

import pytest
import torch

# Lightning's own use of it, already when it is imported.
os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")

# Before they are imported, so that a failing assert in them says what differs.
pytest.register_assert_rewrite("traces", "untouched")


# Many small operations: more threads only wait for one another.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _global_state_is_left_alone() -> Iterator[None]:
    from traces import differences, global_flags

    before = global_flags()
    yield
    assert differences(before, global_flags()) == []
