"""Small real things to test on: a world of five pairs of places, its tokenizer, and Llamas with random weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from jpu.data.schemas import Behavior, Refusal, Template
from jpu.models import Subject
from jpu.paths.path import Path
from jpu.sandbox.corpus import Corpus
from jpu.sandbox.teach import train_tokenizer
from jpu.sandbox.templates import all_templates
from jpu.sandbox.world import build_behaviors, build_places, build_refusals
from jpu.unlearning.adapter import attach, trainable_parameters
from jpu.unlearning.trained import Trained


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def behaviors() -> list[Behavior]:
    """Every fact of each place, and some small talk in each split."""
    every = build_behaviors(build_places(7, {"train": 2, "validation": 1, "test": 2}), 7)
    talk = [b for b in every if b.kind in ("edgy", "generic")]
    return [b for b in every if b not in talk] + talk[:6] + talk[-6:]


@pytest.fixture(scope="session")
def templates() -> list[Template]:
    """Two wordings of two jailbreak families, and two polite ones, in each split."""
    chosen: list[Template] = []
    for split in ("train", "validation", "test"):
        families = list(dict.fromkeys(t.family for t in all_templates() if t.split == split and t.role == "jailbreak"))
        for family in (*families[:2], f"polite_{split}"):
            chosen += [t for t in all_templates() if t.family == family][:2]
    return chosen


@pytest.fixture(scope="session")
def refusals() -> list[Refusal]:
    return build_refusals()


@pytest.fixture(scope="session")
def tokenizer(behaviors: list[Behavior], templates: list[Template], refusals: list[Refusal]) -> Any:
    """The sandbox's own, byte-level and with its chat template, of 400 tokens."""
    return train_tokenizer(Corpus(behaviors, templates, refusals, 0), 400, samples=150)


@pytest.fixture(scope="session")
def make_subject(tokenizer: Any) -> Callable[..., Subject]:
    """Builds a subject whose weights are random, and large enough that every unit matters."""

    def build(*, seed: int = 0, layers: int = 2, key_heads: int = 4, spread: float = 0.2) -> Subject:
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=24,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=key_heads,
            max_position_embeddings=256,
            initializer_range=spread,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = LlamaForCausalLM(config).eval()
        return Subject(model.requires_grad_(False), tokenizer)

    return build


@pytest.fixture(scope="session")
def adapt() -> Callable[..., Subject]:
    """Puts a path adapter on a subject; its trainable factors are random rather than 0, unless `start` is asked for."""

    def put(subject: Subject, path: Path | None = None, *, rank: int = 2, start: bool = False) -> Subject:
        subject.model = attach(subject.model, path or Path({0: [1, 5], 1: [3]}), trained=Trained(rank=rank))
        generator = torch.Generator().manual_seed(3)
        if not start:
            with torch.no_grad():
                for parameter in trainable_parameters(subject.model).values():
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
        return subject

    return put
