"""Read, split, check and write the data.

Run: python -m tasks.prepare      (or: dvc repro prepare)
Reads data/sandbox, or the files that the data section of params.yaml names, and what came in through the inbox;
writes artifacts/prepared/, whole or not at all. Looks at no model.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from jpu import files
from jpu.data.schemas import count_by
from jpu.sandbox.world import smaller_world
from tasks import suites
from tasks.additions import INBOX, add, read_inbox
from tasks.layout import PREPARED
from tasks.sections import DataSettings, Places
from tasks.settings import load_settings
from tasks.sources import SANDBOX, Collection, inputs, read_data, read_folder
from tasks.stage import run_stage
from tasks.tracking import stage_run
from tasks.validation import check


def main() -> None:
    """Run the stage."""
    settings = load_settings()
    data = settings.data
    with stage_run("prepare") as run:
        run.inputs(*inputs(data, SANDBOX), *([INBOX] if INBOX.is_dir() else []))
        # Without the lists of files: an address may hold a token. The manifest has them without.
        run.params(data.model_dump(exclude={"behaviors", "benign", "templates", "refusals"}))
        manifest = prepare(data, seed=settings.seed)
        run.metrics(manifest["counts"])
        run.artifact(PREPARED / "manifest.json")
        run.artifact(PREPARED / "validation.json")


def prepare(
    settings: DataSettings,
    *,
    seed: int,
    sandbox: Path = SANDBOX,
    inbox: Path = INBOX,
    prepared: Path = PREPARED,
) -> dict[str, Any]:
    """Read the data, check it, write it, and check what was written.

    Args:
        settings: Section `data`.
        seed: Seed of the splits of data that brings none.
        sandbox: Folder of the sandbox.
        inbox: Folder of what came in through the inbox; need not be there.
        prepared: Folder to write.

    Returns:
        The manifest: counts, digests of the files written, sources; with an inbox, how many of its records are left
        out because the data have them.

    Raises:
        DataError: What comes in (or goes out) breaks a format or an expectation; nothing is written.
        StorageError: A file cannot be read, or the folder cannot be written.
        InfrastructureError: An address cannot be reached.
    """
    own = read_data(settings, seed=seed, sandbox=sandbox, schema=True)
    arrived = read_inbox(inbox, schema=True)
    incoming, left_out = add(own, arrived)
    results = {"incoming": validate(incoming, settings)}
    if settings.source == "sandbox" and settings.places is not None:
        incoming, left_out = add(smaller(own, settings.places), arrived)
    with files.atomic_folder(prepared) as folder:
        files.write_jsonl(folder / "behaviors.jsonl", incoming.behaviors.records)
        files.write_jsonl(folder / "templates.jsonl", incoming.templates.records)
        files.write_jsonl(folder / "refusals.jsonl", incoming.refusals.records)
        outgoing = read_folder(folder, shown=prepared, schema=True)
        results["outgoing"] = validate(outgoing, settings)
        manifest = {
            "counts": counts(outgoing),
            "files": {source["name"]: source["sha256"] for source in outgoing.sources},
            "source": settings.source,
            "sources": incoming.sources,
        }
        if arrived is not None:
            manifest["inbox"] = {"left_out": left_out}
        files.write_json(folder / "validation.json", results)
        files.write_json(folder / "manifest.json", manifest)
    return manifest


def smaller(world: Collection, places: Places) -> Collection:
    """The sandbox with fewer places in it."""
    whole = world.behaviors
    chosen = smaller_world(whole.records, places.by_split())
    behaviors = replace(whole, records=[whole.records[i] for i in chosen], places=[whole.places[i] for i in chosen])
    return replace(world, behaviors=behaviors)


def validate(data: Collection, settings: DataSettings) -> list[dict[str, Any]]:
    """Check everything that is, or is to be, prepared.

    Returns:
        One result an expectation, without texts and times.

    Raises:
        DataError: An expectation fails; names file, rows, expectation and mend.
    """
    behaviors, templates, refusals = data.behaviors, data.templates, data.refusals
    limits = settings.limits
    checks = (
        suites.behaviors_suite(behaviors.records, where=behaviors.where, places=behaviors.places, limits=limits),
        suites.balance_suite(behaviors.records, where=behaviors.where, smallest_class=settings.smallest_class),
        suites.templates_suite(templates.records, where=templates.where, places=templates.places, limits=limits),
        suites.coverage_suite(templates.records, where=templates.where),
        suites.refusals_suite(refusals.records, where=refusals.where, places=refusals.places, limits=limits),
    )
    return [*data.results, *(result for suite, rows in checks for result in check(suite, rows))]


def counts(data: Collection) -> dict[str, Any]:
    """Records by kind and split."""
    behaviors, templates = data.behaviors.records, data.templates.records
    families = {(t.role, t.family, t.split): t for t in templates}
    return {
        "behaviors": count_by(behaviors, "kind", "split"),
        "entities": len({behavior.entity for behavior in behaviors}),
        "templates": count_by(templates, "role", "split"),
        "families": count_by(families.values(), "role", "split"),
        "refusals": len(data.refusals.records),
    }


if __name__ == "__main__":
    run_stage(main)
