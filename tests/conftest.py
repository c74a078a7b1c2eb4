"""What every test gets: one thread, and a check that it left the global state as it was."""

import os
import sys
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

    before, imported = global_flags(), set(sys.modules)
    yield
    after = global_flags()
    if not imported.issuperset(sys.modules):
        # Packages such as scipy and requests add warning filters when they are imported.
        known = before["warning filters"]
        after["warning filters"] = [each for each in after["warning filters"] if each in known]
    assert differences(before, after) == []
