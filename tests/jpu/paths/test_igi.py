from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import LlamaForCausalLM

from jpu.paths.igi import (
    Candidates,
    best,
    candidate_scores,
    completeness_error,
    convergence,
    igi_scores,
    nodes,
    ranks,
)
from jpu.paths.naive import naive_scores
from jpu.paths.passes import AnswerPasses, Exchanges

Tiny = Callable[..., LlamaForCausalLM]
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing")  # PEFT's use of transformers


def test_right_rule_has_the_end_point_and_not_the_origin() -> None:
    points, weights = nodes(4, "right")
    assert points.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert weights.tolist() == [0.25] * 4


def test_gauss_rule_integrates_a_quintic_with_three_steps() -> None:
    points, weights = nodes(3, "gauss")
    assert float((weights * points**5).sum()) == pytest.approx(1 / 6, rel=1e-6)


def test_ranks_run_from_zero_to_one() -> None:
    assert ranks(torch.tensor([[3.0, -1.0, 2.0], [0.0, 5.0, 9.0]])).tolist() == [
        [1.0, 0.0, 0.5],
        [0.0, 0.5, 1.0],
    ]


def test_best_is_ascending_and_ties_go_to_the_lower_index() -> None:
    assert best(torch.tensor([1.0, 3.0, 3.0, 2.0, 3.0]), 2) == [1, 2]


@pytest.mark.parametrize("key_heads", [4, 2])
@pytest.mark.parametrize("candidates", ["shared", "layer", "alone"])
def test_scores_are_those_of_the_definition(
    tiny: Tiny, exchanges: Exchanges, candidates: Candidates, key_heads: int
) -> None:
    model = tiny(key_heads=key_heads, layers=2).requires_grad_(False)
    some = Exchanges(exchanges.prompts[:2], exchanges.answers[:2])
    passes = AnswerPasses(model, some, positions=2)
    chosen = [[3, 7]]
    for layer in (0, 1):
        fast, _ = candidate_scores(passes, chosen, layer, nodes(2, "right"), candidates)
        slow = torch.stack(
            [
                naive_scores(model, prompt, answer, chosen, layer, steps=2, positions=2, candidates=candidates)
                for prompt, answer in zip(some.prompts, some.answers, strict=True)
            ]
        )
        assert float((fast - slow).abs().max() / slow.abs().max()) < 1e-5
        for row in range(2):
            assert best(fast[row], 5) == best(slow[row], 5)


@pytest.mark.parametrize("candidates", ["shared", "alone"])
def test_greedy_search_chooses_what_brute_force_does(tiny: Tiny, exchanges: Exchanges, candidates: Candidates) -> None:
    model = tiny(layers=2).requires_grad_(False)
    found = igi_scores(model, exchanges, k=3, steps=2, positions=2, candidates=candidates, rule="right")
    chosen: list[list[int]] = []
    for layer in range(2):
        joint = torch.stack(
            [
                naive_scores(model, prompt, answer, chosen, layer, steps=2, positions=2, candidates=candidates)
                for prompt, answer in zip(exchanges.prompts, exchanges.answers, strict=True)
            ]
        )
        chosen.append(best(ranks(joint).mean(0), 3))
    assert found.chosen == chosen


def test_refining_every_candidate_is_the_definition(tiny: Tiny, exchanges: Exchanges) -> None:
    model = tiny()
    exact = igi_scores(model, exchanges, k=3, steps=3, positions=2, candidates="alone")
    refined = igi_scores(model, exchanges, k=3, steps=3, positions=2, candidates="shared", refine=20)
    assert refined.chosen == exact.chosen
    for ours, theirs in zip(refined.scores, exact.scores, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_refined_choice_stays_within_the_short_list(tiny: Tiny, exchanges: Exchanges) -> None:
    model = tiny(layers=1)
    cheap = igi_scores(model, exchanges, k=6, steps=3, positions=2)
    refined = igi_scores(model, exchanges, k=3, steps=3, positions=2, refine=6)
    assert set(refined.chosen[0]) <= set(cheap.chosen[0])
    assert len(refined.chosen[0]) == 3


def test_a_heads_score_is_its_integrated_gradient(tiny: Tiny, exchanges: Exchanges) -> None:
    model = tiny(layers=2, key_heads=2).requires_grad_(False)
    prompt, answer = exchanges.prompts[0], exchanges.answers[0]
    passes = AnswerPasses(model, Exchanges([prompt], [answer]), positions=1, kind="heads")
    fast, _ = candidate_scores(passes, [], 0, nodes(2, "right"), "alone")

    def integrand(head: int, alpha: float) -> float:
        recorded: list[torch.Tensor] = []
        leaf: list[torch.Tensor] = []

        def hook(_: nn.Module, inputs: tuple[torch.Tensor]) -> torch.Tensor:
            own = inputs[0][0, -1, head * 8 : head * 8 + 8]
            recorded.append(own.clone())
            leaf.append((own * alpha).requires_grad_())
            values = inputs[0].clone()
            values[0, -1, head * 8 : head * 8 + 8] = leaf[-1]
            return values

        handle = model.model.layers[0].self_attn.o_proj.register_forward_pre_hook(hook)
        probability = model(input_ids=torch.tensor([prompt])).logits[0, -1].softmax(-1)[answer[0]]
        handle.remove()
        (slope,) = torch.autograd.grad(probability, leaf)
        return float((recorded[0] * slope).sum())

    expected = [(integrand(head, 0.5) + integrand(head, 1.0)) / 2 for head in range(4)]
    torch.testing.assert_close(fast[0], torch.tensor(expected), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("kind", ["neurons", "heads"])
def test_the_integral_converges_to_the_difference(tiny: Tiny, exchanges: Exchanges, kind: str) -> None:
    model = tiny()
    found = igi_scores(model, exchanges, k=2, steps=16, positions=3, kind=kind)  # type: ignore[arg-type]
    passes = AnswerPasses(model, exchanges, positions=3, kind=kind)  # type: ignore[arg-type]
    errors = convergence(passes, found.chosen, (1, 4, 32), rule="right")
    assert errors[32] < errors[4] < errors[1]
    assert found.completeness == pytest.approx(completeness_error(passes, found.chosen, nodes(16, "gauss")))
    assert found.completeness is not None and found.completeness < 0.01 < errors[4]


def test_steps_in_an_empty_path_are_one_pass(tiny: Tiny, exchanges: Exchanges) -> None:
    model = tiny(layers=2)
    found = igi_scores(model, exchanges, k=2, steps=8, positions=2)
    # recording 3, layer 0 3, layer 1 3 * 8, completeness 3 * 8 and the origin 3
    assert found.rows == 3 + 3 + 24 + 24 + 3


def test_an_adapter_counts_as_its_merged_weights(tiny: Tiny, exchanges: Exchanges) -> None:
    config = LoraConfig(r=2, target_modules=["down_proj", "q_proj", "up_proj"], init_lora_weights=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        adapted = get_peft_model(tiny(), config)
    before = igi_scores(adapted, exchanges, k=3, steps=4, positions=2)
    assert any(part.requires_grad for part in adapted.parameters())
    with adapted.disable_adapter():
        original = igi_scores(adapted, exchanges, k=3, steps=4, positions=2)
    merged = igi_scores(adapted.merge_and_unload(), exchanges, k=3, steps=4, positions=2)
    torch.testing.assert_close(before.attribution, merged.attribution, rtol=1e-3, atol=1e-4)
    plain = igi_scores(tiny(), exchanges, k=3, steps=4, positions=2)
    assert original.chosen == plain.chosen
    assert not torch.allclose(before.attribution[1], plain.attribution[1], atol=1e-2)
