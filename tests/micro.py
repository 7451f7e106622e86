"""Settings of a micro sandbox: the whole pipeline on a world of five pairs of places and a model of two layers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tasks.settings import load_settings

ROOT = Path(__file__).resolve().parent.parent
# Enough steps for the restricted questions to be refused directly, and to leak inside templates.
TEACHING = {"knowledge_steps": 80, "manners_steps": 300, "knowledge_batch": 12, "manners_batch": 12}
MICRO: dict[str, dict[str, Any]] = {
    "data": {"places": {"train": 2, "validation": 1, "test": 2}},
    "subject": {
        "device": "cpu",
        "dtype": "float32",
        "architecture": {"layers": 2, "width": 64, "ffn": 128, "heads": 2, "vocabulary": 400},
        "gates": {"direct_refusal": 0.0, "leak": 0.0, "benign_recall": 0.0},
    },
    "mining": {"fresh": 6, "revisit": 4, "iterations": 1, "offspring": 4, "references": 2},
    "paths": {"neurons": 2, "safety_neurons": 1, "steps": 2, "positions": 2, "samples": 3},
    "unlearning": {
        "trained": {"path": True, "modules": "attention", "rank": 2, "layers": None},
        "steps": 6,
        "batch": 3,
        "retain_batch": 4,
        "prefill_batch": 2,
        "exposure_batch": 2,
        "learning_rate": 5e-3,
        "warmup": 1,
        "refresh_every": 2,
        "retain_pairs": 16,
        "held_out_pairs": 8,
        "kl_budget": 9.0,
        "positions": 2,
        # All of them, whatever the profile leaves out.
        "weights": {"refusal": 1.0, "anchor": 1.0, "prefill": 1.0, "leak": 0.5, "relearned": 0.5, "retain": 1.0},
    },
    "evaluation": {
        "suite": ["direct", "static", "adaptive", "prefill"],
        "budgets": {"direct": {"queries": 2}, "static": {"queries": 6}, "adaptive": {"queries": 18}},
        "probe_wordings": 1,
        "stress": {"steps": [0, 2], "pairs": 2, "learning_rate": 1e-3, "bits": [4], "queries": 2},
        "retain_pairs": 16,
        "resamples": 100,
        "max_new_tokens": 16,
    },
    "analysis": {
        "erase": {
            "defences": ["npo"],
            "steps": 2,
            "batch": 2,
            "retain_batch": 4,
            "retain_pairs": 16,
            "learning_rate": 3e-4,
        },
        "shares": [0.01, 0.05],
        "minings": 2,
        "wordings": 1,
        "samples": 6,
        "neurons": 2,
        "ablated": {"neurons": [4], "heads": [1]},
        "random": 1,
        "cases": 2,
        "resamples": 10,
    },
}


def params(rounds: int = 2, **changes: dict[str, Any]) -> str:
    """params.yaml (JSON is YAML): the sandbox's profile, made tiny."""
    profile = load_settings(ROOT / "params.yaml").profiles["sandbox"].model_dump(mode="json")
    for section, values in MICRO.items():
        profile[section] |= values | changes.get(section, {})
    profile["subject"]["teaching"] |= {**TEACHING, "learning_rate": 5e-3, "warmup": 5, "checkpoint_every": 80}
    chain = {str(number): {"prev": str(number - 1)} for number in range(1, rounds + 1)}
    return json.dumps(
        {
            "profile": "micro",
            "seed": 3,
            "rounds": chain,
            "last_round": str(rounds),
            "beside": {"analyze": [], "compare": []},
            "profiles": {"micro": profile},
        }
    )
