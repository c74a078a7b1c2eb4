"""Where objects keep their attributes, and whose attributes are none of a model's."""

from __future__ import annotations

from types import MemberDescriptorType
from typing import Any

# What belongs to the run, to other threads or to the machinery of a library.
_LEFT_ALONE = (
    *("lightning.", "lightning_fabric.", "pytorch_lightning.", "lightning_saliency."),
    *("torch.optim.", "torch.distributed.", "torch.utils.data.dataloader.", "torch.jit."),
    *("torch.utils.tensorboard.", "torch._dynamo.", "torch._inductor.", "torch._functorch."),
    *("torch.fx.", "torch._ops.", "torch._C.", "torch.cuda.", "tensorboard.", "wandb."),
    *("mlflow.", "comet_ml.", "neptune.", "tqdm.", "rich.", "logging.", "threading.", "_thread."),
    *("multiprocessing.", "concurrent.", "queue.", "_queue.", "asyncio.", "weakref.", "_weakref."),
    *("socket.", "_socket.", "subprocess.", "contextvars.", "_contextvars.", "importlib."),
    *("ctypes.", "_ctypes.", "unittest.", "_pytest.", "pytest."),
)


def is_left_alone(kind: type) -> bool:
    """Whether objects of a class belong to the run, to other threads or to a library's machinery.

    Args:
        kind: a class; one that is derived from such a class is left alone, too.
    """
    return any(
        f"{each.__module__}.".startswith(_LEFT_ALONE)
        for each in kind.__mro__
        if each.__module__ != "builtins"
    )


def attributes_of(thing: Any) -> dict[str, Any] | None:
    """Return the dict of an object's attributes, None if it has none.

    Args:
        thing: of any class, whatever that does when it is asked for an attribute.
    """
    try:
        table = object.__getattribute__(thing, "__dict__")
    except AttributeError:
        return None
    return table if type(table) is dict else None


def slots_of(kind: type) -> tuple[MemberDescriptorType, ...]:
    """Return what gives access to the attributes that a class keeps in ``__slots__``.

    Args:
        kind: a class.
    """
    found = _slots.get(kind)
    if found is None:
        if len(_slots) >= _MOST_CLASSES:
            # It would keep classes alive that their makers have forgotten.
            _slots.clear()
        found = _slots[kind] = tuple(
            value
            for each in kind.__mro__
            if "__slots__" in vars(each)
            for value in vars(each).values()
            if isinstance(value, MemberDescriptorType)
        )
    return found


_MOST_CLASSES = 4096
_slots: dict[type, tuple[MemberDescriptorType, ...]] = {}
