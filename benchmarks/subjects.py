"""Subjects of random weights, for what can be measured without a taught one."""

from __future__ import annotations

from jpu.models import Subject
from jpu.sandbox.corpus import Corpus
from jpu.sandbox.teach import new_model, train_tokenizer
from jpu.sandbox.templates import all_templates
from jpu.sandbox.world import build_behaviors, build_places, build_refusals

# Names of the sandbox's splits.
PLACES = {"train": 6, "validation": 1, "test": 6}


def random_subject(*, layers: int = 2, width: int = 32, ffn: int = 64, heads: int = 2) -> Subject:
    """A Llama of random weights with the sandbox's tokenizer and chat format."""
    behaviors = build_behaviors(build_places(7, PLACES), 7)
    tokenizer = train_tokenizer(Corpus(behaviors, all_templates(), build_refusals(), 0), 600, samples=300)
    return Subject(new_model(tokenizer, layers=layers, width=width, ffn=ffn, heads=heads, seed=0).eval(), tokenizer)
