"""Give torch functions another derivative while a model runs, without touching the model."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from types import TracebackType
from typing import Any, TypeAlias

from torch import Tensor
from torch.overrides import TorchFunctionMode

from lightning_saliency.errors import InputError, ModelError, NothingReplacedError, SaliencyError
from lightning_saliency.network.torch_functions import (
    ACTIVATIONS,
    TorchFunction,
    function_key,
    function_name,
    spellings,
)

INSTEAD = "AttnLRP, which has rules for GELU, SiLU, gates and attention"
"""What messages propose where a rule does not apply."""

_KNOWN_FUNCTIONS = ("torch.", "lightning_saliency.")

Rule: TypeAlias = Callable[..., Any]
"""Called with the arguments of the function in whose place it stands; returns the value that the
function would return, in place where the function works in place, by a
``torch.autograd.Function`` whose ``backward`` is another one. ``NotImplemented`` stands for: this
call is none of mine, let it be."""

Rules: TypeAlias = Mapping[TorchFunction | str, Rule | None]
"""A rule for each function, such as ``{torch.nn.functional.gelu: my_rule}``; a name such as
``"gelu"`` stands for every spelling of it. ``None`` stands for the function's ordinary derivative
in every spelling, where it would otherwise be refused."""


class BackwardRules(TorchFunctionMode):
    """A context in which the model that runs gets the derivatives of ``rules``.

    Only the forward pass runs inside. The rules become part of the graph that it records, so the
    backward pass is an ordinary one. Neither torch nor the model is changed, and other threads
    notice nothing.

    Functions are recognized as Python calls them. Not seen are: what runs inside a scripted or
    traced model, inside a ``torch.autograd.Function`` of the model's own, or inside one function
    of torch that stands for a whole network part (``torch.nn.functional.multi_head_attention_
    forward``); and formulas that amount to such a function, such as ``x * (x > 0)`` for ReLU.

    Args:
        rules: see :data:`Rules`. Each spelling is a function of its own:
            :func:`~lightning_saliency.network.torch_functions.spellings` lists them.
        refused: names of functions (``"gelu"``) whose ordinary derivative would make the result
            something else than the method. A function with an entry in ``rules`` is not refused.
        method: what the rules make, for the messages.
        strict: False leaves the checks on leaving to the caller, see :attr:`problem`.
        only_torch: whether functions of the model's own are to be refused
            (:func:`refuse_custom_functions`), which who takes the gradient does.
        check: called by who takes the gradient with the scores (N,); raises if what they were
            computed by is outside of the rules.

    Raises:
        NothingReplacedError: on leaving, if no function was replaced.
        ModelError: on leaving, if a refused function was called.

    Example:
        >>> import torch
        >>> class Straight(torch.autograd.Function):
        ...     @staticmethod
        ...     def forward(ctx, x):
        ...         return x.round()
        ...
        ...     @staticmethod
        ...     def backward(ctx, gradient):
        ...         return gradient
        >>> x = torch.tensor([0.4, 1.6], requires_grad=True)
        >>> with BackwardRules({torch.round: Straight.apply}):
        ...     y = torch.round(x)
        >>> torch.autograd.grad(y.sum(), x)
        (tensor([1., 1.]),)
    """

    def __init__(
        self,
        rules: Rules,
        *,
        refused: Collection[str] = (),
        method: str = "the backward rule",
        strict: bool = True,
        only_torch: bool = False,
        check: Callable[[Tensor], None] | None = None,
    ) -> None:
        super().__init__()
        self._rules = _by_function(rules)
        self._refused = frozenset(refused)
        self.method = method
        self.only_torch = only_torch
        self.check = check
        self._strict = strict
        # By function, because a look at each one's name would cost more than the call.
        self._replaced: Counter[TorchFunction] = Counter()
        self._ordinary: Counter[TorchFunction] = Counter()

    def __enter__(self) -> "BackwardRules":
        self._replaced.clear()
        self._ordinary.clear()
        enter: Callable[[], object] = super().__enter__
        enter()
        return self

    def __torch_function__(
        self,
        func: TorchFunction,
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call the rule for ``func`` if there is one, else ``func``."""
        kwargs = kwargs or {}
        key = function_key(func)
        rule = self._rules.get(key)
        if rule is not None:
            result = rule(*args, **kwargs)
            if result is not NotImplemented:
                self._replaced[key] += 1
                return result
        self._ordinary[key] += 1
        return func(*args, **kwargs)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        leave: Callable[..., object] = super().__exit__
        leave(kind, error, trace)
        if kind is None and self._strict and self.problem is not None:
            raise self.problem

    @property
    def replaced(self) -> Counter[str]:
        """How often each function was given another derivative, by plain name."""
        return _by_name(self._replaced)

    @property
    def ordinary(self) -> Counter[str]:
        """How often each other function was called, by plain name."""
        return _by_name(self._ordinary)

    @property
    def problem(self) -> SaliencyError | None:
        """Why the result would be something else than the method; None if all is well."""
        if not self.replaced:
            met = {name: n for name, n in self.ordinary.items() if name in ACTIVATIONS}
            return NothingReplacedError(
                f"Expected the model to call a function that {self.method} gives another backward "
                f"rule ({_some(self._rules)}), but it called none, so the result would be the "
                f"plain gradient. {_activations(met)} Take {INSTEAD}, or give a rule of your own: "
                "rules={torch function: rule}."
            )
        refusals = self._refusals()
        if refusals:
            return ModelError(
                f"Expected a model whose activations {self.method} is defined for, but it calls "
                f"{_calls(refusals)}, for which it says nothing; with their ordinary "
                f"derivative the map would be something else. Take {INSTEAD}, or give your own "
                "rules; where other activations have one, {'"
                + next(iter(refusals))
                + "': None} keeps "
                "the ordinary derivative."
            )
        return None

    def _refusals(self) -> Counter[str]:
        # A rule that let the call be does not make it any better; None says that it is all right.
        bad = {
            f: n for f, n in self._ordinary.items() if self._rules.get(f) or f not in self._rules
        }
        return Counter({name: n for name, n in _by_name(bad).items() if name in self._refused})


def refuse_custom_functions(output: Tensor, method: str) -> None:
    """Raise if a graph holds a ``torch.autograd.Function`` of the model's own.

    What it computes is not seen, so a rule for it cannot be found: it may be an activation.

    Args:
        output: of any shape, such as scores (N,).
        method: what the rules make, for the message.

    Raises:
        ModelError: it does.
    """
    waiting, seen = [output.grad_fn], set()
    names = set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        waiting.extend(inner for inner, _ in node.next_functions)
        # A function of torch has no class of its own in the graph.
        function = getattr(type(node), "_forward_cls", None)
        if function is not None and not function.__module__.startswith(_KNOWN_FUNCTIONS):
            names.add(function.__name__)
    if names:
        raise ModelError(
            f"Expected a model of torch's functions for {method}, but it calls "
            f"{' and '.join(sorted(names))}, a torch.autograd.Function of its own, for which there "
            "is no rule. Use the plain form of it (as packages offer for export), or take a "
            "method without rules, such as Gradient or GradCAM."
        )


def _by_name(calls: Mapping[TorchFunction, int]) -> Counter[str]:
    names: Counter[str] = Counter()
    for function, count in calls.items():
        names[function_name(function)] += count
    return names


def _by_function(rules: Rules) -> dict[TorchFunction, Rule | None]:
    """Return the rules with each name, and each function without a rule, in all its spellings.

    Raises:
        InputError: no function of torch has such a name.
    """
    found: dict[TorchFunction, Rule | None] = {}
    for key, rule in rules.items():
        if isinstance(key, str) or rule is None:
            name = key if isinstance(key, str) else function_name(key)
            every = spellings(name, f"{name}_")
            if isinstance(key, str) and not every:
                raise InputError(
                    f"Expected names of functions of torch in rules, such as 'gelu', got {key!r}."
                )
            found.update((function_key(function), rule) for function in every)
        if not isinstance(key, str):
            found[function_key(key)] = rule
    return found


def _some(functions: Iterable[TorchFunction]) -> str:
    names = list(dict.fromkeys(map(function_name, functions)))
    return ", ".join(names[:4]) + (f" or {len(names) - 4} others" if len(names) > 4 else "")


def _activations(met: Mapping[str, int]) -> str:
    return f"Its activations are {_calls(met)}." if met else "It has no activation that is known."


def _calls(counts: Mapping[str, int]) -> str:
    return ", ".join(
        f"{name} (called {'once' if n == 1 else f'{n} times'})" for name, n in counts.items()
    )
