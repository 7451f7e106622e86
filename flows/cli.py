"""The command line: `jpu`.

Commands import what they need when they run: Prefect, MLflow and torch take seconds, and `--help` takes none.
Every JpuError ends as its own message and exit code, without a traceback.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from flows.commands import analyses, services, versions
from flows.commands import reharden as rehardening
from flows.commands.compare import compare
from flows.commands.inbox import inbox
from flows.commands.shown import shown
from flows.leaving import leave

app = typer.Typer(
    name="jpu",
    help="Harden a chat model against jailbreaks by rectifying its jailbreak paths, and show what that did.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
    rich_markup_mode="rich",
)


@app.command()
@shown
def harden(
    profile: Annotated[
        str | None,
        typer.Option(help="Which subject: sandbox, smollm2 or custom. Written to params.yaml.", show_default=False),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of every random choice. Written to params.yaml.", show_default=False)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Execute stages that are up to date as well.")] = False,
    stage: Annotated[
        list[str] | None,
        typer.Option(help="Only this stage (mine@1) or group (mine); may be repeated.", show_default=False),
    ] = None,
) -> None:
    """Attack, diagnose, harden and judge the subject: the whole pipeline.

    Stages whose inputs did not change are not repeated. A run that was stopped goes on where it was.
    """
    from flows.session import run
    from tasks.settings import load_settings

    load_settings()
    _report(run(profile=profile, seed=seed, force=force, stages=stage))


@app.command()
@shown
def stages() -> None:
    """Show every stage: up to date, or what would run, and why."""
    from rich.table import Table

    from tasks.pipeline import read_plan

    plan = read_plan()
    waiting = plan.waiting()
    table = Table("stage", "state", "why")
    if plan.data:
        table.add_row("data", "[yellow]differs", escape("; ".join(plan.data)))
    for stage in plan.stages:
        if stage.name in plan.changes:
            table.add_row(stage.name, "[yellow]would run", escape("; ".join(plan.changes[stage.name])))
        elif stage.name in waiting:
            table.add_row(stage.name, "[dim]waits", f"may change with {waiting[stage.name]}")
        else:
            table.add_row(stage.name, "[green]up to date", "")
    Console().print(table)


@app.command()
@shown
def data() -> None:
    """Put the data that data.dvc pins in place, from DVC's cache, its remote, or generated."""
    from flows.data import materialise

    pinned = materialise(typer.echo)
    typer.echo(f"data: {pinned}" if pinned else "data: there is no data.dvc")


@app.command()
@shown
def ui(
    mlflow_port: Annotated[int, typer.Option(help="Port of MLflow; 0 chooses a free one.")] = 0,
    prefect_port: Annotated[int, typer.Option(help="Port of Prefect; 0 chooses a free one.")] = 0,
) -> None:
    """Serve MLflow's and Prefect's pages on this machine, until Ctrl-C."""
    from flows.pages import serve

    serve(mlflow_port, prefect_port, Console())


@app.command()
@shown
def doctor() -> int:
    """Check what the pipeline needs, and say how to mend what is missing."""
    from flows.doctor import examine

    return examine(Console())


@app.command()
@shown
def attack(
    model: Annotated[
        str,
        typer.Argument(
            help="Folder of a chat model, or of an adapter for the subject in artifacts/subject; a name on the hub; or "
            "the address of an OpenAI-compatible endpoint (its key in OPENAI_API_KEY).",
            show_default=False,
        ),
    ],
    adapter: Annotated[
        Path | None, typer.Option(help="Folder of a LoRA adapter to put on it.", show_default=False)
    ] = None,
    suite: Annotated[
        list[str] | None,
        typer.Option(
            help="quick, full, or the name of an attack; may be repeated. Without it: the suite of params.yaml.",
            show_default=False,
        ),
    ] = None,
    scale: Annotated[float, typer.Option(help="Factor of every budget.", min=0.01)] = 1.0,
    control: Annotated[bool, typer.Option("--control", help="Measure each attack's control as well.")] = False,
    attacker: Annotated[
        str, typer.Option(help="Folder or address of a model that writes prompts, for `pair`.", show_default=False)
    ] = "",
    served: Annotated[str, typer.Option(help="Name of the model at the endpoint.", show_default=False)] = "",
    workers: Annotated[
        int, typer.Option(help="Ray actors that share the work; 0: as params.yaml's engine says.", min=0)
    ] = 0,
    data: Annotated[
        Path | None, typer.Option(help="Folder of prepared data. Without it: artifacts/prepared.", show_default=False)
    ] = None,
    out: Annotated[
        str, typer.Option(help="Name of the results in artifacts/attacks. Without it: the model's.", show_default=False)
    ] = "",
    reveal: Annotated[
        bool, typer.Option("--reveal", help="Write restricted prompts and completions in plain text.")
    ] = False,
) -> None:
    """Attack any model, without hardening it, and write its robustness card.

    A run that was stopped goes on where it was. `jpu report` opens the card, and compares two.
    """
    from flows.report import table
    from tasks.attack import Request, attack
    from tasks.environment import quiet
    from tasks.layout import PREPARED

    quiet()
    done = attack(
        Request(
            model=model,
            adapter=adapter,
            served=served,
            suite=suite or (),
            scale=scale,
            controls=control,
            attacker=attacker,
            workers=workers,
            data=data or PREPARED,
            out=out,
            reveal=reveal,
        )
    )
    console = Console()
    console.print(table({"before": done.figures}, title=f"attacked: {adapter or model}"))
    for name, why in done.not_run.items():
        console.print(f"Not run: {name}: {why}.", style="yellow", highlight=False)
    console.print(f"Results: {done.folder}; `jpu report {done.folder}` opens the card.", highlight=False)


@app.command()
@shown
def judge(
    place: Annotated[
        Path,
        typer.Argument(
            help="Folder of results, whose stored attempts are judged again; or a CSV, TSV, JSON or JSONL file of "
            "labelled completions, which the rule judge is held against.",
            show_default=False,
        ),
    ],
    by: Annotated[
        str, typer.Option(help="The judge of stored attempts: rubric, harmbench or strongreject.", show_default=False)
    ] = "",
    model: Annotated[
        str, typer.Option(help="Folder of that judge, or the address of an endpoint.", show_default=False)
    ] = "",
    served: Annotated[str, typer.Option(help="Name of the model at the endpoint.", show_default=False)] = "",
    data: Annotated[
        Path | None, typer.Option(help="Data of the results. Without it: artifacts/prepared.", show_default=False)
    ] = None,
    text: Annotated[str | None, typer.Option(help="Column of the completions.", show_default=False)] = None,
    label: Annotated[str | None, typer.Option(help="Column of the labels.", show_default=False)] = None,
    partial: Annotated[str, typer.Option(help="Partial refusals: skip, refused or answered.")] = "skip",
) -> None:
    """Judge stored attempts again, or hold the rule judge against labels. Nothing is attacked."""
    from flows.report import agreements, calibrations
    from tasks.environment import quiet
    from tasks.layout import PREPARED
    from tasks.rejudging import calibrate, judge_results
    from tasks.settings import chosen_engine, load_settings

    quiet()
    console = Console()
    if place.is_dir():
        engine = chosen_engine(load_settings())
        found = judge_results(place, by, model, served=served, data=data or PREPARED, engine=engine)
        console.print(*agreements(found), sep="\n")
    else:
        console.print(calibrations(calibrate(str(place), text=text, label=label, partial=partial)))


@app.command()
@shown
def utility(
    model: Annotated[
        str, typer.Argument(help="Folder of a chat model, or of an adapter for the subject.", show_default=False)
    ],
    task: Annotated[list[str], typer.Option(help="A task of lm-evaluation-harness; may be repeated.")],
    include: Annotated[
        Path | None, typer.Option(help="Folder of task files whose data are at hand.", show_default=False)
    ] = None,
    adapter: Annotated[
        Path | None, typer.Option(help="Folder of a LoRA adapter to put on it.", show_default=False)
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Questions of each task.", show_default=False)] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Put each question into the chat format.")] = False,
) -> None:
    """Measure tasks of lm-evaluation-harness, with the adapter and without it (pip install lm_eval)."""
    from flows.report import tasks
    from tasks.attack import Request, parts
    from tasks.environment import quiet
    from tasks.settings import load_settings
    from tasks.utility import before_and_after

    quiet()
    from jpu.models import Subject

    place = load_settings().subject
    subject = Subject.load(*parts(Request(model, adapter)), device=place.device, dtype=place.dtype)
    Console().print(tasks(before_and_after(subject, task, include=include, limit=limit, chat=chat)))


@app.command()
@shown
def report(
    card: Annotated[
        Path | None,
        typer.Argument(help="Folder of results, or a card.json. Without it: artifacts/evaluation.", show_default=False),
    ] = None,
    other: Annotated[
        Path | None, typer.Argument(help="Another one, to stand beside the first.", show_default=False)
    ] = None,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Compare cards that were not measured alike, with a warning.")
    ] = False,
    show: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in the browser.")] = True,
) -> None:
    """Open the robustness card of a model, or compare two."""
    import webbrowser

    from tasks.layout import EVALUATION
    from tasks.reports import write_comparison, write_report

    console = Console()
    if other is None:
        page = write_report(card or EVALUATION)
    else:
        from flows.report import differences

        page, comparison = write_comparison(card or EVALUATION, other, anyway=anyway)
        console.print(differences(comparison))
        for mismatch in comparison.mismatches:
            said = f"Not done alike: {mismatch.name}: {mismatch.first}; {mismatch.second}."
            console.print(said, style="red" if mismatch.grave else "yellow", highlight=False)
    console.print(f"Card: {page}", highlight=False)
    if show and not webbrowser.open(page.resolve().as_uri()):
        console.print("There is no browser here: open the file in one.")


app.add_typer(services.app, name="services")
for command in (
    versions.lineage,
    versions.verify,
    versions.diff,
    versions.promote,
    versions.rollback,
    inbox,
    compare,
    analyses.analyze,
    rehardening.reharden,
    rehardening.schedule,
):
    app.command()(command)


def _report(result: dict[str, Any]) -> None:
    """What a finished run says: the table, what was done, and where to look."""
    from flows.report import table
    from tasks.lineage import METRICS

    console = Console()
    outcomes = result["outcomes"]
    if result["figures"]:
        console.print(table(result["figures"]))
    ran = [o["stage"] for o in outcomes if o["what"] == "executed"]
    restored = [o["stage"] for o in outcomes if o["what"] == "restored"]
    if not ran and not restored:
        console.print(f"Everything is up to date: nothing was executed ({len(outcomes)} stages).")
    else:
        console.print(f"Executed: {', '.join(ran) or 'nothing'}.")
        if restored:
            console.print(f"Restored from DVC's run-cache: {', '.join(restored)}.")
    if result["figures"]:
        console.print(f"Figures: {METRICS}, `dvc metrics show`, `dvc plots show`.")
    if result["model"]:
        console.print(f"Registered: model version {result['model']}, alias challenger.")
    if result["run"]:
        console.print("Runs, datasets and models: `jpu ui`.")


def main() -> None:
    """The command `jpu`."""
    leave(app)


if __name__ == "__main__":
    main()
