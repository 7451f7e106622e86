"""Scale: time and peak memory of mine → identify → unlearn on a Llama of a given size, with random weights.

Run: python benchmarks/scale.py [--parameters tiny|100m|8b] [--device cpu|cuda] [--dtype bfloat16] [--no-checkpointing]
[--limit GIB] [--steps N] [--samples N] [--fresh N] [--quick] [--json] [--threads N]

A model of the shape is made on the device in its dtype, with the sandbox's tokenizer and data, and taken through the
library functions of the three stages, with the sandbox's settings of params.yaml: one mining, one identification of
every path, and some steps of JPU with all exposures, the mining within it and the KL measured. Weights are random, so
what is mined, found and trained means nothing; time and memory do not depend on that.

Before anything is made, the memory that is needed is worked out from the shape (docs/paths.md has the arithmetic), and
a machine that has less is refused. Reported beside it are, for each stage, seconds and peak memory: on CUDA what
PyTorch held at most, on Linux the process's largest resident set less what it had before the model was made. At the end
the adapter is disabled, and the logits have to be those of the model before anything was attached: M_0 is the same
weights, in memory once.

Does not measure evaluation, teaching, or writing to disk. Numbers of prompts are smaller on a CPU (--samples, --fresh,
--steps); the settings of batches are not.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from report import Timed, options, show, start
from transformers import LlamaConfig, LlamaForCausalLM

from jpu.errors import BudgetError
from jpu.mining.buffer import Buffer
from jpu.mining.refusal import Calibration
from jpu.models import BATCH_TOKENS, Subject, pick_device, pick_dtype, plain_texts
from jpu.sandbox.corpus import Corpus
from jpu.sandbox.teach import train_tokenizer
from jpu.sandbox.templates import all_templates
from jpu.sandbox.world import build_behaviors, build_places, build_refusals
from tasks.attribution import searched
from tasks.hardening import Stretches, adapt, build
from tasks.layout import Prepared
from tasks.mining import Miner
from tasks.settings import load_settings

GIB = 2**30
ROOT = Path(__file__).resolve().parent.parent
# Tokens of a prompt of the sandbox in a template, and of an answer to it: long ones.
PROMPT, ANSWER = 100, 16


@dataclass(frozen=True)
class Shape:
    """A Llama.

    Attributes:
        layers: Decoder layers.
        width: Hidden size.
        ffn: Neurons of a layer.
        heads: Query heads.
        key_heads: Key and value heads.
        vocabulary: Rows of the embedding.
        tied: Whether the head is the embedding.
    """

    layers: int
    width: int
    ffn: int
    heads: int
    key_heads: int
    vocabulary: int
    tied: bool

    @property
    def keys(self) -> int:
        """Width of keys, and of values."""
        return self.width // self.heads * self.key_heads

    @property
    def parameters(self) -> int:
        """Weights, norms left out."""
        layer = 2 * self.width * (self.width + self.keys) + 3 * self.width * self.ffn
        return self.layers * layer + (1 if self.tied else 2) * self.vocabulary * self.width


SHAPES = {
    "tiny": Shape(4, 128, 384, 8, 4, 1536, True),
    "100m": Shape(12, 768, 2304, 12, 4, 32000, True),
    "8b": Shape(32, 4096, 14336, 32, 8, 128256, False),
}


def estimate(shape: Shape, size: int, settings: Any, checkpointing: bool) -> dict[str, int]:
    """Bytes that the stages need, by part; each stage's own parts stand beside the weights, never beside another's.

    Args:
        shape: Of the model.
        size: Bytes of a weight.
        settings: Profile of params.yaml.
        checkpointing: Whether a layer keeps its input alone for the backward pass.
    """
    paths, training = settings.paths, settings.unlearning
    token_cache = 2 * shape.layers * shape.keys * size
    # Of one token and layer what a backward pass needs: in the weights' dtype inputs and outputs of the matrices, in
    # float32 the norms and what goes into the adapter's factors.
    plain = size * (8 * shape.width + 4 * shape.ffn) + 16 * shape.width
    adapted = plain + 4 * (6 * shape.width + shape.ffn)
    vocabulary = 4 * shape.vocabulary
    rank = training.trained.rank
    units = paths.neurons + paths.safety_neurons
    factors = shape.layers * (rank * 6 * shape.width + 2 * rank * shape.keys + 3 * units * shape.width)
    one_hot = shape.layers * 3 * units * shape.ffn
    longest = max(training.batch, training.retain_batch, training.prefill_batch) * (PROMPT + ANSWER)
    logits = min(longest // (PROMPT + ANSWER) * ANSWER, 2**26 // shape.vocabulary + 1)
    rows = 128 * paths.positions
    kept = shape.layers * shape.width * size + adapted if checkpointing else shape.layers * adapted
    return {
        "weights": shape.parameters * size,
        "mine": 2 * BATCH_TOKENS * token_cache + BATCH_TOKENS * (plain // 2) + BATCH_TOKENS // PROMPT * 2 * vocabulary,
        "identify": paths.samples * (PROMPT * token_cache + shape.layers * paths.positions * shape.ffn * 4)
        + rows * (shape.layers * plain + 4 * vocabulary),
        # Weights, gradient, two moments and the last good state, in float32; the frozen factors once. Then the longest
        # pass with its logits, or, if that is more, the passes without a graph in which the KL is measured.
        "unlearn": 4 * (5 * factors + one_hot)
        + max(longest * kept + 5 * logits * vocabulary, BATCH_TOKENS * (token_cache + plain)),
    }


def make_subject(shape: Shape, prepared: Prepared, device: torch.device, dtype: torch.dtype) -> Subject:
    """The model, made where and as it is used, and the sandbox's tokenizer."""
    corpus = Corpus(prepared.behaviors, prepared.templates, prepared.refusals, 0)
    tokenizer = train_tokenizer(corpus, 1536, samples=600)
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.ffn,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_heads,
        max_position_embeddings=2048,
        tie_word_embeddings=shape.tied,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            model = LlamaForCausalLM(config).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(before)
    return Subject(model, tokenizer, "random weights")


class Meter:
    """Seconds and peak memory of stages.

    Args:
        device: What is measured.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.before = device, 0
        self.stages: dict[str, dict[str, float]] = {}
        self.before = self._reset()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure what runs inside."""
        self._reset()
        with Timed() as took:
            yield
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
        self.stages[name] = {
            "wall_s": round(took.wall, 2),
            "cpu_s": round(took.cpu, 2),
            "peak_gib": round((self._peak() - self.before) / GIB, 3),
        }

    def _reset(self) -> int:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        elif sys.platform == "linux":
            Path("/proc/self/clear_refs").write_text("5")
        return self._peak()

    def _peak(self) -> int:
        if self.device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self.device))
        if sys.platform != "linux":
            return int(psutil.Process().memory_info().rss)
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024


def free(device: torch.device) -> int:
    """Bytes that can still be had."""
    return int(torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available)


def data() -> Prepared:
    """The sandbox's world."""
    behaviors = build_behaviors(build_places(0, {"train": 24, "validation": 8, "test": 1}), 0)
    return Prepared(behaviors, all_templates(), build_refusals())


def run(chosen: argparse.Namespace, shape: Shape, device: torch.device, dtype: torch.dtype, settings: Any) -> Any:
    """Make the model and take it through the stages."""
    prepared = data()
    meter = Meter(device)
    with meter.stage("make"):
        subject = make_subject(shape, prepared, device, dtype)
    probe = torch.tensor([subject.prompt_ids("Which colour does the house have?")], device=device)
    with torch.no_grad():
        before = subject.model(input_ids=probe, use_cache=False).logits
    train = prepared.split("train")
    section = settings.mining
    miner = Miner(
        subject,
        train,
        Buffer(section.capacity, section.quota_per_template, section.low_visits),
        section,
        2000,
        # Random weights refuse nothing: all that is tried counts as a jailbreak, and every question as refused.
        Calibration(0.0, 0, 0, 0.0),
        [b.id for b in train.restricted],
        list(plain_texts(subject).values()),
    )
    with meter.stage("mine"):
        batch = miner.mine(1, random.Random("scale"))
    entries = list(batch.entries)
    with meter.stage("identify"):
        found = searched(subject, train, entries, settings.paths, 0, random.Random("scale"))
    parameters = sum(p.numel() for p in subject.base.parameters())
    with meter.stage("unlearn"):
        adapt(subject, found.path, settings.unlearning)
        training = build(subject, prepared, miner, settings.unlearning, "scale", found.path, settings.paths)
        done = training.run(Stretches(miner, entries, 1, "scale").refresh)
    with torch.no_grad(), subject.reference():
        apart = float((subject.model(input_ids=probe, use_cache=False).logits - before).abs().max())
    trained = sum(p.numel() for p in subject.model.parameters() if p.requires_grad)
    counts = {
        "parameters": parameters,
        "trained_parameters": trained,
        "scored_prompts": batch.start.scored + batch.bred.scored,
        "attributed_prompts": min(settings.paths.samples, len(entries)),
        "path_units": sum(map(len, found.path.neurons.values())) + sum(map(len, found.path.heads.values())),
        "training_steps": len(done.history),
    }
    return meter.stages, counts, apart


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--parameters", choices=SHAPES, default="tiny")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto", help="auto: bfloat16 on CUDA, float32 on a CPU")
    parser.add_argument("--no-checkpointing", action="store_true", help="keep all activations")
    parser.add_argument("--limit", type=float, help="GiB that may be used; what is free, by default")
    parser.add_argument("--steps", type=int, help="steps of training; 8, or 2 on a CPU")
    parser.add_argument("--samples", type=int, help="prompts that are attributed; as in params.yaml, or 4 on a CPU")
    parser.add_argument("--fresh", type=int, help="pairs that mining starts from; as in params.yaml, or 16 on a CPU")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    shape, device = SHAPES["tiny" if chosen.quick else chosen.parameters], pick_device(chosen.device)
    dtype = pick_dtype(chosen.dtype, device)
    profile = load_settings(ROOT / "params.yaml").profiles["sandbox"]
    small = device.type == "cpu"
    steps, checkpointing = chosen.steps or (2 if small else 8), not chosen.no_checkpointing
    samples = chosen.samples or (4 if small else profile.paths.samples)
    fresh = chosen.fresh or (16 if small else profile.mining.fresh)
    settings = profile.model_copy(
        update={
            "mining": profile.mining.model_copy(update={"fresh": fresh, "offspring": fresh * 2 // 3}),
            "paths": profile.paths.model_copy(update={"samples": samples, "gradient_checkpointing": checkpointing}),
            "unlearning": profile.unlearning.model_copy(
                update={
                    "steps": steps,
                    "refresh_every": max(1, steps // 2),
                    # Random weights have no utility to keep.
                    "kl_budget": 1e9,
                    "retain_pairs": 64,
                    "gradient_checkpointing": checkpointing,
                }
            ),
        }
    )
    needed = estimate(shape, dtype.itemsize, settings, checkpointing)
    peak = needed["weights"] + max(bytes for name, bytes in needed.items() if name != "weights")
    limit = int(chosen.limit * GIB) if chosen.limit else free(device)
    if peak > limit:
        raise BudgetError(
            f"{peak / GIB:.1f} GiB are needed at the peak, and {limit / GIB:.1f} GiB are there",
            where=f"{chosen.parameters} on {device}",
            mend="Choose a smaller model, a larger device, or leave --no-checkpointing out. Nothing was made.",
        )
    stages, counts, apart = run(chosen, shape, device, dtype, settings)
    measured = max(stage["peak_gib"] for stage in stages.values())
    weights = needed["weights"] / GIB
    show(
        chosen,
        {
            "model": {
                "size": chosen.parameters,
                "device": str(device),
                "dtype": str(dtype).removeprefix("torch."),
                **counts,
            },
            "checkpointing": checkpointing,
            "estimate_gib": {name: round(bytes / GIB, 3) for name, bytes in needed.items()}
            | {"peak": round(peak / GIB, 3)},
            **stages,
            "peak_gib": measured,
            "peak_over_weights": round(measured / weights, 2),
        },
        ratio=None,
        agreement={"reference_logits_apart": apart, "estimate_over_measured": round(peak / GIB / measured, 2)},
    )


if __name__ == "__main__":
    start(main)
