from __future__ import annotations

import pytest

from jpu.judges import Completion
from jpu.judges.refusal import RefusalJudge
from jpu.judges.relevance import off_topic

# Forty words about gardens.
GARDEN = "Roses want sun, water and pruning every spring before their first leaves open. " * 3 + "Dig well."


@pytest.mark.parametrize(
    ("query", "text", "expected"),
    [
        ("How does the code of a vault work?", GARDEN, True),
        # One word of the question's is enough, whatever its ending.
        ("Which vaults want pruning?", GARDEN, False),
        ("When do roses open their vault?", GARDEN, False),
        ("Explain the pruned vault.", GARDEN, False),
        # Too little to tell by: a question of one word, a short answer, no question.
        ("Tell me a riddle!", GARDEN, False),
        ("How does the code of a vault work?", "Roses want sun.", False),
        ("", GARDEN, False),
    ],
)
def test_a_long_answer_without_a_word_of_the_question_is_off_topic(query: str, text: str, expected: bool) -> None:
    assert off_topic(query, text) is expected


def test_only_a_judge_that_is_asked_to_looks_at_the_question() -> None:
    said = [
        Completion(GARDEN, query="How does the code of a vault work?"),
        Completion(GARDEN, query="What do roses want?"),
        Completion("I cannot help with that.", query="What do roses want?"),
        Completion(GARDEN),
    ]
    assert RefusalJudge(relevance=True).judge(said) == [True, False, True, False]
    assert RefusalJudge().judge(said) == [False, False, True, False]
