"""Models that keep something for themselves when they run, one of each kind."""

from __future__ import annotations

import array
import contextvars
import functools
import io
import itertools
import random
import sys
import threading
import weakref
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import kept_elsewhere.counting
import numpy as np
import torch
import torch.nn.functional as F
from tiny_models import make_model
from torch import Tensor, nn

CALLS = 0
SEEN: list[float] = []


class Stateful(nn.Module):
    """The usual model, whose answer depends on how often it has run.

    Subclasses have a ``step()`` that changes something and returns the number of runs so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.inner = make_model()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x * (1 + 0.1 * float(self.step(x))))

    def step(self, x: Tensor) -> Any:
        raise NotImplementedError


class Attribute(Stateful):
    calls = 0

    def step(self, x: Tensor) -> int:
        self.calls += 1
        return self.calls


class Layer(nn.Identity):
    """Not the model itself but a part of it counts."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.calls


class InALayer(Stateful):
    def __init__(self) -> None:
        super().__init__()
        self.part = Layer()

    def step(self, x: Tensor) -> Tensor:
        return self.part(torch.ones(()))


class Containers(Stateful):
    """Lists, dicts, sets and deques, empty ones and full ones, each inside another."""

    def __init__(self) -> None:
        super().__init__()
        self.list: list[Any] = []
        self.nested = {"a": [{1}, deque([1.0], maxlen=3)], "b": ([0],)}
        self.ordered = OrderedDict(first=1, second=2)
        self.default: defaultdict[str, list[int]] = defaultdict(list)
        self.counter = Counter(a=1)
        self.bytes = bytearray(b"a")

    def step(self, x: Tensor) -> float:
        self.list.append(x.mean().item())
        self.nested["a"][0].add(len(self.list) + 1)
        self.nested["a"][1].append(float(len(self.list)))
        self.nested["b"][0][0] += 1
        self.nested.setdefault("c", []).append(len(self.nested))
        self.ordered.move_to_end("first")
        self.ordered[f"new {len(self.ordered)}"] = 1
        self.default["x"].append(1)
        self.counter["a"] += 1
        self.bytes += b"b"
        sizes = [self.list, self.nested["a"][0], self.ordered, self.default["x"], self.bytes]
        return sum(map(len, sizes)) + self.nested["b"][0][0] + self.counter["a"]


@dataclass
class Config:
    scale: float = 1.0
    history: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Frozen:
    values: list[int] = field(default_factory=list)


class Slotted:
    __slots__ = ("calls", "late")

    def __init__(self) -> None:
        self.calls = 0


class Objects(Stateful):
    """Other objects' attributes, slots, and what cannot be set from outside."""

    def __init__(self) -> None:
        super().__init__()
        self.config, self.frozen, self.slotted = Config(), Frozen(), Slotted()
        self.names = SimpleNamespace(calls=0)
        self.bound = self.config.history.append

    def step(self, x: Tensor) -> float:
        self.config.scale += 1
        self.bound(1.0)
        self.frozen.values.append(1)
        self.slotted.calls += 1
        self.slotted.late = self.slotted.calls
        self.names.calls += 1
        lengths = len(self.config.history) + len(self.frozen.values)
        return self.config.scale + lengths + self.slotted.calls + self.names.calls


class RunningAttribute(Stateful):
    """Tensors that are no buffers, replaced and written to."""

    def __init__(self) -> None:
        super().__init__()
        self.level = torch.zeros(())
        self.memory = [torch.zeros(3)]
        self.view = torch.arange(4.0)[1:3]

    def step(self, x: Tensor) -> Tensor:
        self.level = 0.9 * self.level + x.detach().abs().mean()
        self.memory[0].mul_(0.9).add_(x.detach().mean())
        self.view.add_(1)
        return self.level + self.memory[0].sum() + self.view.sum()


class CaughtInTheGraph(Stateful):
    """A tensor that becomes a part of the graph in place."""

    def __init__(self) -> None:
        super().__init__()
        self.level = torch.zeros(())

    def step(self, x: Tensor) -> Tensor:
        self.level.mul_(0.9).add_(x.mean())
        return self.level.detach()


class OwnStreams(Stateful):
    def __init__(self) -> None:
        super().__init__()
        self.torch = torch.Generator().manual_seed(1)
        self.numpy, self.legacy = np.random.default_rng(1), np.random.RandomState(1)
        self.python = random.Random(1)

    def step(self, x: Tensor) -> float:
        drawn = torch.rand(1, generator=self.torch).item() + float(self.numpy.random())
        return drawn + float(self.legacy.rand()) + self.python.random()


class Arrays(Stateful):
    def __init__(self) -> None:
        super().__init__()
        self.array, self.objects = np.zeros(3), np.array([[1], None], dtype=object)

    def step(self, x: Tensor) -> float:
        self.array[0] += 1
        self.objects[0].append(1)
        self.objects[1] = 2
        return float(self.array.sum()) + len(self.objects[0])


def _closure() -> Callable[[], int]:
    calls, seen = 0, [0]

    def count() -> int:
        nonlocal calls
        calls += 1
        seen.append(calls)
        return calls + len(seen)

    return count


class Functions(Stateful):
    """What functions keep: closures, defaults, attributes, partials."""

    def __init__(self) -> None:
        super().__init__()
        self.count, self.store = _closure(), functools.partial(list.append, [])

    def remember(self, seen: list[int] = []) -> int:  # noqa: B006
        seen.append(1)
        Functions.remember.calls = getattr(Functions.remember, "calls", 0) + 1  # type: ignore
        return len(seen) + Functions.remember.calls  # type: ignore[attr-defined]

    def step(self, x: Tensor) -> int:
        self.store(1)
        return self.count() + self.remember() + len(self.store.args[0])


class ClassAttribute(Stateful):
    """Counts in its class, for all of its kind."""

    runs = 0
    seen: list[int] = []  # noqa: RUF012

    def step(self, x: Tensor) -> int:
        type(self).runs += 1
        self.seen.append(1)
        type(self).late = type(self).runs  # type: ignore[attr-defined]
        return self.runs + len(self.seen)


class Globals(Stateful):
    def step(self, x: Tensor) -> int:
        return _count_globally()


def _count_globally() -> int:
    global CALLS
    CALLS += 1
    SEEN.append(1.0)
    return CALLS + len(SEEN)


class GlobalsOfAModuleOfAPackage(Stateful):
    """Named by two dots, called and assigned."""

    def step(self, x: Tensor) -> int:
        kept_elsewhere.counting.SEEN.calls += 1
        kept_elsewhere.counting.CALLS += 1
        return kept_elsewhere.counting.count() + kept_elsewhere.counting.SEEN.calls


class LateGlobals(Stateful):
    """Globals that are not there before the first pass."""

    def step(self, x: Tensor) -> int:
        global _late
        _late = globals().get("_late", 0) + 1
        globals()["_later"] = globals().get("_later", 0) + 1
        return int(_late + globals()["_later"])


class OwnIterator:
    def __init__(self) -> None:
        self.calls = 0

    def __next__(self) -> int:
        self.calls += 1
        return self.calls


def _numbered() -> Callable[[], int]:
    numbers = itertools.count(5, 2)
    return lambda: next(numbers)


class Iterators(Stateful):
    """Those of Python that can be copied, in attributes, lists, closures; and one of the user's."""

    places = iter(range(1, 500))

    def __init__(self) -> None:
        super().__init__()
        self.own, self.numbered = OwnIterator(), _numbered()
        self.number, self.entry = itertools.count(1), [iter([*range(1, 500)])]
        self.kept = self.number

    def step(self, x: Tensor) -> int:
        following = next(self.number), next(self.own), next(self.entry[0]), self.numbered()
        assert self.kept is self.number
        return sum(following) + next(self.places)


class Cycles(Stateful):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.later = itertools.cycle([1, 2, 5]), itertools.cycle((1, 4, 9))
        for _ in range(4):
            next(self.later)

    def step(self, x: Tensor) -> int:
        return next(self.first) + next(self.later)


if sys.version_info >= (3, 14):
    # Python cannot take cycles apart any more.
    del Cycles


class Bytes(Stateful):
    """Memory of Python's own: arrays, bytes, files in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers, self.bytes = array.array("d", [0.5]), bytearray(b"01")
        self.view = memoryview(bytearray(8))
        self.file, self.text = io.BytesIO(bytes(range(100))), io.StringIO("12345")

    def step(self, x: Tensor) -> float:
        self.numbers[0] += 1
        self.numbers.append(2)
        self.bytes[0] += 1
        self.view[3] += 1
        self.text.write("more")
        read = self.file.read(1)[0] + len(self.text.getvalue())
        return read + sum(self.numbers) + self.bytes[0] + self.view[3]


class OfThisThread(Stateful):
    def __init__(self) -> None:
        super().__init__()
        self.local, self.empty = threading.local(), threading.local()
        self.local.calls = 0
        self.variable = contextvars.ContextVar[int]("calls", default=0)

    def step(self, x: Tensor) -> int:
        self.local.calls += 1
        self.empty.calls = getattr(self.empty, "calls", 0) + 1
        self.variable.set(self.variable.get() + 1)
        return int(self.local.calls + self.empty.calls) + self.variable.get()


class WeakKeys(Stateful):
    def __init__(self) -> None:
        super().__init__()
        self.calls: Any = weakref.WeakKeyDictionary()
        self.known: Any = weakref.WeakValueDictionary()

    def step(self, x: Tensor) -> int:
        self.calls[self.inner] = self.calls.get(self.inner, 0) + 1
        self.known[len(self.known)] = self.inner
        return int(self.calls[self.inner]) + len(self.known)


class ParameterAttributes(Stateful):
    """Keeps a list at a weight of a layer that only reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 1, 1)
        self.layer.weight.seen = []  # type: ignore[attr-defined]

    def step(self, x: Tensor) -> int:
        weight: Any = self.layer.weight
        weight.seen.append(1)
        weight.calls = getattr(weight, "calls", 0) + 1
        return len(weight.seen) + int(weight.calls)


class InstallsHooks(Stateful):
    """Hooks and a flag that stands for them, at the first pass."""

    def __init__(self) -> None:
        super().__init__()
        self.ready = False

    def step(self, x: Tensor) -> float:
        if not self.ready:
            self.caught: list[Tensor] = []
            self.inner.features.register_forward_hook(lambda *a: self.caught.append(a[2].mean()))
            self.handle = self.inner.head.register_forward_pre_hook(lambda *_: None)
            self.ready = True
        return len(self.caught)


class ReplacesForward(Stateful):
    """Puts another function in the place of a layer's forward."""

    def step(self, x: Tensor) -> float:
        old, scale = self.inner.head.forward, len(self.inner.head.__dict__)
        self.inner.head.forward = lambda x: old(x) * 1.5  # type: ignore[method-assign]
        return scale % 7


class MakesModules(Stateful):
    """Makes a layer when it is first needed, and replaces another one."""

    def step(self, x: Tensor) -> float:
        if not hasattr(self, "late"):
            self.late = nn.Linear(1, 1)
        self.inner.features[0] = self.inner.features[0].__class__(3, 6, 3, padding=1)
        return len(self._modules)


class HiddenModules(Stateful):
    """Holds a module where parameters() does not find it, and writes to its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = [nn.BatchNorm2d(3), nn.Linear(2, 2)]

    def step(self, x: Tensor) -> Tensor:
        self.hidden[0](x.detach())
        with torch.no_grad():
            self.hidden[1].weight.mul_(1.1)
        return self.hidden[0].running_mean.sum() + self.hidden[1].weight.sum().detach()


class ReadsAFile(Stateful):
    def __init__(self) -> None:
        super().__init__()
        self.file = io.BufferedReader(io.BytesIO(bytes(range(200))))  # type: ignore[arg-type]
        self.late: Any = None

    def step(self, x: Tensor) -> int:
        if self.late is None:
            self.late = io.BufferedReader(io.BytesIO())  # type: ignore[arg-type]
        return self.file.read(1)[0] % 5


class ChangesLayers(Stateful):
    """Changes settings of its layers."""

    def step(self, x: Tensor) -> float:
        self.inner.hidden[1].p = 0.1
        self.inner.features[1].momentum *= 0.5
        self.inner.features[1].eps *= 2
        self.inner.features[2].inplace = False
        return self.inner.features[1].eps * 1e5


class Renormalises(Stateful):
    """A stock layer that writes to its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4, max_norm=0.5)

    def step(self, x: Tensor) -> Tensor:
        return self.embedding((x.detach().mean((1, 2, 3)) * 10).long() % 5).sum().detach()


class CopiesWeights(Stateful):
    def step(self, x: Tensor) -> float:
        weight = self.inner.head.weight
        with torch.no_grad():
            weight.copy_(F.normalize(weight) * 1.1 + weight)
        return 0.0


class AssignsData(Stateful):
    def step(self, x: Tensor) -> float:
        self.inner.head.weight.data = F.normalize(self.inner.head.weight.data) * 1.1
        self.inner.features[0].weight.data.mul_(1.1)
        return 0.0


class WritesThroughNumpy(Stateful):
    def step(self, x: Tensor) -> float:
        for name, weight in self.inner.named_parameters():
            if name.endswith("bias"):
                weight.detach().numpy()[0] += 0.1
        return 0.0


class WritesThroughAKeptReference(Stateful):
    """Has the weights in a list of its own, as an averaging of weights does."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = list(self.inner.parameters())
        self.average = [weight.detach().clone() for weight in self.weights]

    def step(self, x: Tensor) -> float:
        for weight, average in zip(self.weights, self.average, strict=True):
            average.mul_(0.9).add_(weight.detach(), alpha=0.1)
            weight.data.copy_(average)
        return 0.0


class ReplacesParameters(Stateful):
    def step(self, x: Tensor) -> float:
        head = self.inner.head
        head.weight = nn.Parameter(head.weight * 1.1)
        head.register_parameter("extra", nn.Parameter(torch.ones(1)))
        self.inner.features[0].bias = None
        return len(head._parameters)


class FreesMemory(Stateful):
    """Gives the memory of its weights back and asks for it again, as sharded models do."""

    def step(self, x: Tensor) -> float:
        storage = self.inner.head.weight.untyped_storage()
        values = self.inner.head.weight.detach().clone()
        size = storage.nbytes()
        storage.resize_(0)
        storage.resize_(size)
        self.inner.head.weight.data.copy_(values * 1.1)
        return 0.0


class KeepsGradients(Stateful):
    """A parameter of its own that is in no module's table, with a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.own = [torch.ones(2, requires_grad=True)]
        self.own[0].grad = torch.full((2,), 3.0)

    def step(self, x: Tensor) -> float:
        self.own[0].grad = torch.zeros(2)
        return float((self.own[0] * 2).sum().detach())


KINDS: list[type[Stateful]] = [
    kind
    for kind in list(globals().values())
    if isinstance(kind, type) and issubclass(kind, Stateful) and kind is not Stateful
]


# --- what cannot be put back ------------------------------------------------------------------


class RunningGenerator(Stateful):
    def __init__(self) -> None:
        super().__init__()
        self.stream = (number for number in itertools.count())

    def step(self, x: Tensor) -> int:
        return next(self.stream)


class Guarded(Stateful):
    """Keeps its state where other threads work with it."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = SimpleNamespace(calls=0, lock=threading.Lock())

    def step(self, x: Tensor) -> int:
        self.shared.calls += 1
        return self.shared.calls


class CountsInAFile(Stateful):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def step(self, x: Tensor) -> int:
        with self.path.open("a") as file:
            file.write("x")
        return self.path.stat().st_size


def forget_globals() -> None:
    """Begin anew with what models keep outside of themselves."""
    global CALLS
    CALLS = 0
    SEEN.clear()
    kept_elsewhere.counting.forget()
    for name in ("_late", "_later"):
        globals().pop(name, None)
    Iterators.places = iter(range(1, 500))
    ClassAttribute.runs = 0
    ClassAttribute.seen.clear()
    if "late" in vars(ClassAttribute):
        del ClassAttribute.late  # type: ignore[attr-defined]
    vars(Functions.remember).clear()
    assert Functions.remember.__defaults__ is not None
    Functions.remember.__defaults__[0].clear()
