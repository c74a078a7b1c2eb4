"""The named callbacks have all settings of their method and of the callback, as they are there."""

from __future__ import annotations

import dataclasses
import inspect
import pickle
from pathlib import Path

import pytest
from contract import CHEAP, METHODS
from small_runs import QUIET, events, fit

import lightning_saliency
from lightning_saliency import SaliencyCallback
from lightning_saliency.attribution import AttributionMethod

pytestmark = QUIET


def named(method: str) -> type[SaliencyCallback]:
    found = getattr(lightning_saliency, f"{method}Callback")
    assert issubclass(found, SaliencyCallback)
    return found


def parameters(callback: type[SaliencyCallback]) -> dict[str, object]:
    found = inspect.signature(callback.__init__).parameters.values()
    return {p.name: p.default for p in found if p.name not in ("self", "method")}


@pytest.mark.parametrize("method", METHODS)
def test_the_settings_are_those_of_the_method_and_of_the_callback(method: str) -> None:
    of_method = {field.name: field.default for field in dataclasses.fields(METHODS[method])}
    of_callback = parameters(SaliencyCallback)
    assert not of_method.keys() & of_callback.keys()
    found = parameters(named(method))
    assert found == of_method | of_callback
    assert list(found)[-len(of_callback) :] == list(of_callback)


@pytest.mark.parametrize("method", METHODS)
def test_each_setting_arrives(method: str) -> None:
    changed = {"smooth": 0.25, "resize_mode": "nearest", **CHEAP.get(method, {})}
    callback = named(method)(**changed, samples=[3, 1], every_n_epochs=4, name="mine")
    (entry,) = callback._explainer.methods
    assert isinstance(entry.method, METHODS[method])
    assert isinstance(entry.method, AttributionMethod)
    assert {name: getattr(entry.method, name) for name in changed} == changed
    assert callback._samples.indices == [3, 1]
    assert callback._every_n_epochs == 4
    assert callback._families == {f"mine/saliency/{entry.method.name}"}


@pytest.mark.parametrize("method", METHODS)
def test_it_can_be_pickled_for_other_processes(method: str) -> None:
    copy = pickle.loads(pickle.dumps(named(method)(samples=3)))
    assert copy._explainer.methods == named(method)()._explainer.methods
    assert copy._samples.count == 3


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.filterwarnings("ignore:Expected excitation maps that sum to 1")
def test_it_explains_with_its_defaults(method: str, tmp_path: Path) -> None:
    cheap = CHEAP[method] if method in ("RISE", "ExtremalPerturbation") else {}
    fit(tmp_path, named(method)(**cheap, samples=2), max_epochs=1)
    tag = f"saliency/samples/{METHODS[method].name}/1"
    assert [event.step for event in events(tmp_path).Images(tag)] == [3]
