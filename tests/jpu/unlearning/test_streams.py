from __future__ import annotations

from collections.abc import Callable

import torch

from jpu.models import Subject
from jpu.unlearning.likelihoods import likelihoods, reference_likelihoods
from jpu.unlearning.streams import EMBEDDING, moved, real, reference_streams, saying, streams

Make = Callable[..., Subject]
LABELS = torch.tensor([[-100, -100, 7, 8, -100], [-100, 5, -100, -100, -100]])


def test_the_tokens_of_an_answer_and_of_all() -> None:
    assert saying(LABELS).int().tolist() == [[0, 1, 1, 1, 0], [1, 1, 0, 0, 0]]
    assert real(LABELS).int().tolist() == [[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]]


def test_streams_are_transformers_own_hidden_states(make_subject: Make, adapt: Make) -> None:
    subject = adapt(make_subject(layers=3))
    ids, labels = subject.collate([[3, 4, 5], [6]], [[7, 8], [9]])
    keep = saying(labels)
    with torch.no_grad():
        found = streams(subject, [EMBEDDING, 0, 1], ids, keep)
        hidden = subject.base.model(input_ids=ids, output_hidden_states=True).hidden_states
    for row in range(3):
        torch.testing.assert_close(found[row], hidden[row][keep])
    before = reference_streams(subject, [0, 1], ids, keep)
    bare = streams(make_subject(layers=3), [0, 1], ids, keep)
    torch.testing.assert_close(before, bare)
    assert not torch.allclose(found[1:], before, atol=1e-3)


def test_a_moved_stream_moves_what_follows_and_no_token_before(make_subject: Make) -> None:
    subject = make_subject(layers=2)
    ids, labels = subject.collate([[3, 4, 5]], [[7, 8]])
    by = torch.zeros(1, ids.shape[1], 32)
    by[0, 1] = 0.5
    with torch.no_grad():
        plain = streams(subject, [0, 1], ids, real(labels))
        with moved(subject, {0: by}):
            pushed = streams(subject, [0, 1], ids, real(labels))
        again = streams(subject, [0, 1], ids, real(labels))
    assert torch.equal(plain, again)
    torch.testing.assert_close(pushed[1, 0], plain[1, 0])
    assert not torch.allclose(pushed[1, 1:], plain[1, 1:], atol=1e-3)


def test_likelihoods_are_those_of_the_subject(make_subject: Make, adapt: Make) -> None:
    subject = adapt(make_subject())
    prompts, answers = ["Which colour?", "What is the code of it?"], ["Red.", "I cannot say."]
    heads, tails = [subject.prompt_ids(p) for p in prompts], [subject.answer_ids(a) for a in answers]
    now = likelihoods(subject, heads, tails)
    assert now.total.requires_grad and now.tokens.tolist() == [len(tail) for tail in tails]
    torch.testing.assert_close(-now.mean.detach(), subject.nll(prompts, answers), atol=1e-4, rtol=1e-4)
    before = reference_likelihoods(subject, heads, tails)
    assert not before.total.requires_grad
    torch.testing.assert_close(-before.mean, make_subject().nll(prompts, answers), atol=1e-4, rtol=1e-4)
