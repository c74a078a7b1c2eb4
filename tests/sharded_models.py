"""The usual tiny model with its weights sharded over a group of one process."""

import pytest
import torch
from tiny_models import make_model
from torch import nn


def make_sharded() -> nn.Module:
    """Return the model in training mode; needs :func:`~processes.process_group`."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    if not hasattr(torch.cpu.current_stream(), "record_event"):
        pytest.skip(f"torch {torch.__version__} shards weights on accelerators only")
    mesh = init_device_mesh("cpu", (1,))
    model = make_model()
    fully_shard(model.features, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model.train()
