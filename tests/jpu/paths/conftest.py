from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from jpu.paths.passes import Exchanges

VOCABULARY = 40


@pytest.fixture(scope="session")
def tiny() -> Callable[..., LlamaForCausalLM]:
    """A random Llama with weights large enough that every unit matters."""

    def build(*, key_heads: int = 4, seed: int = 0, layers: int = 3) -> LlamaForCausalLM:
        config = LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=20,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=key_heads,
            max_position_embeddings=64,
            initializer_range=0.3,
            pad_token_id=None,
            bos_token_id=None,
            eos_token_id=None,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return LlamaForCausalLM(config).eval()

    return build


@pytest.fixture(scope="session")
def exchanges() -> Exchanges:
    """Prompts of unlike length; the second answer is shorter than the positions that the tests ask for."""
    generator = torch.Generator().manual_seed(1)

    def tokens(count: int) -> list[int]:
        return torch.randint(0, VOCABULARY, (count,), generator=generator).tolist()

    return Exchanges([tokens(n) for n in (7, 4, 9)], [tokens(n) for n in (5, 2, 4)])
