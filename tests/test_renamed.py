import importlib

import pytest

from lightning_saliency.renamed import keep_old_names

OLD_NAMES = [
    ("metrics", "comparable", "canonical"),
    ("metrics", "creep_score", "page_hinkley_score"),
    ("rendering", "ColourScale", "ColorScale"),
    ("rendering", "colour_scale", "color_scale"),
    ("rendering", "thin", "select_frames"),
]


@pytest.mark.parametrize(("package", "old", "new"), OLD_NAMES)
def test_old_names_still_work_and_say_the_new_one(package: str, old: str, new: str) -> None:
    module = importlib.import_module(f"lightning_saliency.{package}")
    assert old not in module.__all__
    with pytest.warns(DeprecationWarning, match=new):
        assert getattr(module, old) is getattr(module, new)


def test_other_names_are_missing_as_usual() -> None:
    module = importlib.import_module("lightning_saliency.metrics")
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        module.nothing  # noqa: B018
    assert not hasattr(module, "nothing")


def test_an_old_name_never_hides_a_new_one() -> None:
    module = importlib.import_module("lightning_saliency.metrics")
    found = module.degenerate
    before = module.__getattr__
    keep_old_names(module.__name__, {"degenerate": "canonical"})
    try:
        assert module.degenerate is found
    finally:
        module.__getattr__ = before
