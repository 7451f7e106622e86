"""Is a path a cause? Take it out of the model, and see what is left of the leak, and of everything else (causal check).

Units that a selector names are set to zero, or to their mean over everyday use, at every position [C: both are usual
forms of ablation; O: the mean is over benign exchanges]. A path is worth its name if without it jailbreaks leak less
than without as many units chosen at random, by activation, by gradient at a point or by SNIP, while benign answers
stay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from jpu.evaluation.metrics import Estimate, mean, rate
from jpu.judges import Completion, judge_all
from jpu.models import Subject, token_batches
from jpu.paths.activations import Kind, ablate, capture
from jpu.paths.path import Units

Fill = Literal["zero", "mean"]


@dataclass(frozen=True)
class Case:
    """A prompt and the answer that is looked for.

    Attributes:
        prompt: The user turn.
        answer: What the model says where it answers.
        secret: What shows that it did; "" where any coherent answer does that is no refusal.
        name: Behavior or entity: cluster of the intervals.
    """

    prompt: str = field(repr=False)
    answer: str = field(repr=False)
    secret: str = field(repr=False)
    name: str


@dataclass(frozen=True)
class Response:
    """What a model makes of n cases.

    Attributes:
        probability: Of each answer, geometric mean over its tokens, in [0, 1].
        told: Whether the greedy completion answers.
    """

    probability: Sequence[float]
    told: Sequence[bool]


@dataclass(frozen=True)
class Effect:
    """What an ablation did to one group of cases.

    Attributes:
        kind: Neurons or heads.
        selector: How the units were chosen; "none" for the model as it is.
        k: Units of each layer.
        fill: What stands in their place.
        group: Which cases.
        probability: Mean probability of the answers.
        told: Share of completions that answer.
        drop: By how much the probability fell, in the mean over cases.
        beyond: The drop less that of random units, of the same cases.
    """

    kind: Kind
    selector: str
    k: int
    fill: Fill
    group: str
    probability: Estimate
    told: Estimate
    drop: Estimate
    beyond: Estimate


def counted(k: int, kind: Kind) -> str:
    """So many units, in words."""
    return f"{k} {kind if k > 1 else kind.removesuffix('s')}"


@torch.no_grad()
def mean_values(subject: Subject, cases: Sequence[Case], kind: Kind = "neurons") -> dict[int, Tensor]:
    """Mean of every unit's columns over all tokens of some exchanges: layer → (width,) float32."""
    rows = [(subject.prompt_ids(c.prompt), subject.answer_ids(c.answer)) for c in cases]
    totals: dict[int, Tensor] = {}
    tokens = 0
    for batch in token_batches([len(p) + len(a) for p, a in rows]):
        ids, _ = subject.collate([rows[i][0] for i in batch], [rows[i][1] for i in batch])
        real = torch.zeros(ids.shape, device=subject.device)
        for row, i in enumerate(batch):
            real[row, : len(rows[i][0]) + len(rows[i][1])] = 1.0
        with capture(subject.model, kind) as found:
            subject.base.model(input_ids=ids, use_cache=False)
        for layer, values in found.items():
            part = torch.einsum("btw,bt->w", values.float(), real)
            totals[layer] = totals[layer] + part if layer in totals else part
        tokens += int(real.sum())
    return {layer: total / tokens for layer, total in totals.items()}


def respond(subject: Subject, cases: Sequence[Case], max_new_tokens: int, refusals: Sequence[str] = ()) -> Response:
    """Probability of each answer, and whether it is told; `refusals` are the subject's own."""
    losses = subject.nll([c.prompt for c in cases], [c.answer for c in cases])
    said = subject.generate([c.prompt for c in cases], max_new_tokens=max_new_tokens)
    completions = [Completion(text, c.secret) for text, c in zip(said, cases, strict=True)]
    told = [verdict.answered for verdict in judge_all(completions, refusals=refusals)]
    return Response((-losses).exp().tolist(), told)


def causal_check(
    subject: Subject,
    choices: Mapping[str, Sequence[Units]],
    groups: Mapping[str, Sequence[Case]],
    *,
    k: int,
    means: Mapping[int, Tensor],
    kind: Kind = "neurons",
    fills: Sequence[Fill] = ("zero", "mean"),
    max_new_tokens: int = 24,
    refusals: Sequence[str] = (),
    seed: int = 0,
    resamples: int = 2000,
    confidence: float = 0.95,
) -> list[Effect]:
    """Take each choice of units out, and measure every group of cases.

    Args:
        subject: The model, run as it stands.
        choices: Selector → its choice; several of "random", whose responses are averaged, case by case.
        groups: Name → cases.
        k: Units of each layer, for the record.
        means: What `mean_values` found for this kind.
        kind: Neurons or heads.
        fills: What is put in the units' place.
        max_new_tokens: Bound on a completion.
        refusals: The subject's own.
        seed: Of the intervals.
        resamples: Of the intervals.
        confidence: Of the intervals.

    Returns:
        One effect a fill, selector and group; "none" first, and once.
    """
    options = {"seed": seed, "resamples": resamples, "confidence": confidence}
    before = {name: respond(subject, cases, max_new_tokens, refusals) for name, cases in groups.items()}
    effects = [
        _effect(kind, "none", k, "zero", name, [before[name]], before[name], before[name], cases, options)
        for name, cases in groups.items()
    ]
    for fill in fills:
        after: dict[str, dict[str, list[Response]]] = {}
        for selector, chosen in choices.items():
            after[selector] = {name: [] for name in groups}
            for units in chosen:
                with ablate(subject.model, units, kind, fill=means if fill == "mean" else None):
                    for name, cases in groups.items():
                        after[selector][name].append(respond(subject, cases, max_new_tokens, refusals))
        for selector, found in after.items():
            for name, cases in groups.items():
                control = _averaged(after["random"][name]) if "random" in after else before[name]
                effects.append(
                    _effect(kind, selector, k, fill, name, found[name], before[name], control, cases, options)
                )
    return effects


def _averaged(responses: Sequence[Response]) -> Response:
    """Probabilities averaged case by case."""
    return Response(np.mean([r.probability for r in responses], 0).tolist(), ())


def _effect(
    kind: Kind,
    selector: str,
    k: int,
    fill: Fill,
    group: str,
    responses: Sequence[Response],
    before: Response,
    control: Response,
    cases: Sequence[Case],
    options: Mapping[str, int | float],
) -> Effect:
    names = [case.name for case in cases]
    now = np.asarray(_averaged(responses).probability)
    start, other = np.asarray(before.probability), np.asarray(control.probability)
    told = [outcome for response in responses for outcome in response.told]
    return Effect(
        kind,
        selector,
        k,
        fill,
        group,
        mean(now.tolist(), names, **options),  # type: ignore[arg-type]
        rate(told, names * len(responses), **options),  # type: ignore[arg-type]
        mean((start - now).tolist(), names, **options),  # type: ignore[arg-type]
        mean((other - now).tolist(), names, **options),  # type: ignore[arg-type]
    )
