"""Old spellings of public names, so that code written for them keeps working."""

import sys
import warnings
from collections.abc import Mapping


def keep_old_names(package: str, new_names: Mapping[str, str]) -> None:
    """Let a package answer to names that it had before, with a ``DeprecationWarning``.

    Call it once, at the end of the package's ``__init__``. Neither type checkers nor editors see
    the old names, so new code will not use them. Any other name is an ``AttributeError``, as usual.

    Args:
        package: ``__name__`` of the package.
        new_names: the present name by the old one; both are names in the package.

    Example:
        >>> import lightning_saliency.rendering as rendering
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     rendering.ColourScale is rendering.ColorScale
        True
        >>> print(caught[0].message)
        lightning_saliency.rendering.ColourScale is now called ColorScale.
    """
    module = sys.modules[package]

    def __getattr__(name: str) -> object:  # noqa: N807
        if name not in new_names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        warnings.warn(
            f"{package}.{name} is now called {new_names[name]}.", DeprecationWarning, stacklevel=2
        )
        return getattr(module, new_names[name])

    vars(module)["__getattr__"] = __getattr__
