"""Questions of the form "does this method do better than that one?", and what paired differences say to them.

A part of a method is worth something if the method with it does better than without it on a figure that a user cares
for, by more than chance, and no worse on the others. Which is which is said by rule: p below `ALPHA` after Holm's
correction over the figures of one question.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from jpu.comparison.metrics import Metric
from jpu.comparison.records import AnswerRecord, Summary
from jpu.comparison.statistics import Bootstrap, Difference, Samples, corrected

# Below this, after the correction, a difference is called significant.
ALPHA = 0.05
# The axes of the frontier.
AXES = ("asr_worst", "utility_loss")
# What stands in the place of a group's name over all runs.
POOLED = "pooled"
# Of fewer runs neither yes nor no is said: how trainings of one method differ is hardly in them.
FEWEST = 3
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
        found = corrected({m.key: _difference(samples[m.key], question, bootstrap) for m in asked})
        if found:
            clear = [m for m in asked if m.key in found and found[m.key].adjusted < ALPHA]
            ahead = {m.key: (found[m.key].value < 0) == (m.better == "low") for m in clear}
            yield AnswerRecord(
                words=question.words,
                method=question.method,
                against=question.against,
                runs=max(difference.n for difference in found.values()),
                differences=found,
                better=tuple(key for key, better in ahead.items() if better),
                worse=tuple(key for key, better in ahead.items() if not better),
            )


def _difference(samples: Mapping[str, Samples], question: Question, bootstrap: Bootstrap) -> Difference | None:
    ours, theirs = samples.get(question.method), samples.get(question.against)
    return None if ours is None or theirs is None else bootstrap.difference(ours, theirs)


def verdict(answer: AnswerRecord, words: Mapping[str, str]) -> str:
    """The answer in a few words; of fewer than `FEWEST` runs it is said how many they are.

    Args:
        answer: What was found.
        words: Key of a figure → its name for readers.
    """
    found = {"better on": answer.better, "worse on": answer.worse}
    said = "; ".join(f"{how} {', '.join(words[key] for key in keys)}" for how, keys in found.items() if keys)
    if not said:
        return "not shown"
    if answer.runs < FEWEST:
        return f"in {answer.runs} run{'s' * (answer.runs > 1)} alone: {said}"
    return f"{'yes' if not answer.worse else 'in part' if answer.better else 'no'}: {said}"


def by_group(summary: Summary) -> Iterator[tuple[str, list[tuple[str, AnswerRecord]]]]:
    """The questions that more than one group answers: words, and (group, answer), with the pooled one at the end."""
    pooled = {answer.words: answer for answer in summary.pooled}
    by_words: dict[str, list[tuple[str, AnswerRecord]]] = {}
    for group in summary.groups:
        for answer in group.answers:
            by_words.setdefault(answer.words, []).append((group.name, answer))
    for words, found in by_words.items():
        if len(found) > 1:
            yield words, found + ([(POOLED, pooled[words])] if words in pooled else [])
