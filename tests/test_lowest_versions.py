"""What is tested as the lowest versions is what pyproject.toml names."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Not ours: matplotlib brings it along.
NOT_NAMED = {"pyparsing"}


def test_lowest_versions_are_those_named() -> None:
    if sys.version_info < (3, 11):
        pytest.skip("tomllib came with Python 3.11")
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    named = {}
    for line in [*project["dependencies"], *extras["demo"], *extras["coco"], *extras["dev"]]:
        found = re.fullmatch(r"([\w.-]+)(?:\[[\w,]+\])?>=([\d.]+)", line)
        if found:
            named[found[1]] = found[2]
    lines = (ROOT / "tests/lowest.txt").read_text().splitlines()
    tested = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    assert named.keys() == tested.keys() - NOT_NAMED
    for name, lowest in named.items():
        parts = len(lowest.split("."))
        assert tested[name].split(".")[:parts] == lowest.split("."), name
