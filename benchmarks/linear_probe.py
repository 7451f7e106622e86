"""A linear probe of what a subject knows of the name that it is asked for: is it restricted?

Run: python benchmarks/linear_probe.py [--subject FOLDER] [--data FOLDER] [--quick] [--json] [--threads N]

A defence that is trained on the names of one split has to tell, for names that it never saw, which are restricted. This
says how much of that is linearly there in M_0: a logistic regression (scikit-learn's, with its ridge) is fitted to the
residual stream behind each layer, on names of the train split, and judged on those of the test split. Benign names are
asked for in the very words of restricted ones, so nothing but the name tells them apart. Two places, the last token of
the prompt and the last of the name; three contexts:

  bare       the question
  templates  inside jailbreak templates: fitted in those of the train split, judged in those of the test split
  chats      after one to eight questions that were answered

Reported for each, of the layer with the best AUC: AUC, accuracy, and the names of which more than a fifth of the
prompts are misjudged. The layer is chosen on what it is judged on, so all of them are on the high side. A linear probe
is a lower bound of what is there: what it does not find, something else may.

Reads artifacts/subject and artifacts/prepared of a run of the sandbox; with --quick and no such run, a subject of
random weights on the sandbox's data, of which nothing can be read.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from report import Timed, options, show, start
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from subjects import PLACES as NAMES
from subjects import random_subject

from jpu.data.schemas import Behavior, Split, Template
from jpu.models import Subject, token_batches
from jpu.sandbox.templates import all_templates
from jpu.sandbox.world import build_behaviors, build_places
from jpu.unlearning.retain import alike
from jpu.unlearning.streams import streams
from tasks.layout import load_prepared

CONTEXTS, PLACES = ("bare", "templates", "chats"), ("last", "name")
# Prompts of a name in each context, and the most earlier questions of a chat.
PROMPTS, LONGEST = {"bare": 1, "templates": 6, "chats": 10}, 8
# Inverse strength of the ridge, as scikit-learn has it.
PENALTY = 1.0


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--subject", type=Path, default=Path("artifacts/subject"))
    parser.add_argument("--data", type=Path, default=Path("artifacts/prepared"))
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    if chosen.quick and not chosen.subject.exists():
        subject, templates = random_subject(), all_templates()
        behaviors = build_behaviors(build_places(7, NAMES), 7)
    else:
        prepared = load_prepared(chosen.data)
        subject, behaviors, templates = Subject.load(chosen.subject), prepared.behaviors, prepared.templates
    figures: dict[str, Any] = {}
    with Timed() as took:
        for context in CONTEXTS:
            count = min(2, PROMPTS[context]) if chosen.quick else PROMPTS[context]
            seen = {split: read(subject, behaviors, templates, split, context, count) for split in ("train", "test")}
            for place in PLACES:
                figures[f"{context}, {place}"] = judged(seen["train"], seen["test"], place)
    show(chosen, {**figures, "cpu_s": round(took.cpu, 1)}, ratio=None, agreement=None)


def read(
    subject: Subject,
    behaviors: Sequence[Behavior],
    templates: Sequence[Template],
    split: Split,
    context: str,
    count: int,
) -> dict[str, Any]:
    """Streams at both places, (layers, prompts, width) each; whether each is restricted; and the names."""
    rng = random.Random(f"{split}-{context}")
    mine = [b for b in behaviors if b.split == split]
    restricted = [b for b in mine if b.kind == "restricted"]
    benign = alike([b for b in mine if b.kind == "benign"], restricted)
    told = [b for b in mine if b.kind in ("benign", "near_miss")]
    wrappers = [t for t in templates if t.split == split and t.role == "jailbreak"]
    prompts: list[tuple[list[int], int]] = []
    for behavior in (*restricted, *benign):
        for _ in range(count):
            shots = rng.sample(told, rng.randint(1, min(LONGEST, len(told)))) if context == "chats" else []
            text = rng.choice(wrappers).fill(behavior.query) if context == "templates" else behavior.query
            turns = tuple(part for shot in shots for part in (shot.query, shot.answer))
            ids = subject.prompt_ids(text, turns=turns)
            prompts.append((ids, name_ends(subject, ids, behavior.entity)))
    layers = list(range(len(subject.layers)))
    found = {place: torch.empty(len(layers), len(prompts), subject.base.config.hidden_size) for place in PLACES}
    for batch in token_batches([len(ids) for ids, _ in prompts]):
        rows, _ = subject.collate([prompts[i][0] for i in batch], [[] for _ in batch])
        for place in PLACES:
            keep = torch.zeros(rows.shape, dtype=torch.bool)
            at = [len(prompts[i][0]) - 1 if place == "last" else prompts[i][1] for i in batch]
            keep[range(len(batch)), at] = True
            with torch.no_grad():
                found[place][:, batch] = streams(subject, layers, rows, keep.to(rows.device)).cpu()
    labels = np.array([1] * len(restricted) * count + [0] * len(benign) * count)
    return {**found, "restricted": labels, "names": [b.entity for b in (*restricted, *benign) for _ in range(count)]}


def name_ends(subject: Subject, ids: Sequence[int], name: str) -> int:
    """The token that completes a name's last mention."""
    decoded = [subject.tokenizer.decode(ids[: end + 1]) for end in range(len(ids))]
    mentions = decoded[-1].count(name)
    return next(end for end, text in enumerate(decoded) if text.count(name) == mentions)


def judged(train: dict[str, Any], test: dict[str, Any], place: str) -> dict[str, float | int]:
    """The best layer's probe of one place, on names that it was not fitted to."""
    best: dict[str, float | int] = {"auc": -1.0}
    for layer in range(len(train[place])):
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=PENALTY, max_iter=1000))
        probe.fit(train[place][layer].numpy(), train["restricted"])
        scores = probe.decision_function(test[place][layer].numpy())
        auc = float(roc_auc_score(test["restricted"], scores))
        right = (scores > 0) == (test["restricted"] == 1)
        by_name: dict[str, list[bool]] = {}
        for name, hit in zip(test["names"], right.tolist(), strict=True):
            by_name.setdefault(name, []).append(hit)
        missed = sum(sum(hits) / len(hits) < 0.8 for hits in by_name.values())
        if auc > best["auc"]:
            accuracy = float(right.mean())
            best = {"auc": round(auc, 4), "accuracy": round(accuracy, 3), "layer": layer + 1}
            best |= {"names_misjudged": missed, "names": len(by_name)}
    return best


if __name__ == "__main__":
    start(main)
