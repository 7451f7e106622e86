"""Questions of the form "does this method do better than that one?", and what paired differences say to them.

A part of a method is worth something if the method with it does better than without it on a figure that a user cares
for, by more than chance, and no worse on the others. Which is which is said by rule: p below `ALPHA` after Holm's
correction over the figures of one question.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from jpu.comparison.metrics import Metric
from jpu.comparison.records import AnswerRecord, DifferenceRecord
from jpu.comparison.statistics import Bootstrap, Samples, holm

# Below this, after the correction, a difference is called significant.
ALPHA = 0.05
# What a question is answered by, as far as it was measured.
FIGURES = ("asr_worst", "asr_prefill", "asr_embedding", "asr_many_shot", "utility_loss", "relearning_restricted")


@dataclass(frozen=True)
class Question:
    """Does `method` do better than `against`?"""

    words: str
    method: str
    against: str


def answers(
    questions: Sequence[Question],
    metrics: Sequence[Metric],
    samples: Mapping[str, Mapping[str, Samples]],
    bootstrap: Bootstrap,
) -> Iterator[AnswerRecord]:
    """An answer to each question of whose methods both have a run in common.

    Args:
        questions: In the order of the table.
        metrics: The figures that there are.
        samples: Key of a figure → method → its samples.
        bootstrap: Draws.
    """
    asked = [metric for metric in metrics if metric.key in FIGURES]
    for question in questions:
        found = {}
        for metric in asked:
            ours, theirs = (samples[metric.key].get(name) for name in (question.method, question.against))
            difference = bootstrap.difference(ours, theirs) if ours is not None and theirs is not None else None
            if difference is not None and ours is not None and theirs is not None:
                found[metric.key] = difference
        if not found:
            continue
        first = samples[next(iter(found))]
        other = first[question.against].runs
        adjusted = holm({key: difference.p for key, difference in found.items()})
        clear = {m.key: found[m.key].value for m in asked if m.key in found and adjusted[m.key] < ALPHA}
        ahead = {m.key: (clear[m.key] < 0) == (m.better == "low") for m in asked if m.key in clear}
        yield AnswerRecord(
            words=question.words,
            method=question.method,
            against=question.against,
            runs=tuple(run for run in first[question.method].runs if run in other),
            differences={k: DifferenceRecord(**asdict(d) | {"adjusted": adjusted[k]}) for k, d in found.items()},
            better=tuple(key for key, better in ahead.items() if better),
            worse=tuple(key for key, better in ahead.items() if not better),
        )


def verdict(answer: AnswerRecord, words: Mapping[str, str]) -> str:
    """The answer in a few words.

    Args:
        answer: What was found.
        words: Key of a figure → its name for readers.
    """
    better, worse = (", ".join(words[key] for key in keys) for keys in (answer.better, answer.worse))
    if better and worse:
        return f"in part: better on {better}; worse on {worse}"
    if better:
        return f"yes: better on {better}"
    return f"no: worse on {worse}" if worse else "not shown"
