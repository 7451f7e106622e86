"""Every benchmark runs in its quick form, and its last line is one JSON object in the form that all of them share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted(p.name for p in (ROOT / "benchmarks").glob("*.py") if p.name not in ("report.py", "subjects.py"))
KEYS = {"benchmark", "quick", "threads", "ratio", "agreement", "figures"}


def run(script: str, *options: str) -> tuple[dict[str, Any], str]:
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / script), *options],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1]), done.stdout


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("script", SCRIPTS)
def test_quick_and_json(script: str) -> None:
    found, _ = run(script, "--quick", "--json")
    assert found.keys() == KEYS
    assert found["benchmark"] == script.removesuffix(".py") and found["quick"] is True
    assert isinstance(found["figures"], dict) and found["figures"]
    assert found["ratio"] is None or found["ratio"] > 0
    if script == "path_identification.py":
        assert found["agreement"]["definition_max_difference"] < 1e-5
        assert found["agreement"]["definition_top_k_identical"] and found["agreement"]["smollm2_top_k_identical"]
    if script == "mining.py":
        assert max(found["agreement"].values()) < 1e-3
    if script == "scale.py":
        assert found["agreement"]["reference_logits_apart"] == 0.0


def test_a_size_that_does_not_fit_is_refused_before_anything_is_made() -> None:
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "benchmarks" / "scale.py"),
            "--parameters",
            "8b",
            "--device",
            "cpu",
            "--limit",
            "8",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 6
    assert "GiB are needed at the peak, and 8.0 GiB are there" in done.stderr and "Nothing was made." in done.stderr
