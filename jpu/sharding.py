"""The frozen weights of a model divided among processes: FSDP2 on the decoder layers, each gathered while it runs.

What is trained, the adapter, is whole in every process, and so are embeddings, norm and head: code that reads adapters
by name, or the table of embeddings, need not know of this, and hooks inside a layer see it whole. Frozen weights have
no gradients, so nothing is scattered on the way back.

Not covered: base weights that are trained, an adapter attached later, offloading. All processes make the same passes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard


def shard_layers(model: Any, size: int, device: torch.device) -> None:
    """Divide the layers of a model that is on the CPU, and bring everything to a device.

    A layer is moved and divided before the next one is, so no device has to hold the whole model.

    Args:
        model: Causal language model with its adapter.
        size: Processes of the default process group.
        device: This process's.
    """
    bare = model.get_base_model() if hasattr(model, "get_base_model") else model
    trunk, mesh = bare.model, init_device_mesh(device.type, (size,))
    for layer in trunk.layers:
        fully_shard(layer, mesh=mesh, ignored_params=_adapter(layer))
    inside = {p for layer in trunk.layers for p in layer.parameters()}
    # The root of the layers, without weights of its own: it gathers the next layer while one runs.
    fully_shard(trunk, mesh=mesh, ignored_params={p for p in trunk.parameters() if p not in inside} | _adapter(trunk))
    model.to(device)


def _adapter(module: Any) -> set[Any]:
    return {parameter for name, parameter in module.named_parameters() if "lora_" in name}
