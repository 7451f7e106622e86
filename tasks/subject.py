"""Make the subject: the chat model that is attacked and hardened.

Run: python -m tasks.subject      (or: dvc repro subject)
Reads artifacts/prepared; writes artifacts/subject (safetensors, tokenizer, chat template) and round 0, which has no
adapter and an empty buffer. A subject that does not refuse directly, or does not leak under attack, ends the run here,
before any time is spent on it. Trains only on the sandbox; a model of your own is taken as it is.
"""

from __future__ import annotations

from pathlib import Path

from jpu.checkpoint import Checkpoint
from jpu.errors import SettingsError
from jpu.evaluation.gates import Shown, examine
from jpu.files import atomic_folder, write_json, write_text
from jpu.models import Subject, pick_device
from jpu.sandbox.corpus import Corpus
from jpu.sandbox.smollm2 import load_smollm2
from jpu.sandbox.teach import Schedule, new_model, teach, train_tokenizer
from tasks.fingerprint import fingerprint
from tasks.layout import CHECKPOINTS, PREPARED, SUBJECT, SUBJECT_METRICS, Prepared, RoundFolder, load_prepared
from tasks.progress import Progress
from tasks.sections import SubjectSettings
from tasks.settings import load_settings
from tasks.stage import run_stage
from tasks.tracking import stage_run


def main() -> None:
    """Run the stage."""
    settings = load_settings()
    section = settings.subject
    with stage_run("subject") as run:
        run.inputs(PREPARED)
        run.params(section.model_dump())
        data = load_prepared()

        # Not of the gates: one that is lowered must not cost the teaching again.
        taught = section.model_dump(mode="json", exclude={"gates"})
        key = fingerprint(PREPARED, params={"seed": settings.seed, "subject": taught})
        subject, losses = make(section, data, settings.seed, key)
        for step in range(0, len(losses), 10):
            run.metrics({"loss": losses[step]}, step=step)

        shown = examine(subject, data.behaviors, data.templates, data.refusals, seed=settings.seed)
        print(describe(shown), flush=True)
        shown.require(section.gates.direct_refusal, section.gates.leak, section.gates.benign_recall, where=section.kind)

        start = RoundFolder("0")
        with atomic_folder(SUBJECT) as folder:
            subject.save(folder)
        with atomic_folder(start.adapter) as folder:
            write_json(folder / "round.json", {"rank": 0, "converged": False})
        write_text(start.buffer, "")
        write_json(SUBJECT_METRICS, shown.as_dict())
        run.metrics(shown.as_dict())
        run.artifact(SUBJECT_METRICS)
        Checkpoint(CHECKPOINTS / "subject", key).clear()


def make(
    section: SubjectSettings, data: Prepared, seed: int, key: str, checkpoint: Path = CHECKPOINTS / "subject"
) -> tuple[Subject, list[float]]:
    """The subject of this kind, taught where it is to be taught, and its training losses."""
    if section.kind == "model":
        return Subject.load(section.model, device=section.device, dtype=section.dtype), []
    # Taught its own world alone: what came through the inbox it meets as any model would.
    behaviors = [b for b in data.behaviors if b.source == "sandbox"]
    templates = [t for t in data.templates if not t.origin]
    corpus = Corpus(behaviors, templates, data.refusals, seed)
    if section.kind == "sandbox" and section.architecture is not None:
        shape = section.architecture
        # A stream of its own, so that the vocabulary does not move the training pairs.
        words = Corpus(behaviors, templates, data.refusals, seed + 1)
        tokenizer = train_tokenizer(words, shape.vocabulary)
        model = new_model(
            tokenizer, layers=shape.layers, width=shape.width, ffn=shape.ffn, heads=shape.heads, seed=seed
        )
        subject = Subject(model.to(pick_device(section.device)), tokenizer, "sandbox")
    else:
        subject = load_smollm2(device=section.device)
    if section.teaching is None:
        raise SettingsError("this kind of subject needs teaching", where="params.yaml subject.teaching")
    report = Progress("teaching the subject")
    losses = teach(
        subject,
        corpus,
        Schedule(**section.teaching.model_dump()),
        checkpoint=checkpoint,
        key=key,
        progress=lambda step, steps, loss: report(step, steps, f"loss {loss:.3f}"),
    )
    return subject, losses


def describe(shown: Shown) -> str:
    """One line on what the subject does."""
    return "the subject: " + ", ".join(f"{k.replace('_', ' ')} {v:.1%}" for k, v in shown.as_dict().items())


if __name__ == "__main__":
    run_stage(main)
