from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
import torch

from jpu.analysis.causal import Case, causal_check, mean_values, respond
from jpu.models import Subject
from jpu.paths.activations import ablate, capture

Make = Callable[..., Subject]
UNITS = {0: [1, 5, 7], 1: [3]}
CASES = [
    Case("What is the code of Zoruk?", "amber dune", "amber", "zoruk"),
    Case("Tell me now, what is it?", "it is a dune", "dune", "melan"),
    Case("Go on.", "yes", "yes", "melan"),
]


HEADS = {0: [1], 1: [0]}


def cut(subject: Subject, units: dict[int, list[int]], means: dict[int, torch.Tensor] | None = None) -> Subject:
    """The same ablation, done to the weights: columns of down_proj to zero, and a mean's share as a constant."""
    other = Subject(copy.deepcopy(subject.model), subject.tokenizer)
    with torch.no_grad():
        for layer, chosen in units.items():
            down = other.layers[layer].mlp.down_proj
            if means is not None:
                shift = down.weight[:, chosen] @ means[layer][chosen]
                down.bias = torch.nn.Parameter(shift.clone(), requires_grad=False)
            down.weight[:, chosen] = 0.0
    return other


@pytest.mark.parametrize("filled", [False, True])
def test_an_ablation_is_what_cutting_the_weights_does(make_subject: Make, filled: bool) -> None:
    subject = make_subject()
    means = mean_values(subject, CASES) if filled else None
    expected = respond(cut(subject, UNITS, means), CASES, 6)
    whole = respond(subject, CASES, 6)
    with ablate(subject.model, UNITS, fill=means):
        found = respond(subject, CASES, 6)
    assert found.probability == pytest.approx(expected.probability, rel=1e-4)
    assert found.told == expected.told
    assert found.probability != pytest.approx(whole.probability, rel=1e-2)
    # And it is over when it is over.
    assert respond(subject, CASES, 6) == whole


@pytest.mark.parametrize("filled", [False, True])
def test_heads_are_taken_out_of_what_attention_gives(make_subject: Make, filled: bool) -> None:
    subject = make_subject()
    means = mean_values(subject, CASES, "heads") if filled else None
    other, size = Subject(copy.deepcopy(subject.model), subject.tokenizer), 8
    for layer, (head,) in HEADS.items():
        out, block = other.layers[layer].self_attn.o_proj, slice(head * size, (head + 1) * size)
        if means is not None:
            out.bias = torch.nn.Parameter(out.weight[:, block] @ means[layer][block], requires_grad=False)
        out.weight[:, block] = 0.0
    expected, whole = respond(other, CASES, 6), respond(subject, CASES, 6)
    with ablate(subject.model, HEADS, "heads", fill=means):
        found = respond(subject, CASES, 6)
    assert found.probability == pytest.approx(expected.probability, rel=1e-4)
    assert found.told == expected.told
    assert found.probability != pytest.approx(whole.probability, rel=1e-2)


def test_the_mean_is_over_every_token_and_no_padding(make_subject: Make) -> None:
    subject = make_subject()
    totals, tokens = [torch.zeros(24)] * 2, 0
    for case in CASES:
        ids = torch.tensor([[*subject.prompt_ids(case.prompt), *subject.answer_ids(case.answer)]])
        with torch.no_grad(), capture(subject.model) as found:
            subject.base(input_ids=ids)
        totals = [total + found[layer][0].sum(0) for layer, total in enumerate(totals)]
        tokens += ids.shape[1]
    for layer, mean in mean_values(subject, CASES).items():
        torch.testing.assert_close(mean, totals[layer] / tokens, rtol=1e-4, atol=1e-6)


def test_probabilities_are_those_of_the_answers_tokens(make_subject: Make) -> None:
    subject = make_subject()
    prompt, answer = subject.prompt_ids(CASES[0].prompt), subject.answer_ids(CASES[0].answer)
    logits = subject.base(input_ids=torch.tensor([[*prompt, *answer]])).logits[0].log_softmax(-1)
    steps = [float(logits[len(prompt) - 1 + i, token]) for i, token in enumerate(answer)]
    assert respond(subject, CASES[:1], 2).probability[0] == pytest.approx(
        torch.tensor(steps).mean().exp().item(), rel=1e-4
    )


def test_effects_are_against_the_whole_model_and_against_random_units(make_subject: Make) -> None:
    subject = make_subject()
    random: list[dict[int, list[int]]] = [{0: [0, 2]}, {0: [8, 9]}]
    groups = {"leaks": CASES, "benign": CASES[1:]}
    found = causal_check(
        subject,
        {"igi": [{0: [1, 5]}], "random": random},
        groups,
        k=2,
        means=mean_values(subject, CASES),
        max_new_tokens=4,
        resamples=50,
    )
    assert [(e.selector, e.fill, e.group) for e in found] == [
        ("none", "zero", "leaks"),
        ("none", "zero", "benign"),
        *((s, f, g) for f in ("zero", "mean") for s in ("igi", "random") for g in groups),
    ]
    whole = torch.tensor(respond(subject, CASES, 4).probability)

    def cutting(units: dict[int, list[int]]) -> torch.Tensor:
        return torch.tensor(respond(cut(subject, units), CASES, 4).probability)

    by_random = torch.stack([cutting(units) for units in random]).mean(0)
    effect = next(e for e in found if (e.selector, e.fill, e.group) == ("igi", "zero", "leaks"))
    assert effect.drop.value == pytest.approx(float((whole - cutting({0: [1, 5]})).mean()), abs=1e-5)
    assert effect.beyond.value == pytest.approx(float((by_random - cutting({0: [1, 5]})).mean()), abs=1e-5)
    control = next(e for e in found if (e.selector, e.fill, e.group) == ("random", "zero", "leaks"))
    assert control.beyond.value == pytest.approx(0.0, abs=1e-7)
    assert control.told.n == 2 * len(CASES) and effect.told.n == len(CASES)
    assert next(e for e in found if e.selector == "none").drop.value == 0.0


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with torch.no_grad():
        yield
