"""Mutations chosen against the model that is attacked: an evolutionary search over wordings and questions.

For each behavior and family: score some wordings, mutate the best with operators that the defence never saw, keep the
best, again; the best prompt of all is put to the model, once. The score needs no secret: how much likelier the
affirmative opening is than a refusal. All behaviors and families go through one batched scoring call a step.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from jpu.attacks.base import Arena, Attempt, Progress, complete
from jpu.attacks.prefill import opening
from jpu.attacks.static import wrap
from jpu.mining.mutations import operators
from jpu.models import Subject

# A candidate: its score, the query in it, the template's text, and the attempt.
_Candidate = tuple[float, str, str, Attempt]


class Adaptive:
    """Fuzzing in the manner of GPTFuzzer (Yu et al., 2023, arXiv 2309.10253) with a white-box score."""

    name = "adaptive"
    cite = "Yu et al., 2023, arXiv 2309.10253; the score is ours"

    def run(
        self, subject: Subject, arena: Arena, rng: random.Random, progress: Progress | None = None
    ) -> list[Attempt]:
        """One attempt for each behavior and family: the best prompt that the search found."""
        queries = {b.id: b.query for b in arena.behaviors}
        texts = {t.id: t.text for t in arena.templates}
        found: dict[tuple[str, str], list[_Candidate]] = {}
        fresh = [(queries[a.behavior], texts[a.template], a) for a in wrap(arena, rng, self.name, arena.population)]
        for generation in range(arena.generations + 1):
            for candidate in self._score(subject, arena, fresh):
                found.setdefault((candidate[3].behavior, candidate[3].family), []).append(candidate)
            if progress is not None:
                progress(generation + 1, arena.generations + 1)
            if generation < arena.generations:
                fresh = [child for pool in found.values() for child in self._breed(pool, arena, rng, queries)]
        best = []
        for pool in found.values():
            winner = max(pool, key=lambda c: c[0])[3]
            best.append(winner.model_copy(update={"scored": len(pool)}))
        return complete(subject, best, arena.max_new_tokens)

    def _score(self, subject: Subject, arena: Arena, fresh: Sequence[tuple[str, str, Attempt]]) -> list[_Candidate]:
        openings = {b.id: opening(b) for b in arena.behaviors}
        refusals = [r.text for r in arena.refusals]
        # One call for all answers of a prompt, so that the prompt itself is run only once.
        prompts = [a.prompt for _, _, a in fresh for _ in range(len(refusals) + 1)]
        answers = [text for _, _, a in fresh for text in (*refusals, openings[a.behavior])]
        # An opening goes on: scored as an ended answer, its improbable end would drown what it says.
        ended = [True] * len(refusals) + [False]
        losses = subject.nll(prompts, answers, ended=ended * len(fresh)).view(len(fresh), len(refusals) + 1)
        scores = (losses[:, :-1].min(1).values - losses[:, -1]).tolist()
        return [(float(s), q, t, a) for s, (q, t, a) in zip(scores, fresh, strict=True)]

    def _breed(
        self, pool: Sequence[_Candidate], arena: Arena, rng: random.Random, queries: dict[str, str]
    ) -> list[tuple[str, str, Attempt]]:
        parents = sorted(pool, key=lambda c: -c[0])[: max(1, arena.children // 2)]
        on_query = operators(level="query", split=arena.split)
        on_template = operators(level="template", split=arena.split)
        children = []
        for _ in range(arena.children):
            _, query, text, parent = rng.choice(parents)
            if on_template and rng.random() < 0.3:
                operator = rng.choice(on_template)
                text = operator.apply(text, rng)
            else:
                operator = rng.choice(on_query)
                partner = queries[rng.choice(sorted(queries))]
                query = operator.apply(query, rng, partner=partner, keep=frozenset({parent.entity}))
            prompt = text.replace("{query}", query)
            if arena.longest is not None and len(prompt) > arena.longest:
                continue
            attempt = parent.model_copy(update={"prompt": prompt, "history": (*parent.history, operator.name)})
            children.append((query, text, attempt))
        return children
