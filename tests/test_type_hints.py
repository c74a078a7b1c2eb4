"""Every annotation of a public class, function or method means something at run time, too."""

import typing

import pytest
from test_public_api import CALLABLES, OBJECTS

# The parts that keep this so far.
PARTS = ("attribution", "image", "network", "trust", "benchmark", "evaluation", "cli")


def test_type_hints_can_be_read() -> None:
    problems = []
    for name, found in {**OBJECTS, **CALLABLES}.items():
        try:
            typing.get_type_hints(found)
        except NameError as error:
            problems.append(f"{name}: {error}")
    assert [problem for problem in problems if problem.startswith(PARTS)] == []


def test_a_hint_that_cannot_be_read_would_be_seen() -> None:
    def function(image: "NoSuchName") -> None: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(NameError):
        typing.get_type_hints(function)
