"""The exceptions of this package, as one small tree.

Every error is also the built-in exception that a caller would catch without knowing this package::

    SaliencyError (Exception)
    ├── InputError (ValueError)          an image, a target or a setting cannot be used
    ├── LayerError (LookupError)         a layer does not exist, or did not run as it must
    ├── ModelError (RuntimeError)        the model does not have what the method needs
    │   ├── NoGradientError              the score does not depend differentiably on the image
    │   └── NothingReplacedError         a backward rule found no function to replace
    ├── MethodError (RuntimeError)       an attribution method did not return valid maps
    ├── DependencyError (ImportError)    an optional package is not installed
    └── DownloadError (OSError)          weights or pictures could not be fetched

    SaliencyWarning (UserWarning)        something is missing or less reliable than requested

The messages say what was expected, what was received, and what to do.
"""

__all__ = [
    "DependencyError",
    "DownloadError",
    "InputError",
    "LayerError",
    "MethodError",
    "ModelError",
    "NoGradientError",
    "NothingReplacedError",
    "SaliencyError",
    "SaliencyWarning",
]


class SaliencyError(Exception):
    """Base of every error that this package raises on purpose."""


class InputError(SaliencyError, ValueError):
    """An image, a target or a setting cannot be used."""


class LayerError(SaliencyError, LookupError):
    """A layer does not exist, did not run, ran several times, or has the wrong kind of output."""


class ModelError(SaliencyError, RuntimeError):
    """The model lacks something that the method needs, so the map would be wrong."""


class NoGradientError(ModelError):
    """The score does not depend on the image, or on a layer, in a differentiable way."""


class NothingReplacedError(ModelError):
    """A backward rule found no function to replace; the result would be the plain gradient."""


class MethodError(SaliencyError, RuntimeError):
    """An attribution method did not return one map for each image."""


class DependencyError(SaliencyError, ImportError):
    """An optional package is not installed."""


class DownloadError(SaliencyError, OSError):
    """Weights or pictures that do not come with this package could not be fetched."""


class SaliencyWarning(UserWarning):
    """An explanation is missing or less reliable than requested; the message says why."""
