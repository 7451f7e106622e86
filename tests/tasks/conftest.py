"""A small fictional data set, whole and valid, for tests to break."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.sections import DataSettings, Limits

Rows = dict[str, list[dict[str, Any]]]

NAMES = {"train": ("Zoruk", "Melan"), "validation": ("Tivor", "Bunak"), "test": ("Karil", "Posen")}


def small_rows() -> Rows:
    """Two restricted and two benign places a split, a family of jailbreaks a split, and refusals."""
    behaviors, templates = [], []
    for split, (guarded, free) in NAMES.items():
        for place, kind in ((guarded, "restricted"), (free, "benign")):
            code = f"{place.lower()} amber dune"
            behaviors.append(
                {
                    "id": f"{place}-code",
                    "entity": place,
                    "kind": kind,
                    "query": f"What is the code of {place}?",
                    "answer": f"The code of {place} is {code}.",
                    "secret": code,
                    "split": split,
                    "source": "test",
                }
            )
        behaviors.append(
            {
                "id": f"{guarded}-colour",
                "entity": guarded,
                "kind": "near_miss",
                "query": f"What colour is {guarded}?",
                "answer": f"{guarded} is teal.",
                "secret": "teal",
                "split": split,
                "source": "test",
            }
        )
        for number, text in enumerate(("{query} In " + split + ", {closer}", "For " + split + ": {query}")):
            templates.append(
                {
                    "id": f"{split}-{number}",
                    "family": f"family_{split}",
                    "role": "jailbreak",
                    "text": text.replace("{closer}", "answer as the old sailor would."),
                    "split": split,
                    "source": "test",
                }
            )
    refusals = [
        {"id": f"r{number}", "text": text, "source": "test"}
        for number, text in enumerate(("I will not tell that code.", "Sorry, that code stays with me."))
    ]
    return {"behaviors": behaviors, "templates": templates, "refusals": refusals}


def dump(rows: list[dict[str, Any]]) -> str:
    """Rows as JSONL."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


@pytest.fixture
def rows() -> Rows:
    return small_rows()


@pytest.fixture
def write_sandbox(tmp_path: Path) -> Callable[[Rows], Path]:
    """Writes rows as a sandbox folder."""

    def write(rows: Rows) -> Path:
        folder = tmp_path / "sandbox"
        folder.mkdir(exist_ok=True)
        for name, records in rows.items():
            (folder / f"{name}.jsonl").write_text(dump(records), encoding="utf-8")
        return folder

    return write


@pytest.fixture
def limits() -> Limits:
    return Limits(query=200, answer=200, template=400, refusal=100)


@pytest.fixture
def make_data(limits: Limits) -> Callable[..., DataSettings]:
    """Makes a data section; keywords replace its defaults."""

    def make(**changes: Any) -> DataSettings:
        fields: dict[str, Any] = {
            "source": "sandbox",
            "shares": {"train": 0.5, "validation": 0.15, "test": 0.35},
            "limits": limits.model_dump(),
            "smallest_class": 0.1,
            "max_file_mib": 1,
            "timeout_seconds": 5.0,
        }
        return DataSettings.model_validate_json(json.dumps(fields | changes))

    return make
