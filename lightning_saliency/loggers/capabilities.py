"""Which methods an object really has.

Lightning's ``DummyLogger`` (under ``fast_dev_run``) and the experiment of every rank above zero
have an attribute of any name and do nothing, so ``hasattr`` is useless for them.
"""

import inspect

__all__ = ["answers_to_any_name", "has_attribute", "has_method"]


def has_method(owner: object, name: str) -> bool:
    """Return whether ``owner`` defines the method, rather than answering to any name.

    Args:
        owner: anything.
        name: of the method.
    """
    return has_attribute(owner, name) and callable(getattr(owner, name))


def has_attribute(owner: object, name: str) -> bool:
    """Return whether ``owner`` or its class holds the attribute; runs no code of theirs.

    Args:
        owner: anything.
        name: of the attribute, method or property.
    """
    missing = object()
    return inspect.getattr_static(owner, name, missing) is not missing


def answers_to_any_name(owner: object) -> bool:
    """Return whether ``owner`` has an attribute of any name, as Lightning's placeholders do.

    Args:
        owner: anything.
    """
    return hasattr(owner, "no_logger_has_an_attribute_of_this_name")
