"""Everything that a look into a model could leave behind, as values to compare exactly."""

import gc
import hashlib
import random
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

HOOK_TABLES = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)
GLOBAL_HOOK_TABLES = (
    "_global_forward_hooks",
    "_global_forward_pre_hooks",
    "_global_backward_hooks",
    "_global_backward_pre_hooks",
)


def bits(tensor: Tensor | None) -> str:
    """Return dtype, shape, device and a digest of the very bits of a tensor."""
    if tensor is None:
        return "none"
    if hasattr(tensor, "to_local"):
        # Of a sharded tensor, this process's part.
        tensor = tensor.to_local()
    if tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
        # FSDP gives memory of gathered weights back, and keeps the tensor.
        return f"{tensor.dtype} {tuple(tensor.shape)} {tensor.device} without memory"
    # A clone, because memory that NumPy has seen can never again be resized.
    flat = tensor.detach().cpu().clone().contiguous().reshape(-1)
    digest = hashlib.sha1(flat.view(torch.uint8).numpy().tobytes()).hexdigest()
    return f"{tensor.dtype} {tuple(tensor.shape)} {tensor.device} {digest}"


def random_streams() -> dict[str, object]:
    """Return the states of the three random streams of the CPU."""
    return {
        "random stream of torch": bits(torch.get_rng_state()),
        "random stream of numpy": repr(np.random.get_state()[1].tolist())  # type: ignore[index]
        + repr(np.random.get_state()[2:]),
        "random stream of python": repr(random.getstate()),
    }


def global_flags() -> dict[str, Any]:
    """Return the flags of torch that a look into a model may switch."""
    module = torch.nn.modules.module
    return {
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "anomaly detection": (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
        "autocast cpu": (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")),
        "autocast cuda": (torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")),
        "autocast cache": torch.is_autocast_cache_enabled(),
        "default dtype": torch.get_default_dtype(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "matmul precision": torch.get_float32_matmul_precision(),
        "threads": torch.get_num_threads(),
        "function modes": torch._C._len_torch_function_stack(),
        "dispatch modes": torch._C._len_torch_dispatch_stack(),
        "compiler stance": torch._dynamo.eval_frame._stance.stance,
        "global hooks": [len(getattr(module, table)) for table in GLOBAL_HOOK_TABLES],
        "warning filters": [each for each in warnings.filters if not _is_of_the_compiler(each)],
        "numpy errors": np.geterr(),
        "fast path of attention": torch.backends.mha.get_fastpath_enabled(),
        "tiny numbers": float(torch.full((), 1e-40) * 1),
        "numbers printed": (torch._tensor_str.PRINT_OPTS.precision, np.get_printoptions()),
        "garbage collector": gc.isenabled(),
        "recursion": sys.getrecursionlimit(),
    }


def _is_of_the_compiler(entry: tuple[Any, ...]) -> bool:
    """Whether torch's compiler has put a warning filter there: 2.6 does so in each call."""
    action, message, category, module, line = entry
    return (
        (action, message, category, line) == ("ignore", None, UserWarning, 0)
        and module is not None
        and module.pattern == "torch.distributed"
    )


def module_state(model: nn.Module) -> dict[str, object]:
    """Return flags, hooks, weights, buffers and gradients of a model, the same in every run."""
    state: dict[str, object] = {}
    for name, module in model.named_modules():
        state[f"training flag of '{name}'"] = module.training
        state[f"kind of '{name}'"] = type(module).__name__
        for table in HOOK_TABLES:
            state[f"{table} of '{name}'"] = len(getattr(module, table))
    for name, parameter in model.named_parameters(remove_duplicate=False):
        state[f"parameter '{name}'"] = bits(parameter)
        state[f"requires_grad of '{name}'"] = parameter.requires_grad
        state[f"gradient of '{name}'"] = bits(parameter.grad)
    for name, buffer in model.named_buffers(remove_duplicate=False):
        state[f"buffer '{name}'"] = bits(buffer)
        state[f"requires_grad of buffer '{name}'"] = buffer.requires_grad
    return state


def object_identities(model: nn.Module) -> dict[str, object]:
    """Return the objects that a model is made of; compared with ``is``."""
    found: dict[str, object] = {f"module '{n}'": m for n, m in model.named_modules()}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        found[f"parameter '{name}'"] = parameter
        found[f"gradient of '{name}'"] = parameter.grad
    for name, buffer in model.named_buffers(remove_duplicate=False):
        found[f"buffer '{name}'"] = buffer
    for name, module in model.named_modules():
        for table in HOOK_TABLES:
            for key, hook in getattr(module, table).items():
                found[f"{table}[{key}] of '{name}'"] = hook
    return found


def differences(before: dict[str, object], after: dict[str, object]) -> list[str]:
    """Return the names of what differs, in order."""
    names = [*before, *(name for name in after if name not in before)]
    missing = object()
    return [name for name in names if before.get(name, missing) != after.get(name, missing)]


@contextmanager
def leaves_no_trace(model: nn.Module, *tensors: Tensor) -> Iterator[None]:
    """Fail unless ``model``, ``tensors`` and the global state are afterwards what they were.

    Works around a block that raises, too.
    """

    def look() -> dict[str, object]:
        found = {**random_streams(), **global_flags(), **module_state(model)}
        for number, tensor in enumerate(tensors):
            found[f"tensor {number}"] = (bits(tensor), tensor.requires_grad)
            if not tensor.is_inference():
                found[f"writes to tensor {number}"] = tensor._version
        return found

    before, objects = look(), object_identities(model)
    gradients = [tensor.grad for tensor in tensors if tensor.is_leaf]
    try:
        yield
    finally:
        assert differences(before, look()) == []
        now = object_identities(model)
        assert [name for name in objects if now.get(name) is not objects[name]] == []
        assert list(now) == list(objects)
        still = [tensor.grad for tensor in tensors if tensor.is_leaf]
        assert all(a is b for a, b in zip(gradients, still, strict=True))
