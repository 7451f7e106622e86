from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import LlamaForCausalLM, MistralConfig, MistralForCausalLM

from jpu.errors import DataError
from jpu.paths.passes import AnswerPasses, Exchanges, constant_weights

Tiny = Callable[..., LlamaForCausalLM]


@pytest.mark.parametrize("key_heads", [4, 2])
def test_score_is_that_of_whole_sequences(tiny: Tiny, exchanges: Exchanges, key_heads: int) -> None:
    model = tiny(key_heads=key_heads)
    passes = AnswerPasses(model, exchanges, positions=3)
    for row, (prompt, answer) in enumerate(zip(exchanges.prompts, exchanges.answers, strict=True)):
        with torch.no_grad():
            lines = model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0].log_softmax(-1)
        said = [lines[len(prompt) - 1 + i, token] for i, token in enumerate(answer[:3])]
        torch.testing.assert_close(passes.score[row], torch.stack(said).mean().exp())


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_sliding_window_sees_true_distances(exchanges: Exchanges, attention: str) -> None:
    config = MistralConfig(
        vocab_size=40,
        hidden_size=32,
        intermediate_size=20,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=4,
        initializer_range=0.3,
        attn_implementation=attention,
        bos_token_id=None,
        eos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MistralForCausalLM(config).eval()
    together = AnswerPasses(model, exchanges, positions=3).score
    for row, (prompt, answer) in enumerate(zip(exchanges.prompts, exchanges.answers, strict=True)):
        with torch.no_grad():
            lines = model(input_ids=torch.tensor([[*prompt, *answer]]), use_cache=False).logits[0].log_softmax(-1)
        said = [lines[len(prompt) - 1 + i, token] for i, token in enumerate(answer[:3])]
        torch.testing.assert_close(together[row], torch.stack(said).mean().exp())


def test_positions_past_a_short_answer_hold_nothing(tiny: Tiny, exchanges: Exchanges) -> None:
    passes = AnswerPasses(tiny(), exchanges, positions=3)
    assert passes.length == 3
    assert passes.activations[0][1, 2].abs().sum() == 0
    assert passes.activations[0][0, 2].abs().sum() > 0


def test_no_more_positions_than_the_longest_answer(tiny: Tiny, exchanges: Exchanges) -> None:
    assert AnswerPasses(tiny(), exchanges, positions=50).length == 5


def test_recorded_values_put_back_give_the_same_score(tiny: Tiny, exchanges: Exchanges) -> None:
    passes = AnswerPasses(tiny(), exchanges, positions=3)
    score, slopes, _ = passes.gradients(torch.arange(3), torch.ones(3), {0: torch.tensor([1, 4]), 2: torch.tensor([0])})
    torch.testing.assert_close(score, passes.score)
    assert slopes[0].shape == (3, 3, 2)


@pytest.mark.parametrize("rows", [1, 2, 100])
def test_the_row_budget_changes_no_value(tiny: Tiny, exchanges: Exchanges, rows: int) -> None:
    def run(budget: int) -> torch.Tensor:
        passes = AnswerPasses(tiny(), exchanges, positions=3, rows=budget)
        prompt, alpha = torch.tensor([0, 0, 1, 2, 2]), torch.tensor([0.5, 1.0, 0.5, 0.5, 1.0])
        return passes.gradients(prompt, alpha, {0: torch.tensor([3])}, read=(1,))[2][1]

    torch.testing.assert_close(run(rows), run(5), rtol=1e-4, atol=1e-7)


def test_weights_and_mode_are_as_before(tiny: Tiny) -> None:
    model = tiny().train()
    model.model.embed_tokens.weight.requires_grad_(False)
    with constant_weights(model):
        assert not model.training and not any(p.requires_grad for p in model.parameters())
    assert model.training and model.model.layers[0].training
    assert model.model.layers[0].mlp.up_proj.weight.requires_grad
    assert not model.model.embed_tokens.weight.requires_grad


@pytest.mark.parametrize(
    ("prompts", "answers"), [([], []), ([[1, 2]], []), ([[1]], [[2]]), ([[1, 2], [1, 2]], [[3], []])]
)
def test_exchanges_without_substance_are_refused(prompts: list[list[int]], answers: list[list[int]]) -> None:
    with pytest.raises(DataError):
        Exchanges(prompts, answers)
