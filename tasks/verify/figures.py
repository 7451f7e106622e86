"""Version → figures: the numbers in the registry are those of the measured metrics."""

from __future__ import annotations

import json
from collections.abc import Iterator

from tasks.lineage import METRICS, scores
from tasks.verify.chain import BrokenLinkError, Chain, Passed


def check_figures(chain: Chain) -> Iterator[Passed]:
    """Each figure among the version's tags, against metrics.json. Its own hash was checked before."""
    data = chain.objects.read(chain.snapshot.out(METRICS)) or b"{}"
    measured = {name: f"{value:.4g}" for name, value in scores(json.loads(data)).items()}
    for name, value in measured.items():
        found = chain.version.tags.get(name, "no such tag")
        if found != value:
            raise BrokenLinkError(
                f"figure {name}",
                expected=f"{value} ({METRICS})",
                found=found,
                where=f"tags of {chain.version.name}",
                meaning="the registry shows another figure than was measured",
            )
    yield Passed("figures", f"{len(measured)} in the registry are those that were measured")
