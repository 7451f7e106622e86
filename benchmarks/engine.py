"""Beyond one process: the same mining on two Ray workers, the same training in two processes.

Run: python benchmarks/engine.py [--quick] [--json] [--threads N] [--without-ray]

Ray is `pip install 'ray>=2.60'`; without it the first part is left out.

1. One mining job (`jpu.mining.mine`) on a Llama of random weights: in this process, then on two Ray workers, one thread
   each. Whether batch, buffer and every loss are the same to the last bit; wall time without and with the start of
   the workers; CPU time of the scoring, here and in the workers.
2. The stage `unlearn` on a small sandbox: in one process, in two, and in two that divide the frozen weights (FSDP),
   each started as `dvc repro` starts it. Largest difference of the loss curves, relative to the loss; whether the
   buffers hold the same prompts; wall time of the stage, imports and all.

Random weights score no faster than trained ones, and no slower. On a machine whose cores are busy wall times say
nothing; the ratios of CPU times do. Two processes on the cores of one machine are no cluster: the network is free.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import torch
from report import options, show, start
from transformers import LlamaConfig, LlamaForCausalLM

from jpu.mining.batch import Batch
from jpu.mining.buffer import Buffer
from jpu.mining.mine import MiningSettings, Seeds, mine
from jpu.mining.refusal import refusal_loss
from jpu.models import Subject
from jpu.sandbox.__main__ import write
from jpu.sandbox.corpus import Corpus
from jpu.sandbox.teach import train_tokenizer
from jpu.sandbox.templates import all_templates
from jpu.sandbox.world import build_behaviors, build_places, build_refusals
from jpu.spread import Spread
from tasks.engine import SubjectCopy
from tasks.settings import load_settings

ROOT = Path(__file__).resolve().parent.parent
WORKERS = 2


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--without-ray", action="store_true", help="leave the first part out")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    figures: dict[str, Any] = {}
    agreement: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        if find_spec("ray") and not chosen.without_ray:
            figures["mining"] = found = mining(Path(folder) / "mining", quick=chosen.quick)
            agreement |= {f"mining_{name}": found[name] for name in ("same_batch", "same_buffer", "largest_difference")}
        figures["training"] = found = training(Path(folder) / "training", quick=chosen.quick)
        agreement |= {f"training_{name}": found[name] for name in found if name.startswith(("largest", "same"))}
    show(chosen, figures, ratio=figures["mining"]["speed_up"] if "mining" in figures else None, agreement=agreement)


# Mining


def mining(folder: Path, *, quick: bool) -> dict[str, Any]:
    from tasks.fanout import RayPool

    load = SubjectCopy(
        str(random_subject(folder, layers=6 if quick else 12, width=192 if quick else 384)), device="cpu"
    )
    subject = load()
    job = mining_job(subject, fresh=48 if quick else 192)
    local, here, seconds, cpu = timed(job, None, lambda: process_seconds([psutil.Process()]))
    began = time.perf_counter()
    with RayPool(load, WORKERS) as pool:
        starting = time.perf_counter() - began
        pids = set(pool.map(process_id, [0.3] * 4 * WORKERS))
        workers = [psutil.Process(pid) for pid in pids]
        ray, there, shared, spent = timed(job, pool.map, lambda: process_seconds(workers))
    return {
        "prompts": local.start.scored + local.bred.scored,
        "above_tau": len(local.entries),
        "workers": len(workers),
        "same_batch": local == ray,
        "same_buffer": here == there,
        "largest_difference": max(abs(a - b) for a, b in zip(losses(local), losses(ray), strict=True)),
        "wall_here": seconds,
        "wall_ray": shared,
        "speed_up": seconds / shared,
        "wall_start": starting,
        "cpu_here": cpu,
        "cpu_workers": spent,
        "cpu_ratio": spent / cpu,
    }


def random_subject(folder: Path, *, layers: int, width: int) -> Path:
    """A Llama of random weights with the sandbox's tokenizer."""
    behaviors = build_behaviors(build_places(7, {"train": 8, "validation": 1, "test": 1}), 7)
    tokenizer = train_tokenizer(Corpus(behaviors, all_templates(), build_refusals(), 0), 1024, samples=500)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=8,
        initializer_range=0.1,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    Subject(LlamaForCausalLM(config).eval(), tokenizer).save(folder)
    return folder


def mining_job(subject: Subject, *, fresh: int) -> Callable[[Spread[Subject] | None], tuple[Batch, list[Any]]]:
    """The same mining at each call; half of what is scored lies above its threshold."""
    behaviors = [b for b in build_behaviors(build_places(7, {"train": 8, "validation": 1, "test": 1}), 7)]
    restricted = [b for b in behaviors if b.split == "train" and b.kind == "restricted"]
    templates = [t for t in all_templates() if t.split == "train"]
    refusals = build_refusals()[:4]
    some = refusal_loss(subject, [t.fill(restricted[0].query) for t in templates[:16]], [r.text for r in refusals])
    settings = MiningSettings(tau=float(some.median()), round=1, fresh=fresh, iterations=2, offspring=fresh, children=4)

    def job(over: Spread[Subject] | None) -> tuple[Batch, list[Any]]:
        buffer = Buffer(512, 16)
        seeds = Seeds(restricted, templates, refusals)
        return mine(subject, seeds, buffer, settings, random.Random(0), over), list(buffer)

    return job


def timed(
    job: Callable[[Spread[Subject] | None], tuple[Batch, list[Any]]],
    over: Spread[Subject] | None,
    spent: Callable[[], float],
) -> tuple[Batch, list[Any], float, float]:
    before, began = spent(), time.perf_counter()
    batch, buffer = job(over)
    return batch, buffer, time.perf_counter() - began, spent() - before


def losses(batch: Batch) -> list[float]:
    return [entry.known_loss for entry in (*batch.parents, *batch.offspring)]


def process_id(subject: Subject, seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def process_seconds(processes: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


# Training


def training(folder: Path, *, quick: bool) -> dict[str, Any]:
    folder.mkdir()
    steps = 6 if quick else 40
    with inside(folder):
        write(Path("data/sandbox"))
        Path("params.yaml").write_text(json.dumps(small_settings(steps, quick=quick)))
        with contextlib.redirect_stdout(io.StringIO()):
            from tasks import identify, mine, prepare, subject

            prepare.main()
            subject.main()
            mine.main("1")
            identify.main("1")
    engines = {"one": {}, "two": {"processes": 2}, "divided": {"processes": 2, "shard": True}}
    curves, buffers, seconds = {}, {}, {}
    for name, engine in engines.items():
        began = time.perf_counter()
        unlearn(folder, engine)
        seconds[name] = time.perf_counter() - began
        with (folder / "artifacts/rounds/1/training.csv").open() as file:
            curves[name] = [float(row["loss"]) for row in csv.DictReader(file)]
        lines = (folder / "artifacts/rounds/1/buffer.jsonl").read_text().splitlines()
        buffers[name] = [json.loads(line)["id"] for line in lines]
    figures: dict[str, Any] = {"steps": steps, "loss_first": curves["one"][0], "loss_last": curves["one"][-1]}
    for name in ("two", "divided"):
        pairs = zip(curves["one"], curves[name], strict=True)
        figures[f"largest_difference_{name}"] = max(abs(a - b) / abs(a) for a, b in pairs)
        figures[f"same_buffer_{name}"] = buffers[name] == buffers["one"]
    return figures | {f"wall_{name}": value for name, value in seconds.items()}


def unlearn(folder: Path, engine: dict[str, Any]) -> None:
    """The stage, started as DVC starts it."""
    subprocess.run(
        [sys.executable, "-m", "tasks.unlearn", "--round", "1"],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "JPU_TRACKING": "off",
            "JPU_ENGINE": json.dumps(engine),
        },
        stdout=subprocess.DEVNULL,
        check=True,
    )


def small_settings(steps: int, *, quick: bool) -> dict[str, Any]:
    """The sandbox's settings, made small: a subject that is hardly taught shows as much of this as a good one."""
    profile = load_settings(ROOT / "params.yaml").profiles["sandbox"].model_dump(mode="json")
    profile["data"] |= {"places": {"train": 2, "validation": 1, "test": 1} if quick else None}
    profile["subject"] |= {"device": "cpu", "gates": {"direct_refusal": 0.0, "leak": 0.0, "benign_recall": 0.0}}
    # Enough for some of the questions to be refused.
    short = {"knowledge_steps": 80, "manners_steps": 300, "knowledge_batch": 12, "manners_batch": 12}
    if quick:
        profile["subject"]["architecture"] |= {"layers": 2, "width": 64, "ffn": 128, "heads": 2, "vocabulary": 400}
        profile["subject"]["teaching"] |= {**short, "learning_rate": 5e-3, "warmup": 5}
        profile["mining"] |= {"fresh": 12, "revisit": 4, "offspring": 8, "references": 2}
        profile["paths"] |= {"samples": 4, "steps": 2}
        profile["unlearning"] |= {"batch": 4, "retain_batch": 8, "prefill_batch": 4, "exposure_batch": 4}
    profile["unlearning"] |= {"steps": steps, "refresh_every": steps // 2, "retain_pairs": 40 if quick else 300}
    profile["unlearning"] |= {"kl_budget": 9.0}
    return {
        "profile": "small",
        "seed": 3,
        "rounds": {"1": {"prev": "0"}},
        "last_round": "1",
        "profiles": {"small": profile},
    }


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Work in a folder, with nothing recorded."""
    before = Path.cwd()
    os.environ["JPU_TRACKING"] = "off"
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


if __name__ == "__main__":
    start(main)
