"""params.yaml as it is shipped, whatever commands have switched on in the working copy since."""

from __future__ import annotations

import re
from pathlib import Path

PARAMS = Path(__file__).resolve().parents[1] / "params.yaml"


def shipped_params() -> str:
    """The text, with the stages beside the main job off: `jpu analyze` and `jpu compare --report` turn them on."""
    text = PARAMS.read_text(encoding="utf-8")
    return re.sub(r"^(  (?:analyze|compare): )\[\w*\]", r"\1[]", text, flags=re.MULTILINE)
