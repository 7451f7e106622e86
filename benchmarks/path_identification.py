"""Path identification: is the fast search the definition, and how much faster is it?

Run: python benchmarks/path_identification.py [--quick] [--json] [--threads N]

1. On a tiny random Llama: every score of every layer against the definition written out (`jpu.paths.naive`), for two
   readings of it; the largest difference, whether the k best are the same, and the ratio of the times.
2. There: how near the cheap readings come to the definition to the letter, and completeness against steps.
3. On a random Llama of SmolLM2-135M's shape (one layer in five with --quick), one prompt of 40 tokens: the search
   against one whole-sequence forward and backward pass for each layer and step.

Random weights: times and agreement carry over to trained models, which units are found does not. One measurement each;
the ratios are good to some ten percent on a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from jpu.paths.activations import replace, watch
from jpu.paths.igi import Candidates, best, candidate_scores, convergence, igi_scores, nodes, ranks
from jpu.paths.naive import naive_scores
from jpu.paths.passes import AnswerPasses, Exchanges

K = 4
STEPS = 4
POSITIONS = 3


def random_llama(
    *, layers: int, hidden: int, neurons: int, heads: int, key_heads: int, spread: float, tokens: int
) -> Any:
    """A Llama with random weights."""
    config = LlamaConfig(
        vocab_size=tokens,
        hidden_size=hidden,
        intermediate_size=neurons,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        initializer_range=spread,
        tie_word_embeddings=True,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config).eval().requires_grad_(False)


def exchange(prompt: int, answer: int) -> Exchanges:
    """One random prompt and answer of the given numbers of tokens."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, 512, (prompt + answer,), generator=generator).tolist()
    return Exchanges([tokens[:prompt]], [tokens[prompt:]])


def against_definition(model: Any, one: Exchanges, candidates: Candidates) -> dict[str, Any]:
    """Compare every layer's scores, along the fast search's own path."""
    began = time.perf_counter()
    found = igi_scores(model, one, k=K, steps=STEPS, positions=POSITIONS, rows=512, candidates=candidates, rule="right")
    fast_s = time.perf_counter() - began
    passes = AnswerPasses(model, one, positions=POSITIONS, rows=512)
    prompt, answer = one.prompts[0], one.answers[0]
    slow_s, worst, same = 0.0, 0.0, True
    chosen: list[list[int]] = []
    for layer in range(passes.layers):
        began = time.perf_counter()
        slow = naive_scores(
            model, prompt, answer, chosen, layer, steps=STEPS, positions=POSITIONS, candidates=candidates
        )
        slow_s += time.perf_counter() - began
        fast, _ = candidate_scores(passes, chosen, layer, nodes(STEPS, "right"), candidates)
        worst = max(worst, float((fast[0] - slow).abs().max() / slow.abs().max()))
        same &= best(fast[0], K) == best(slow, K) == found.chosen[layer]
        chosen.append(best(slow, K))
    return {
        "max_difference": worst,
        "top_k_identical": same,
        "naive_s": round(slow_s, 3),
        "fast_s": round(fast_s, 4),
        "ratio": round(slow_s / fast_s, 1),
    }


def nearness(model: Any, one: Exchanges, candidates: Candidates, refine: int = 0) -> dict[str, float]:
    """Agreement with the definition to the letter, each along its own greedy path: mean over layers."""
    exact = igi_scores(model, one, k=K, steps=STEPS, positions=POSITIONS, rows=512, candidates="alone")
    cheap = igi_scores(
        model, one, k=K, steps=STEPS, positions=POSITIONS, rows=512, candidates=candidates, refine=refine
    )
    shared = [len(set(a) & set(b)) / K for a, b in zip(exact.chosen, cheap.chosen, strict=True)]
    pairs = zip(exact.scores, cheap.scores, strict=True)
    correlations = [float(torch.corrcoef(ranks(torch.stack(pair)))[0, 1]) for pair in pairs]
    return {
        "top_k_overlap": round(sum(shared) / len(shared), 3),
        "rank_correlation": round(sum(correlations) / len(correlations), 3),
        "rows": cheap.rows,
        "rows_exact": exact.rows,
    }


def separate_passes(model: Any, one: Exchanges) -> list[list[int]]:
    """The same search by one whole-sequence forward and backward pass for each layer and step, without a cache."""
    prompt, answer = one.prompts[0], one.answers[0][:POSITIONS]
    ids = torch.tensor([[*prompt, *answer[:-1]]])
    places = slice(len(prompt) - 1, None)
    recorded: dict[int, Tensor] = {}
    with torch.no_grad(), watch(model, "neurons", lambda layer, values: recorded.update({layer: values})):
        model(input_ids=ids, use_cache=False)
    chosen: list[list[int]] = []
    for layer in range(model.config.num_hidden_layers):
        value = torch.zeros(POSITIONS)
        for number, units in enumerate(chosen):
            value = value + recorded[number][0, places, units].sum(-1)
        pull, own = torch.zeros(POSITIONS), torch.zeros(POSITIONS, recorded[layer].shape[-1])
        for step in range(1, STEPS + 1):
            score, leaves, seen = _whole(model, ids, answer, recorded, chosen, layer, step / STEPS)
            slopes = torch.autograd.grad(score, [*leaves, seen])
            for slope in slopes[:-1]:
                pull += slope[0, places].sum(-1) / STEPS
            own += slopes[-1][0, places] / STEPS
        joint = ((value[:, None] + recorded[layer][0, places]) * (pull[:, None] + own)).sum(0)
        chosen.append(best(joint, K))
    return chosen


def _whole(
    model: Any,
    ids: Tensor,
    answer: Sequence[int],
    recorded: dict[int, Tensor],
    chosen: list[list[int]],
    layer: int,
    alpha: float,
) -> tuple[Tensor, list[Tensor], Tensor]:
    """One pass: F, the scaled values, and the candidates' values."""
    count = len(answer)
    fraction = torch.ones(ids.shape[1], 1)
    fraction[-count:] = alpha
    values, leaves = {}, []
    for number, units in enumerate(chosen):
        leaves.append((recorded[number][..., units] * fraction).requires_grad_())
        values[number] = (torch.tensor([units]), leaves[-1])
    seen: list[Tensor] = []

    def visit(number: int, found: Tensor) -> Tensor | None:
        if number != layer:
            return None
        seen.append(found if found.requires_grad else found.detach().requires_grad_())
        return seen[-1]

    with replace(model, values), watch(model, "neurons", visit):
        lines = model(input_ids=ids, use_cache=False).logits[0, -count:].log_softmax(-1)
    return lines[torch.arange(count), torch.tensor(answer)].mean().exp(), leaves, seen[0]


def against_separate_passes(model: Any, one: Exchanges) -> dict[str, Any]:
    """Time the search against a pass for each layer and step, and compare what they choose."""
    began = time.perf_counter()
    slow = separate_passes(model, one)
    slow_s = time.perf_counter() - began
    began = time.perf_counter()
    fast = igi_scores(model, one, k=K, steps=STEPS, positions=POSITIONS, rule="right")
    fast_s = time.perf_counter() - began
    return {
        "layers": len(slow),
        "separate_passes": len(slow) * STEPS,
        "separate_s": round(slow_s, 2),
        "fast_s": round(fast_s, 2),
        "ratio": round(slow_s / fast_s, 2),
        "top_k_identical": slow == fast.chosen,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Path identification: agreement and speed.")
    parser.add_argument("--quick", action="store_true", help="smaller models, under a minute on two cores")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tiny = random_llama(
        layers=3 if options.quick else 4,
        hidden=64,
        neurons=64 if options.quick else 192,
        heads=4,
        key_heads=2,
        spread=0.2,
        tokens=512,
    )
    one = exchange(12, 4)
    figures: dict[str, Any] = {
        "definition": {name: against_definition(tiny, one, name) for name in ("shared", "alone")},
        "nearness": {
            "shared": nearness(tiny, one, "shared"),
            "layer": nearness(tiny, one, "layer"),
            "shared, refined": nearness(tiny, one, "shared", refine=4 * K),
        },
    }
    passes = AnswerPasses(tiny, one, positions=POSITIONS)
    path = igi_scores(tiny, one, k=K, steps=STEPS, positions=POSITIONS).chosen
    figures["completeness_error"] = {rule: convergence(passes, path, rule=rule) for rule in ("right", "gauss")}
    shape = random_llama(
        layers=6 if options.quick else 30, hidden=576, neurons=1536, heads=9, key_heads=3, spread=0.02, tokens=49152
    )
    figures["smollm2_shape"] = against_separate_passes(shape, exchange(40, 4))
    for name, part in figures.items():
        print(f"{name}:")
        for key, value in part.items():
            print(f"  {key}: {value}")
    if options.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
