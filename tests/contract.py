"""The methods that the contract tests enrol: whatever ``attribution.__all__`` has."""

import inspect
from typing import Any

from lightning_saliency import attribution
from lightning_saliency.attribution import AttributionMethod
from lightning_saliency.attribution.gradient_bases import ExcitationMethod, RectifiedGradient

# Settings that make an expensive method cheap.
CHEAP: dict[str, dict[str, Any]] = {
    "ExtremalPerturbation": {"max_iter": 3},
    "RISE": {"num_masks": 16},
}

METHODS: dict[str, type[AttributionMethod]] = {
    name: found
    for name in attribution.__all__
    if isinstance(found := getattr(attribution, name), type)
    and issubclass(found, AttributionMethod)
    and not inspect.isabstract(found)
}

# These replace functions while the model runs, and cannot do so inside compiled code.
BACKWARD_RULE_METHODS = [
    name
    for name, method in METHODS.items()
    if issubclass(method, (RectifiedGradient, ExcitationMethod))
]


def make_method(name: str, **settings: Any) -> AttributionMethod:
    """Return the method with default settings but for the cheap ones and ``settings``."""
    return METHODS[name](**{**CHEAP.get(name, {}), **settings})
