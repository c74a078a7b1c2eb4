"""What pictures and reports call a class."""

from collections.abc import Sequence

__all__ = ["class_name"]


def class_name(index: int, names: Sequence[str] | None) -> str:
    """Return what is shown for a class.

    Args:
        index: of the class; below 0 if there is none.
        names: of all classes, in the order of the model's outputs; None if they are not known.

    Returns:
        Its name, ``"class 3"`` if it has none, or ``"no class"``.
    """
    if index < 0:
        return "no class"
    if names is None or index >= len(names):
        return f"class {index}"
    return names[index]
