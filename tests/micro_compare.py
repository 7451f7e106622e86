"""A comparison on a micro sandbox: one subject, two methods with two trials each, two seeds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.micro import params

SMALL = {"direct": {"queries": 2}, "static": {"queries": 6}}
EXPERIMENTS: dict[str, Any] = {
    "seeds": [0, 1],
    "budget": {"steps": 4, "seconds": 600.0, "trials": 2},
    "tuning": {"attacks": SMALL, "probe_wordings": 1, "retain_pairs": 12, "utility_weight": 1.0},
    "evaluation": {
        "attacks": {**SMALL, "prefill": {"queries": 4}},
        "probe_wordings": 1,
        "retain_pairs": 12,
        "max_new_tokens": 16,
        "after": {
            "bits": [8],
            "prune": [0.3],
            "steps": [1, 2],
            "threshold": 0.5,
            "pairs": 2,
            "learning_rate": 1e-3,
            "queries": 2,
        },
    },
    "report": {"reference": "jpu", "resamples": 200, "confidence": 0.95},
    "subjects": {
        "micro": {
            "group": "micro",
            "profile": "micro",
            "seed": 3,
            "tuned_on": "micro",
            # Of six places and all the small talk, too few are restricted for a pipeline's data.
            "data": {"places": None, "smallest_class": 0.0},
            "world": {"seed": 7, "places": {"train": 2, "validation": 1, "test": 2}},
        }
    },
    "methods": {
        "original": {"words": "the subject as it is", "kind": "original"},
        "jpu": {
            "words": "JPU",
            "kind": "ours",
            "tune": [{"unlearning": {"learning_rate": 1e-3}}, {"unlearning": {"learning_rate": 5e-3}}],
        },
        "sft": {
            "words": "refusal fine-tuning",
            "kind": "baseline",
            "unlearning": {"defence": "refusal_sft", "trained": None},
            "tune": [{"unlearning": {"learning_rate": 1e-3}}, {"unlearning": {"learning_rate": 5e-3}}],
        },
        "no_anchor": {
            "words": "without the anchor loss",
            "kind": "ablation",
            "tuned_as": "jpu",
            "unlearning": {"weights": {"anchor": 0.0}},
        },
    },
}


def write_experiments(folder: Path, **changes: Any) -> Path:
    """params.yaml and experiments/compare.yaml (JSON is YAML) in a folder; `changes` replace the file's parts."""
    (folder / "params.yaml").write_text(params())
    path = folder / "experiments/compare.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(EXPERIMENTS | changes, indent=1))
    return path
