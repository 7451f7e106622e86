"""dvc.yaml and params.yaml as they are shipped, whatever commands have switched on or put in place here since.

`make test` passes as well in a repository whose champion was hardened again: its pipeline has no subject of its own,
other rounds and other data.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PARAMS = ROOT / "params.yaml"
ROUNDS = "rounds:\n  '1': {prev: '0'}\n  '2': {prev: '1'}\nlast_round: '2'\n"
BELOW = "  # Each round, first"
# The hash of the sandbox in data.dvc.
DATA = "1491439abd91ff98d17abc1950e9a3d9.dir"
# Pinned to dvc.yaml by tests/tasks/test_rewriting.py.
SUBJECT = """\
  # Make the chat model that is attacked: train it, teach it, or take it as it is. Ends the run when it does not
  # refuse direct requests, or does not leak under attack. Writes round 0: no adapter, an empty buffer.
  subject:
    cmd: python -m tasks.subject
    deps:
      - artifacts/prepared
      - tasks/subject.py
      - jpu/sandbox
      - jpu/models
      - jpu/attacks/base.py
      - jpu/attacks/direct.py
      - jpu/attacks/static.py
      - jpu/judges
      - jpu/evaluation/gates.py
    params:
      - seed
      - "profiles.${profile}.subject"
    outs:
      - artifacts/subject
      - artifacts/rounds/0/adapter
      - artifacts/rounds/0/buffer.jsonl
    metrics:
      - artifacts/subject.json

"""


def shipped_pipeline() -> str:
    """The text of dvc.yaml, with the stage that makes the subject, which a champion's has no more."""
    text = (ROOT / "dvc.yaml").read_text(encoding="utf-8")
    return text if "\n  subject:\n" in text else text.replace(BELOW, SUBJECT + BELOW, 1)


def shipped_params() -> str:
    """The text of params.yaml, with two rounds, and without the stages that `jpu analyze` and `jpu compare` turn on."""
    text = PARAMS.read_text(encoding="utf-8")
    text = re.sub(r"^(  (?:analyze|compare): )\[\w*\]", r"\1[]", text, flags=re.MULTILINE)
    return re.sub(r"^rounds:\n(?:[ ].*\n)*last_round: .*\n", ROUNDS, text, flags=re.MULTILINE)
