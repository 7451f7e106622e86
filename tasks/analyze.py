"""The paper's two analyses and the causal check, on a finished run (docs/analyses.md).

Run: python -m tasks.analyze      (or: jpu analyze)
Reads the subject, the last round's adapter and buffer, and the data; erases copies of the subject, mines against them,
and compares where jailbreaks run before and after hardening. Writes artifacts/analysis: tables, figures, one page.
Trains nothing that is kept, chooses nothing, and changes no other stage's output.
"""

from __future__ import annotations

from jpu.analysis.families import ALL
from jpu.files import atomic_folder
from jpu.models import Subject
from tasks.analysis.causes import analyse_causes
from tasks.analysis.converging import analyse_convergence, leaking
from tasks.analysis.erased import analyse_erased
from tasks.analysis.samples import Samples
from tasks.analysis.written import Found, write_found
from tasks.layout import ANALYSIS, PREPARED, SUBJECT, RoundFolder, load_prepared
from tasks.settings import Settings, load_settings
from tasks.stage import run_stage
from tasks.tracking import stage_run


def main() -> None:
    """Run the stage."""
    settings = load_settings()
    last = RoundFolder(settings.last_round)
    with stage_run("analyze", "last") as run:
        run.inputs(PREPARED, SUBJECT, last.adapter, last.buffer)
        run.params(settings.analysis.model_dump())
        found = analyse(settings, last)
        with atomic_folder(ANALYSIS) as folder:
            metrics = write_found(folder, found)
        run.metrics(metrics)
        for one in found.erased:
            for layer in one.layers:
                values = {f"{one.defence}.{o.condition}.{o.share:g}": o.overlap.value for o in layer.sensitive}
                run.metrics({f"overlap.{name}": value for name, value in values.items()}, step=layer.layer)
        for row in found.convergence:
            if row.family == ALL:
                figures = {f"path.{row.when}.{name}": figure.value for name, figure in row.figures.items()}
                run.metrics(figures, step=row.layer)
        run.artifact(ANALYSIS)


def analyse(settings: Settings, last: RoundFolder) -> Found:
    """All three parts."""
    prepared = load_prepared()
    erased = [analyse_erased(settings, prepared, one, last.buffer) for one in settings.analysis.erase.defences]
    subject = Subject.load(SUBJECT, last.adapter, device=settings.subject.device, dtype=settings.subject.dtype)
    train = Samples(subject, prepared.split("train"), settings, "train")
    held_out = Samples(subject, prepared.split(settings.evaluation.split), settings, "held-out")
    through, measured = leaking(train), leaking(held_out)
    counts = {"train_jailbreaks": float(len(through)), "held_out_jailbreaks": float(len(measured))}
    return Found(
        erased,
        analyse_convergence(settings, train, through) if through else (),
        analyse_causes(settings, train, through, held_out, measured) if through and measured else (),
        counts,
    )


if __name__ == "__main__":
    run_stage(main)
