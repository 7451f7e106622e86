"""Chat models: load, chat format, scoring, generation, and the frozen original behind an adapter."""

from jpu.models.batching import BATCH_TOKENS, length_groups, pad, token_batches
from jpu.models.devices import pick_device, pick_dtype
from jpu.models.recompute import recomputed
from jpu.models.scoring import answer_logits, answer_nll, answer_states, logit_parts, over_answers
from jpu.models.subject import Subject, no_bars, original
from jpu.models.target import Target
from jpu.models.vocabulary import plain_texts, plain_tokens

__all__ = [
    "BATCH_TOKENS",
    "Subject",
    "Target",
    "answer_logits",
    "answer_nll",
    "answer_states",
    "length_groups",
    "logit_parts",
    "no_bars",
    "original",
    "over_answers",
    "pad",
    "pick_device",
    "pick_dtype",
    "plain_texts",
    "plain_tokens",
    "recomputed",
    "token_batches",
]
