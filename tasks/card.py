"""The robustness card of a measurement, from what was measured and from what the rounds left behind.

Holds nothing that two runs of the same thing do not share, but for what `lineage` adds when a card is shown: commits,
runs and their addresses.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jpu.attacks import get_attack, registered
from jpu.card import (
    AttackResult,
    Card,
    Cost,
    DataFile,
    Example,
    Family,
    Figure,
    NotRun,
    Overlap,
    PathLayer,
    PathRound,
    ProtocolInfo,
    Quantization,
    Relearning,
    RelearningPoint,
    Series,
    SplitCount,
    SubjectInfo,
    TrainingRound,
    Union,
    Utility,
    Worst,
    render_html,
    render_json,
    render_markdown,
)
from jpu.data.schemas import fingerprint
from jpu.evaluation.evaluate import Evaluation, Measured
from jpu.evaluation.judged import Judged
from jpu.evaluation.metrics import Estimate
from jpu.evaluation.names import name_of
from jpu.evaluation.rates import by_family, curve
from jpu.files import read_json, read_text, write_text
from jpu.paths.path import Path as JailbreakPath
from tasks.judging import judging, rule_votes
from tasks.layout import RoundFolder

_BETTER: dict[str, Any] = {"low": "lower", "high": "higher", "": "neither"}
_EXAMPLES = 12
# Figures that have a place of their own on the card.
_ELSEWHERE = ("asr_", "control_", "relearned_", "quantised_")
_OVERLAPS = {"direct": "direct harm", "safety": "safety", "utility": "utility"}
_SERIES = ("loss", "refusal", "anchor", "retain")


def make_card(
    sides: Mapping[str, Measured],
    evaluation: Evaluation,
    protocol: Mapping[str, Any],
    *,
    profile: str,
    rounds: Sequence[RoundFolder] = (),
    reveal: bool = False,
) -> Card:
    """The card.

    Args:
        sides: "before", and "after" where a model was hardened.
        evaluation: What was measured with.
        protocol: What `tasks.protocol.describe` says of the model that counts.
        profile: Profile of params.yaml.
        rounds: Rounds of hardening, whose paths and trainings are shown.
        reveal: Show prompts and completions in plain text.
    """
    attacks = tuple(_attack(name, sides, evaluation) for name in _names(sides))
    before, after = sides["before"], sides.get("after")
    attempts = [j.attempt for measured in sides.values() for j in measured.attacked]
    metrics = {**before.metrics, **(after.metrics if after else {})}
    reasons = {name: why for measured in sides.values() for name, why in measured.not_run.items()}
    return Card(
        subject=_subject(protocol, evaluation, profile, hardened=after is not None),
        protocol=_protocol(protocol, evaluation),
        attacks=attacks,
        not_run=tuple(NotRun(name=name, reason=why) for name, why in reasons.items()),
        worst=Worst.of(attacks),
        union=Union(before=_figure(before, "asr_union"), after=_figure(after, "asr_union")),
        utility=tuple(_utility(name, before, after) for name in metrics if not name.startswith(_ELSEWHERE)),
        relearning=tuple(_relearning(metrics, before, after)),
        quantization=tuple(_quantization(name, before, after) for name in metrics if name.startswith("quantised_")),
        judges=judging(rule_votes(attempts, evaluation.behaviors, [r.text for r in evaluation.refusals])),
        paths=tuple(_path(r) for r in rounds),
        training=tuple(_training(r) for r in rounds),
        limits=tuple(_limits({*(a.name for a in attacks), *reasons})),
        examples=tuple(e for when, measured in sides.items() for e in _examples(measured.attacked, when, reveal)),
    )


def write_card(card: Card, folder: Path) -> None:
    """Write card.json, card.html and card.md."""
    write_text(folder / "card.json", render_json(card))
    write_text(folder / "card.html", render_html(card))
    write_text(folder / "card.md", render_markdown(card))


def _names(sides: Mapping[str, Measured]) -> list[str]:
    return list(dict.fromkeys(name for measured in sides.values() for name in measured.judged))


def _figure(measured: Measured | None, name: str) -> Figure | None:
    return shown(measured.metrics.get(name)) if measured else None


def shown(estimate: Estimate | None) -> Figure | None:
    """An estimate as a figure of the card."""
    return Figure(**estimate.as_dict()) if estimate is not None else None


def _attack(name: str, sides: Mapping[str, Measured], evaluation: Evaluation) -> AttackResult:
    attack, budget = get_attack(name), evaluation.protocol.suite[name]
    fields: dict[str, Any] = {}
    families: dict[str, dict[str, Any]] = {}
    behaviors = 0
    for when, measured in sides.items():
        items = measured.judged.get(name)
        if items is None:
            continue
        fields[when] = _figure(measured, f"asr_{name}")
        fields[f"any_{when}"] = _figure(measured, f"asr_{name}_any")
        fields[f"control_{when}"] = _figure(measured, f"control_{name}")
        fields[f"curve_{when}"] = tuple(curve(items))
        spent = measured.spent[name]
        behaviors = spent.behaviors
        fields[f"cost_{when}"] = Cost(attempts=spent.attempts, queries=spent.queries, tokens=spent.tokens)
        for row in by_family(items):
            family = families.setdefault(str(row["family"]), {"family": row["family"]})
            family |= {"attempts": {**family.get("attempts", {}), when: row["attempts"]}, when: row["asr"]}
    return AttackResult(
        name=name,
        title=attack.title,
        cite=attack.cite,
        access=attack.access,
        unit=attack.unit,
        budget=budget.queries,
        behaviors=behaviors,
        families=tuple(_family(row) for row in families.values()),
        **fields,
    )


def _family(row: dict[str, Any]) -> Family:
    # A search that ends when it is through makes fewer attempts on one side: then there is no one number.
    counts = set(row["attempts"].values())
    return Family(**{**row, "attempts": counts.pop() if len(counts) == 1 else None})


def _utility(name: str, before: Measured, after: Measured | None) -> Utility:
    known = name_of(name)
    return Utility(
        name=name,
        title=known.words,
        words=known.meaning,
        group=known.group,
        unit="share" if known.unit == "rate" else "number",
        better=_BETTER[known.better],
        before=_figure(before, name),
        after=_figure(after, name),
    )


def _relearning(metrics: Iterable[str], before: Measured, after: Measured | None) -> Iterable[Relearning]:
    found: dict[str, list[int]] = {}
    for name in metrics:
        if name.startswith("relearned_"):
            kind, step = name.removeprefix("relearned_").rsplit("_", 1)
            found.setdefault(kind, []).append(int(step))
    for kind, steps in found.items():
        fields: dict[str, Any] = {}
        for when, measured in (("before", before), ("after", after)):
            figures = {step: _figure(measured, f"relearned_{kind}_{step}") for step in steps}
            points = [RelearningPoint(step=step, figure=f) for step, f in figures.items() if f is not None]
            fields[when] = tuple(points)
            fields[f"half_{when}"] = next((p.step for p in points if (p.figure.value or 0.0) >= 0.5), None)
        yield Relearning(name=kind, title=f"a few {kind} questions", attack="static", **fields)


def _quantization(name: str, before: Measured, after: Measured | None) -> Quantization:
    what = name.rsplit("_", 1)[1]
    known = name_of(name)
    return Quantization(
        scheme=known.words.split(":")[0],
        measure="asr_static" if what == "asr" else "benign_recall",
        title=known.words,
        better=_BETTER[known.better],
        before=_figure(before, name),
        after=_figure(after, name),
    )


def _subject(protocol: Mapping[str, Any], evaluation: Evaluation, profile: str, *, hardened: bool) -> SubjectInfo:
    model, data = protocol["model"], protocol["data"]
    counts: dict[str, int] = {}
    for behavior in evaluation.behaviors.values():
        counts[behavior.kind] = counts.get(behavior.kind, 0) + 1
    summary = "Hardened: an adapter on the weights named below." if hardened else ""
    return SubjectInfo(
        name=f"{model['name']} with {model['adapter_name']}" if model["adapter"] else model["name"],
        profile=profile,
        summary=summary,
        base_model=model["weights"],
        adapter_sha256=model["adapter"] or "",
        files=tuple(
            DataFile(name=f"{name}, {data['split']}", sha256=data[name]["sha256"], records=data[name]["count"])
            for name in ("behaviors", "templates", "refusals")
        ),
        splits=tuple(SplitCount(kind=kind, split=data["split"], records=count) for kind, count in counts.items()),
    )


def _protocol(protocol: Mapping[str, Any], evaluation: Evaluation) -> ProtocolInfo:
    model, chosen = protocol["model"], evaluation.protocol
    return ProtocolInfo(
        model=model["weights"] or model["name"],
        tokenizer=model.get("tokenizer", ""),
        chat_template_sha256=model.get("chat_template", ""),
        frame_sha256=model.get("frame", ""),
        max_new_tokens=chosen.max_new_tokens,
        decoding="greedy, but for attacks that sample",
        dtype=model.get("dtype", ""),
        device=model.get("device", ""),
        seeds=(chosen.seed,),
        split=chosen.split,
        suite=", ".join(chosen.suite),
        judges=("secret", "incoherence", "refusal"),
        confidence=chosen.confidence,
        resamples=chosen.resamples,
        versions=protocol["libraries"],
    )


def _path(folder: RoundFolder) -> PathRound:
    path, found = JailbreakPath.load(folder.path), read_json(folder.folder / "identify.json")
    name = "completeness_error.jailbreak"
    # Measured at half and at twice the steps as well (`jpu.paths.select`).
    others = sorted((int(key.rpartition("_")[2]), found[key]) for key in found if key.startswith(f"{name}.steps_"))
    layers = []
    for row in _rows(folder.folder / "overlap.csv"):
        layer = int(float(row["layer"]))
        overlaps = tuple(
            Overlap(path=words, jaccard=_number(row, f"{name}_jaccard"), cosine=_number(row, f"{name}_cosine"))
            for name, words in _OVERLAPS.items()
        )
        layers.append(
            PathLayer(
                layer=layer,
                neurons=len(path.neurons.get(layer, ())),
                heads=len(path.heads.get(layer, ())),
                chance=_number(row, "chance"),
                overlaps=overlaps,
            )
        )
    return PathRound(
        round=folder.number,
        layers=tuple(layers),
        completeness_error=found.get(name),
        completeness_error_half=others[0][1] if others else None,
        completeness_error_twice=others[-1][1] if others else None,
    )


def _training(folder: RoundFolder) -> TrainingRound:
    rows = _rows(folder.folder / "training.csv")
    ended = read_json(folder.folder / "unlearn.json")
    series = []
    for name in _SERIES:
        points = [(int(float(row["step"])), _number(row, name)) for row in rows]
        series.append(Series(name=name, points=tuple((step, value) for step, value in points if value is not None)))
    return TrainingRound(
        round=folder.number,
        converged=bool(ended.get("converged")),
        steps=len(rows),
        rollbacks=_count(ended, "rollbacks"),
        trained_parameters=_count(ended, "trained_parameters"),
        series=tuple(one for one in series if one.points),
    )


def _limits(known: Collection[str]) -> Iterable[str]:
    """What the figures of the card cannot say by themselves."""
    others = [attack.title for name, attack in registered().items() if name not in known]
    if others:
        yield f"Not tried here: {', '.join(others)}. `jpu attack MODEL --suite full` tries every attack."


def _examples(judged: Sequence[Judged], when: str, reveal: bool) -> Iterable[Example]:
    """A few attempts that got through, each of another attack and family as far as there are such; or none."""
    chosen: dict[tuple[str, str], Judged] = {}
    for item in judged:
        if item.verdict.answered:
            chosen.setdefault((item.attempt.attack, item.attempt.family), item)
    for item in list(chosen.values())[:_EXAMPLES]:
        attempt = item.attempt
        texts = {"prompt_text": attempt.prompt, "completion_text": attempt.completion} if reveal else {}
        yield Example(
            when=when,
            attack=attempt.attack,
            family=attempt.family,
            behavior=fingerprint(attempt.behavior),
            prompt=fingerprint(attempt.prompt),
            completion=fingerprint(attempt.completion),
            verdict=item.verdict.label,
            **texts,
        )


def _rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(read_text(path))))


def _count(ended: Mapping[str, float], name: str) -> int | None:
    return int(ended[name]) if name in ended else None


def _number(row: Mapping[str, str], name: str) -> float | None:
    return float(row[name]) if row.get(name) else None
