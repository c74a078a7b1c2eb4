import pickle

import pytest

from lightning_saliency import errors

ERRORS = [getattr(errors, name) for name in errors.__all__ if name.endswith("Error")]


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: e.__name__)
def test_every_error_is_caught_by_the_base(error: type[Exception]) -> None:
    assert issubclass(error, errors.SaliencyError)
    message = pickle.loads(pickle.dumps(error("Expected this, got that.")))
    assert str(message) == "Expected this, got that."


@pytest.mark.parametrize(
    "error", [e for e in ERRORS if e is not errors.SaliencyError], ids=lambda e: e.__name__
)
def test_every_error_is_also_one_of_python(error: type[Exception]) -> None:
    built_in = {cls for cls in error.__mro__ if cls.__module__ == "builtins"}
    assert built_in - {Exception, BaseException, object}


def test_warning_is_a_user_warning() -> None:
    assert issubclass(errors.SaliencyWarning, UserWarning)
    assert not issubclass(errors.SaliencyWarning, errors.SaliencyError)


@pytest.mark.parametrize("name", errors.__all__)
def test_tree_in_the_docstring_is_whole(name: str) -> None:
    parents = [parent.__name__ for parent in getattr(errors, name).__bases__]
    (line,) = [line for line in (errors.__doc__ or "").splitlines() if f" {name} " in line]
    assert any(parent in line or parent in errors.__all__ for parent in parents)


def test_all_lists_every_class() -> None:
    classes = [n for n, v in vars(errors).items() if isinstance(v, type) and not n.startswith("_")]
    assert sorted(classes) == errors.__all__
