"""What was found of the methods when they were tried: their layers, and which do not apply."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any, Literal, TypeAlias

from lightning.pytorch.utilities.rank_zero import rank_zero_only

from lightning_saliency.attribution.gradient_bases import SpatialMethod
from lightning_saliency.callbacks.explanation import NamedMethod
from lightning_saliency.callbacks.failures import warn
from lightning_saliency.network.grid import Layout, TokenGrid

OnInapplicable: TypeAlias = Literal["raise", "skip"]
"""A method that does not apply to the module ends the run before training, or is left out."""

_log = logging.getLogger("lightning_saliency")


class FoundMethods:
    """Says once what was found, and keeps it for runs that go on from a checkpoint.

    Args:
        methods: as the user gave them.

    Attributes:
        inapplicable: by name of the method, why it does not apply on this process.
    """

    def __init__(self, methods: Sequence[NamedMethod]) -> None:
        self.inapplicable: dict[str, str] = {}
        self._open = {entry.name: entry.method.describe() for entry in methods}
        self._said: dict[str, str] = {}
        self._layers: dict[str, dict[str, Any]] = {}
        self._skipped: dict[str, str] = {}

    def say(self, methods: Sequence[NamedMethod], inapplicable: Mapping[str, str]) -> None:
        """Log layer, grid and dropped tokens of each method, and warn of what is left out, once.

        Args:
            methods: prepared.
            inapplicable: why the others are left out.
        """
        for name, why in inapplicable.items():
            if name not in self._skipped:
                warn(
                    f"{name} is skipped, because it does not apply to the module; the other "
                    f"methods run. {why}"
                )
        self._skipped.update(inapplicable)
        for entry in methods:
            self._keep(entry)
            found = entry.method.found
            if found and self._said.get(entry.name) != found:
                self._said[entry.name] = found
                _log_found(entry.name, found)

    def state_dict(self) -> dict[str, Any]:
        """Return for a checkpoint what was found and said."""
        return {
            "methods": dict(self._open),
            "layers": {name: dict(each) for name, each in self._layers.items()},
            "said": dict(self._said),
            "skipped": dict(self._skipped),
        }

    def load_state_dict(
        self, state: Mapping[str, Any], methods: Sequence[NamedMethod]
    ) -> list[NamedMethod]:
        """Return the methods with the layers that the run before has found.

        Args:
            state: from :meth:`state_dict`.
            methods: of this run; those with other settings than before are as given.

        Raises:
            Exception: there is something else in the state. Nothing has changed then.
        """
        same = {name for name, words in state["methods"].items() if self._open.get(name) == words}
        said = {str(n): str(words) for n, words in state["said"].items() if n in same}
        skipped = {str(n): str(why) for n, why in state["skipped"].items() if n in same}
        layers = {name: dict(each) for name, each in state["layers"].items() if name in same}
        found = [
            NamedMethod(each.name, _with_layer(each.method, layers[each.name], said.get(each.name)))
            if each.name in layers
            else each
            for each in methods
        ]
        self._said, self._skipped, self._layers = said, skipped, layers
        return found

    def _keep(self, entry: NamedMethod) -> None:
        method = entry.method
        if isinstance(method, SpatialMethod) and (
            isinstance(method.layout, (str, TokenGrid)) and method.found
        ):
            layout = method.layout if isinstance(method.layout, str) else asdict(method.layout)
            self._layers[entry.name] = {"layer": method.saliency_layer, "layout": layout}


@rank_zero_only
def _log_found(name: str, found: str) -> None:
    _log.info("%s explains %s.", name, found)


def _with_layer(method: Any, found: Mapping[str, Any], words: str | None) -> Any:
    """Return a method with the layer that was found for it, and the words that say so."""
    layer, given = found["layer"], found["layout"]
    if not isinstance(layer, str):
        raise TypeError("layer")
    known = {field.name for field in fields(TokenGrid)}
    layout: Layout = TokenGrid(**given) if isinstance(given, Mapping) else given
    if isinstance(given, Mapping) and set(given) != known:
        raise TypeError("layout")
    located = replace(method, saliency_layer=layer, layout=layout)
    object.__setattr__(located, "_found", words or "")
    return located
