"""`jpu analyze`: the paper's two analyses and the causal check, on the model that `jpu harden` has made."""

from __future__ import annotations

from rich.console import Console

from flows.commands.shown import shown


@shown
def analyze() -> None:
    """Where jailbreaks run inside the model, before and after hardening, and whether it matters.

    Switches the stage on in params.yaml, so that it belongs to the pipeline, and brings the pipeline up to date.
    Takes minutes on two cores.
    """
    from flows.session import run
    from tasks.layout import ANALYSIS
    from tasks.settings import load_settings, switch_on

    load_settings()
    switch_on("analyze")
    result = run()
    console = Console()
    ran = [o["stage"] for o in result["outcomes"] if o["what"] != "unchanged"]
    console.print(f"Brought up to date: {', '.join(ran) or 'nothing had changed'}.", highlight=False)
    console.print(f"Analyses: {ANALYSIS / 'analyses.html'}, `dvc plots show`.", highlight=False)
