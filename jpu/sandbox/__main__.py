"""Write the sandbox: python -m jpu.sandbox FOLDER; its attacker: python -m jpu.sandbox attacker FOLDER.

The same code writes the same bytes everywhere: this is how a fresh clone makes the data that data.dvc pins.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

from jpu.files import atomic_folder, write_json, write_jsonl
from jpu.sandbox.templates import all_templates
from jpu.sandbox.world import World, build_behaviors, build_places, build_refusals

WORLD = World()


def write(folder: Path, world: World = WORLD) -> None:
    """Write behaviors, templates, refusals and a manifest, whole or not at all.

    Raises:
        StorageError: The folder cannot be written.
    """
    places = build_places(world.seed, world.places, world.code_words)
    with atomic_folder(folder) as new:
        write_jsonl(new / "behaviors.jsonl", build_behaviors(places, world.seed, world.forms))
        write_jsonl(new / "templates.jsonl", all_templates())
        write_jsonl(new / "refusals.jsonl", build_refusals())
        files = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(new.glob("*.jsonl"))}
        manifest = {"seed": world.seed, "restricted_places": dict(world.places), "sha256": files}
        write_json(new / "manifest.json", manifest)


def write_attacker(folder: Path) -> None:
    """Teach the attacker of this world (half a minute), and write it as a model folder, whole or not at all.

    Raises:
        StorageError: The folder cannot be written.
    """
    from jpu.sandbox.attacker import teach_attacker

    behaviors = build_behaviors(build_places(WORLD.seed, WORLD.places), WORLD.seed)
    attacker = teach_attacker(behaviors, all_templates(), build_refusals(), seed=0)
    with atomic_folder(folder) as new:
        attacker.save(new)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m jpu.sandbox", description=__doc__)
    parser.add_argument("what", nargs="?", choices=("data", "attacker"), default="data", help="what to write")
    parser.add_argument("folder", type=Path, help="folder to write, replaced if it is there")
    given = parser.parse_args()
    (write_attacker if given.what == "attacker" else write)(given.folder)


if __name__ == "__main__":
    main()
