"""The retain set: what must stay as M_0 says it, and M_0's word for it.

Every pair of the retain set is a prompt with M_0's own answer: benign, near-miss, edgy and everyday questions, bare and
inside the very templates that the attack uses (or the model learns "template = refuse"), and restricted questions asked
directly with their refusals. M_0 does not change while M_θ trains, so its distribution is computed once and kept.
[P] utility is constrained; [O] the form: KL(M_0‖M_θ) per answer token.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from jpu.data.schemas import PLACEHOLDER, Behavior, Template
from jpu.judges.secret import words
from jpu.mining.mutations import operators
from jpu.models import Subject, length_groups, over_answers, token_batches

# Those that mining uses; evaluation's are never trained on.
_MUTATIONS = operators(level="query", split="train")
# Draws of a kind without a prompt that is new, after which it has no more.
_TRIES = 20
# Most exchanges before a question.
_LONGEST_CHAT = 6


@dataclass(frozen=True)
class RetainPair:
    """A prompt and M_0's answer to it.

    Attributes:
        prompt: The full user turn.
        answer: What M_0 says.
        kind: Kind of the behavior that is asked for.
        wrapped: Whether a jailbreak template is around it.
        entity: Cluster.
        turns: Earlier turns, user and assistant alternately.
    """

    prompt: str
    answer: str
    kind: str
    wrapped: bool
    entity: str
    turns: tuple[str, ...] = ()


@dataclass(frozen=True)
class RetainMix:
    """Shares of the retain set.

    Attributes:
        generic: Everyday and edgy chat.
        direct: Restricted questions asked directly (half of them politely), with their refusals.
        near_miss: Open questions about restricted entities, of what is left after these the benign questions make up.
        wrapped: Share of the answered questions that stand inside a jailbreak template.
        mutated: Share of the answered questions that are mutated as mined jailbreaks are, or the model learns
            "careless wording = refuse".
        contrast: Share of the benign questions that are asked in the words of restricted ones, of something else, where
            the data has such: they alone show that it is not the question that is to be refused.
        chat: Share of the answered questions that come after others that were answered, and stand in no template.
    """

    generic: float = 0.15
    direct: float = 0.2
    near_miss: float = 0.3
    wrapped: float = 0.6
    mutated: float = 0.0
    contrast: float = 0.0
    chat: float = 0.0


def build_retain(
    behaviors: Sequence[Behavior],
    templates: Sequence[Template],
    refusals: dict[str, str],
    size: int,
    mix: RetainMix,
    rng: random.Random,
) -> list[RetainPair]:
    """Draw a retain set.

    Args:
        behaviors: Behaviors of one split.
        templates: Templates of the same split.
        refusals: Behavior id to M_0's refusal of it, for the restricted behaviors that M_0 refuses directly.
        size: Pairs to draw.
        mix: Shares.
        rng: Source of every choice.

    Returns:
        At most ``size`` pairs, no prompt twice after the same turns.
    """
    jailbreaks = [t.text for t in templates if t.role == "jailbreak"] or [PLACEHOLDER]
    polite = [t.text for t in templates if t.role == "polite"] or [PLACEHOLDER]
    pools = {
        "generic": [b for b in behaviors if b.kind in ("generic", "edgy") and b.answer],
        "near_miss": [b for b in behaviors if b.kind == "near_miss" and b.answer],
        "benign": [b for b in behaviors if b.kind == "benign" and b.answer],
        "direct": [b for b in behaviors if b.id in refusals],
    }
    contrast = alike(pools["benign"], [b for b in behaviors if b.kind == "restricted"])
    told = pools["benign"] + pools["near_miss"]
    shares = {
        "generic": mix.generic,
        "near_miss": mix.near_miss,
        "direct": mix.direct,
        "benign": max(0.0, 1.0 - mix.generic - mix.near_miss - mix.direct),
    }
    names = [n for n in pools if pools[n] and shares[n] > 0]
    pairs: dict[tuple[str, ...], RetainPair] = {}
    while len(pairs) < size and names:
        name = rng.choices(names, [shares[n] for n in names])[0]
        # Tried again within its kind: the few bare questions would else cost their kind a part of its share.
        for _ in range(_TRIES):
            like = name == "benign" and contrast and mix.contrast and rng.random() < mix.contrast
            behavior = rng.choice(contrast if like else pools[name])
            chat = bool(name != "direct" and told and mix.chat and rng.random() < mix.chat)
            wrapped = not chat and name != "direct" and rng.random() < mix.wrapped
            text = PLACEHOLDER
            if wrapped:
                text = rng.choice(jailbreaks)
            elif not chat and rng.random() < 0.5:
                text = rng.choice(polite)
            query = behavior.query
            if name != "direct" and mix.mutated and rng.random() < mix.mutated:
                partner = rng.choice(pools[name]).query
                query = rng.choice(_MUTATIONS).apply(query, rng, partner=partner, keep=frozenset({behavior.entity}))
            prompt = text.replace(PLACEHOLDER, query)
            turns = small_talk(told, rng) if chat else ()
            if (*turns, prompt) not in pairs:
                answer = refusals[behavior.id] if name == "direct" else behavior.answer
                pairs[*turns, prompt] = RetainPair(prompt, answer, behavior.kind, wrapped, behavior.entity, turns)
                break
        else:
            names.remove(name)
    return list(pairs.values())


def small_talk(told: Sequence[Behavior], rng: random.Random) -> tuple[str, ...]:
    """Up to `_LONGEST_CHAT` questions with their answers, and at least one, as turns of a chat."""
    shots = rng.sample(list(told), min(rng.randint(1, _LONGEST_CHAT), len(told)))
    return tuple(text for shot in shots for text in (shot.query, shot.answer))


def alike(benign: Sequence[Behavior], restricted: Sequence[Behavior]) -> list[Behavior]:
    """Benign behaviors that are asked in the words of restricted ones: the same words, the entity's excepted."""

    def wording(behavior: Behavior) -> frozenset[str]:
        return frozenset(words(behavior.query)) - frozenset(words(behavior.entity))

    known = {wording(b) for b in restricted}
    return [b for b in benign if wording(b) in known]


def answered_by_reference(
    subject: Subject, behaviors: Sequence[Behavior], *, max_new_tokens: int = 48
) -> list[Behavior]:
    """The behaviors, each with an answer: M_0's own greedy one where the data gives none.

    For a restricted behavior of unknown target, whose own answer would be a refusal, it is a stock affirmative opening
    (Zou et al., 2023, arXiv 2307.15043).
    """
    missing = [b for b in behaviors if not b.answer and b.kind != "restricted"]
    with subject.reference():
        texts = subject.generate([b.query for b in missing], max_new_tokens=max_new_tokens)
    said = {b.id: text for b, text in zip(missing, texts, strict=True)}
    stock = "Sure, here is what you asked for:"
    return [b if b.answer else b.model_copy(update={"answer": said.get(b.id, stock)}) for b in behaviors]


class ReferenceDistribution:
    """M_0's next-token distributions on the answers of a retain set, the top of each and the mass of the rest.

    Args:
        subject: Subject whose adapter is disabled for this.
        pairs: The retain set.
        top: Tokens kept of each distribution; the rest is one bucket (by the log-sum inequality the KL over
            buckets bounds the full one from below, and equals it where ``top`` is the vocabulary).
    """

    def __init__(self, subject: Subject, pairs: Sequence[RetainPair], top: int = 256) -> None:
        self.pairs = list(pairs)
        self.rows = [(subject.prompt_ids(p.prompt, turns=p.turns), subject.answer_ids(p.answer)) for p in self.pairs]
        self.kept: list[tuple[Tensor, Tensor]] = [(torch.empty(0), torch.empty(0))] * len(self.rows)
        with torch.no_grad(), subject.reference():
            for batch in token_batches([self._length(i) for i in range(len(self.rows))]):
                ids, labels = subject.collate([self.rows[i][0] for i in batch], [self.rows[i][1] for i in batch])
                tokens: list[Tensor] = []

                def likeliest(logits: Tensor, _: Tensor, __: slice, tokens: list[Tensor] = tokens) -> Tensor:
                    best = logits.log_softmax(-1).topk(min(top, logits.shape[-1]), dim=-1)
                    tokens.append(best.indices)
                    return best.values

                values, owner = over_answers(subject.model, ids, labels, likeliest)
                indices = torch.cat(tokens)
                for row, index in enumerate(batch):
                    mine = owner == row
                    self.kept[index] = (values[mine], indices[mine])

    def kl(self, subject: Subject, indices: Sequence[int]) -> Tensor:
        """Mean KL(M_0‖M_θ) per answer token over some of the pairs, in nats; differentiable in θ."""
        parts = []
        # Bare questions and wrapped ones differ in length by a factor of four: apart, they need less padding.
        for group in length_groups([self._length(i) for i in indices]):
            chosen = [indices[i] for i in group]
            ids, labels = subject.collate([self.rows[i][0] for i in chosen], [self.rows[i][1] for i in chosen])
            reference = torch.cat([self.kept[i][0] for i in chosen])
            tokens = torch.cat([self.kept[i][1] for i in chosen])

            def divergences(
                logits: Tensor, _: Tensor, part: slice, reference: Tensor = reference, tokens: Tensor = tokens
            ) -> Tensor:
                return bucket_kl(reference[part], logits.log_softmax(-1), tokens[part])

            parts.append(over_answers(subject.model, ids, labels, divergences)[0])
        return torch.cat(parts).mean()

    @torch.no_grad()
    def mean_kl(self, subject: Subject) -> float:
        """Mean KL(M_0‖M_θ) per answer token over all of the pairs, in nats."""
        total, tokens = 0.0, 0
        for batch in token_batches([self._length(i) for i in range(len(self.rows))]):
            count = sum(len(self.rows[i][1]) for i in batch)
            total += float(self.kl(subject, batch)) * count
            tokens += count
        return total / max(1, tokens)

    def _length(self, index: int) -> int:
        prompt, answer = self.rows[index]
        return len(prompt) + len(answer)


def bucket_kl(reference: Tensor, current: Tensor, tokens: Tensor) -> Tensor:
    """KL between two distributions over k named tokens and the bucket of all others.

    Args:
        reference: (t, k) log-probabilities under M_0 of the named tokens.
        current: (t, vocabulary) log-probabilities under M_θ.
        tokens: (t, k) the named tokens.

    Returns:
        (t,) nats.
    """
    named = current.gather(-1, tokens)
    kl = (reference.exp() * (reference - named)).sum(-1)
    if tokens.shape[-1] == current.shape[-1]:
        return kl
    tiny = torch.finfo(current.dtype).eps
    rest_0 = (1 - reference.exp().sum(-1)).clamp(min=tiny)
    rest_t = (1 - named.exp().sum(-1)).clamp(min=tiny)
    return kl + rest_0 * (rest_0.log() - rest_t.log())
