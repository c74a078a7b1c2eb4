"""What can go wrong, as one small tree.

Every error is also the built-in exception that a caller would catch without knowing this package::

    SaliencyError (Exception)
    ├── InputError (ValueError)          an image, a target or a setting cannot be used
    ├── LayerError (LookupError)         a layer does not exist, or did not run as it must
    ├── ModelError (RuntimeError)        the model does not have what the method needs
    │   ├── NoGradientError              the score does not depend on the image by derivatives
    │   └── NothingReplacedError         a backward rule found nothing in the model to act on
    ├── MethodError (RuntimeError)       an attribution method returned something that is no map
    ├── DependencyError (ImportError)    an optional package is not installed
    └── DownloadError (OSError)          weights or pictures could not be fetched

    SaliencyWarning (UserWarning)        the result is less than was asked for

The messages say what was expected, what came, and what to do.
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
    """The model does not have what the method needs, so its map would be another method's."""


class NoGradientError(ModelError):
    """The score does not depend on the image, or on a layer, in a differentiable way."""


class NothingReplacedError(ModelError):
    """A backward rule met no function that it replaces; the result would be the plain gradient."""


class MethodError(SaliencyError, RuntimeError):
    """An attribution method returned something that is not one map for each image."""


class DependencyError(SaliencyError, ImportError):
    """An optional package is not installed."""


class DownloadError(SaliencyError, OSError):
    """Weights or pictures that do not come with this package could not be fetched."""


class SaliencyWarning(UserWarning):
    """An explanation is missing or worth less than was asked for; the message says why."""
