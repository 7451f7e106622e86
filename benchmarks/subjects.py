"""Subjects of random weights, for what can be measured without a taught one."""

from __future__ import annotations

import tempfile
from pathlib import Path

from transformers import LlamaConfig, LlamaForCausalLM

from jpu.models import Subject
from jpu.sandbox.corpus import Corpus
from jpu.sandbox.teach import train_tokenizer
from jpu.sandbox.templates import all_templates
from jpu.sandbox.world import build_behaviors, build_places, build_refusals

# Names of the sandbox's splits.
PLACES = {"train": 6, "validation": 1, "test": 6}


def random_subject(
    *, layers: int = 2, hidden: int = 32, neurons: int = 64, heads: int = 2, key_heads: int = 2
) -> Subject:
    """A Llama of random weights with the sandbox's tokenizer and chat format."""
    behaviors = build_behaviors(build_places(7, PLACES), 7)
    tokenizer = train_tokenizer(Corpus(behaviors, all_templates(), build_refusals(), 0), 600, samples=300)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=neurons,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
    )
    with tempfile.TemporaryDirectory() as folder:
        LlamaForCausalLM(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return Subject.load(Path(folder), device="cpu", dtype="float32")
