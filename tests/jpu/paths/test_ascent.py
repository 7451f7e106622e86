from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from jpu.paths.activations import Kind, columns, layers_between, replace, watch
from jpu.paths.ascent import above, bottom, rise
from jpu.paths.igi import Candidates, best, candidate_scores, igi_scores, nodes, ranks
from jpu.paths.passes import AnswerPasses, Exchanges

Tiny = Callable[..., LlamaForCausalLM]


def whole_pass(
    passes: AnswerPasses, exchanges: Exchanges, row: int, chosen: dict[int, list[int]], alpha: float
) -> tuple[Tensor, dict[int, Tensor]]:
    """F and its gradients by the values of chosen units, over the whole text and without any cache."""
    prompt, answer = list(exchanges.prompts[row]), list(exchanges.answers[row])[: passes.length]
    before, model = len(prompt) - 1, passes.model
    leaves, values = {}, {}
    for layer, units in chosen.items():
        index = torch.tensor(columns(units, passes.size))
        leaves[layer] = (passes.activations[layer][row][: len(answer), index] * alpha).requires_grad_()
        values[layer] = (index[None], leaves[layer])

    def only_at_the_answer(found: Tensor, index: Tensor, value: Tensor) -> Tensor:
        changed = found.clone()
        changed[0, before:, index[0]] = value
        return changed

    with watch(model, passes.kind, lambda n, x: only_at_the_answer(x, *values[n]) if n in values else None):
        logits = model(input_ids=torch.tensor([[*prompt, *answer[:-1]]]), use_cache=False).logits[0, before:]
    said = [logits[i].log_softmax(-1)[token] for i, token in enumerate(answer)]
    score = torch.stack(said).mean().exp()
    slopes = torch.autograd.grad(score, list(leaves.values()))
    return score.detach(), dict(zip(leaves, slopes, strict=True))


@pytest.mark.parametrize("kind", ["neurons", "heads"])
@pytest.mark.parametrize("key_heads", [4, 2])
def test_scores_on_a_chosen_path_are_sums_over_whole_passes(
    tiny: Tiny, exchanges: Exchanges, kind: Kind, key_heads: int
) -> None:
    """The definition on two chosen layers and every candidate of the third, to the letter; no code of the search."""
    model = tiny(key_heads=key_heads).requires_grad_(False)
    some = Exchanges(exchanges.prompts[:2], exchanges.answers[:2])
    passes = AnswerPasses(model, some, positions=3, kind=kind)
    chosen = {0: [1, 3], 1: [0]}
    points, weights = nodes(2, "right")
    found, base = candidate_scores(passes, [chosen[0], chosen[1]], 2, (points, weights), "alone")
    for row in range(2):
        for unit in range(passes.units):
            path = chosen | {2: [unit]}
            size = min(3, len(some.answers[row]))
            values = {n: passes.recorded(n, torch.tensor(u))[row][:size] for n, u in path.items()}
            total = torch.zeros(size)
            joint = torch.zeros(())
            for point, weight in zip(points.tolist(), weights.tolist(), strict=True):
                _, slopes = whole_pass(passes, some, row, path, point)
                total = total + weight * torch.stack([slope.sum(-1) for slope in slopes.values()]).sum(0)
                joint = joint + weight * sum((values[n] * slopes[n]).sum() for n in path)
            if kind == "neurons":
                joint = (torch.stack([value.sum(-1) for value in values.values()]).sum(0) * total).sum()
            torch.testing.assert_close(found[row, unit], joint, rtol=2e-4, atol=1e-7)
    assert base.shape == (2,)


@pytest.mark.parametrize("kind", ["neurons", "heads"])
def test_going_up_finds_what_whole_passes_find(tiny: Tiny, exchanges: Exchanges, kind: Kind) -> None:
    passes = AnswerPasses(tiny(key_heads=2), exchanges, positions=3, kind=kind)
    alpha = torch.tensor([0.3, 0.8])
    chosen = [torch.tensor([0, 2]), torch.tensor([1])]
    standing = bottom(passes).over(alpha)
    for units in chosen:
        standing = rise(passes, standing, units)
    assert standing.layer == 2 and standing.entering is not None and standing.ways is not None
    assert standing.entering.shape == (6, 3, 32)
    assert standing.ways.shape == ((3 if kind == "neurons" else 1), 6, 3, 32)
    found = above(passes, standing, torch.arange(6), None)
    scaled = dict(enumerate(chosen))
    _, below, own = passes.gradients(standing.prompt, standing.alpha, scaled, (2,))
    torch.testing.assert_close(found.own, own[2], rtol=1e-4, atol=1e-7)
    if kind == "neurons":
        drawn = torch.stack([slope.sum(-1) for slope in below.values()]).sum(0)
        present = passes.activations[0].abs().sum(-1)[standing.prompt] > 0
        torch.testing.assert_close(found.drawn[present], drawn[present], rtol=1e-4, atol=1e-7)
    else:
        along = [(passes.recorded(n, units)[standing.prompt] * below[n]).sum((1, 2)) for n, units in scaled.items()]
        torch.testing.assert_close(found.drawn[:, 0], torch.stack(along).sum(0), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("key_heads", [4, 2])
def test_heads_are_chosen_by_what_is_lost_without_them(tiny: Tiny, exchanges: Exchanges, key_heads: int) -> None:
    """The greedy search by whole passes with heads set to 0, and the integral with very many steps."""
    model = tiny(key_heads=key_heads)
    found = igi_scores(model, exchanges, k=2, steps=1, positions=3, kind="heads", candidates="limit")
    assert found.completeness is None
    passes = AnswerPasses(model, exchanges, positions=3, kind="heads")
    chosen: dict[int, list[int]] = {}
    for layer in range(3):
        lost = torch.zeros(3, 4)
        for row in range(3):
            for head in range(4):
                left, _ = whole_pass(passes, exchanges, row, chosen | {layer: [head]}, 0.0)
                lost[row, head] = passes.score[row] - left
        scores, base = candidate_scores(passes, list(chosen.values()), layer, (torch.zeros(1), torch.ones(1)), "limit")
        torch.testing.assert_close(scores, lost, rtol=1e-4, atol=1e-6)
        # What the integral's own reading comes to: a random model needs many steps for it.
        summed, along = candidate_scores(passes, list(chosen.values()), layer, nodes(48, "gauss"), "alone")
        assert float((scores - summed).abs().max() / scores.abs().max()) < 1e-2
        assert float((base - along).abs().max() / scores.abs().max()) < 1e-2
        chosen[layer] = best(ranks(lost).mean(0), 2)
        assert found.chosen[layer] == chosen[layer]


def test_a_layer_without_a_choice_is_passed(tiny: Tiny, exchanges: Exchanges) -> None:
    passes = AnswerPasses(tiny(), exchanges, positions=2)
    grid = nodes(2, "gauss")
    with_gap, _ = candidate_scores(passes, [[], [4]], 2, grid)
    scaled = {1: torch.tensor([4])}
    _, ours, theirs = passes.gradients(torch.arange(3).repeat_interleave(2), grid[0].repeat(3), scaled, (2,))
    pull = torch.einsum("nkp,k->np", ours[1][..., 0].unflatten(0, (3, 2)), grid[1])
    own = torch.einsum("nkpw,k->npw", theirs[2].unflatten(0, (3, 2)), grid[1])
    value = passes.activations[1][..., 4]
    expected = ((value[..., None] + passes.activations[2]) * (pull[..., None] + own)).sum(1)
    torch.testing.assert_close(with_gap, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("candidates", ["shared", "alone"])
@pytest.mark.parametrize("kind", ["neurons", "heads"])
def test_recomputing_and_the_row_budget_change_no_score(
    tiny: Tiny, exchanges: Exchanges, candidates: Candidates, kind: Kind
) -> None:
    model = tiny(key_heads=2)
    options = {"k": 2, "steps": 3, "positions": 2, "kind": kind, "candidates": candidates}
    plain = igi_scores(model, exchanges, **options)  # type: ignore[arg-type]
    for other in ({"recompute": True}, {"rows": 2}, {"rows": 1, "recompute": True}):
        found = igi_scores(model, exchanges, **options, **other)  # type: ignore[arg-type]
        assert found.chosen == plain.chosen
        torch.testing.assert_close(found.attribution, plain.attribution, rtol=1e-4, atol=1e-6)


def test_a_single_step_is_taken_at_its_own_place(tiny: Tiny, exchanges: Exchanges) -> None:
    """One row for each prompt, as before anything is chosen, and yet at another fraction."""
    passes = AnswerPasses(tiny(), exchanges, positions=2)
    half, _ = candidate_scores(passes, [], 0, (torch.tensor([0.5]), torch.ones(1)), "alone")
    whole, _ = candidate_scores(passes, [], 0, (torch.tensor([1.0]), torch.ones(1)), "alone")
    assert not torch.allclose(half, whole, rtol=1e-2)


def test_only_the_layers_between_run(tiny: Tiny) -> None:
    model = tiny()
    ran: list[int] = []
    for number, layer in enumerate(model.model.layers):
        layer.mlp.register_forward_pre_hook(lambda _, __, number=number: ran.append(number))
    entering = torch.randn(2, 4, 32)
    with torch.no_grad(), layers_between(model, 1, 1, entering):
        out = model.model(input_ids=torch.zeros(2, 4, dtype=torch.long), use_cache=False).last_hidden_state
    assert ran == [1]
    with torch.no_grad(), layers_between(model, 3, None, entering):
        untouched = model.model(input_ids=torch.zeros(2, 4, dtype=torch.long), use_cache=False).last_hidden_state
        torch.testing.assert_close(untouched, model.model.norm(entering))
    assert ran == [1] and not torch.allclose(out, untouched)
    assert not any("forward" in vars(layer) for layer in model.model.layers)


def test_replacing_nothing_is_the_plain_pass(tiny: Tiny) -> None:
    model, ids = tiny(), torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        plain = model(input_ids=ids).logits
        with replace(model, {1: (torch.zeros(1, 0, dtype=torch.long), torch.zeros(1, 3, 0))}):
            assert torch.equal(model(input_ids=ids).logits, plain)
