"""Where a model runs, and in which dtype."""

from __future__ import annotations

import torch

from jpu.errors import ModelError


def pick_device(device: str = "auto") -> torch.device:
    """The device to run on: the named one, or CUDA where there is one, else the CPU."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The weights' dtype: the named one, or bfloat16 on CUDA and float32 on the CPU.

    Raises:
        ModelError: The name is no floating dtype that models are run in.
    """
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if dtype not in known:
        raise ModelError(f"unknown dtype {dtype!r}", mend=f"Use auto or one of {', '.join(known)}.")
    return known[dtype]
