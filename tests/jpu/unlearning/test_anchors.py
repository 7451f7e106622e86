from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from jpu.data.schemas import Behavior, Refusal
from jpu.errors import DataError
from jpu.models import Subject
from jpu.paths.activations import capture
from jpu.unlearning.anchors import (
    Anchors,
    anchor_positions,
    centred,
    compute_anchors,
    directed,
    own_refusals,
    scattered,
)

Make = Callable[..., Subject]

NEURONS = {0: [5, 1], 1: [3]}


@pytest.fixture
def restricted(behaviors: list[Behavior]) -> list[Behavior]:
    return [b for b in behaviors if b.kind == "restricted"][:4]


@pytest.fixture
def texts(refusals: list[Refusal]) -> list[str]:
    return [r.text for r in refusals]


def row_values(subject: Subject, prompt: str, answer: str, positions: int) -> dict[int, torch.Tensor]:
    """The path's values of one row without padding, (positions, k_l)."""
    head, tail = subject.prompt_ids(prompt), subject.answer_ids(answer)
    with torch.no_grad(), capture(subject.model) as found:
        subject.model(input_ids=torch.tensor([head + tail]), use_cache=False)
    at = [min(len(head) - 1 + i, len(head) + len(tail) - 1) for i in range(positions)]
    return {layer: found[layer][0, at][:, units] for layer, units in NEURONS.items()}


def test_positions_are_the_last_prompt_token_and_the_first_of_the_answer() -> None:
    found = anchor_positions([[1, 2, 3], [1]], [[4, 5], [6, 7, 8, 9, 9]], 4)
    assert found.tolist() == [[2, 3, 4, 4], [0, 1, 2, 3]]


def test_anchors_are_the_original_s_values_on_the_bare_question(
    make_subject: Make, adapt: Make, restricted: list[Behavior], texts: list[str]
) -> None:
    refusals = {b.id: texts[i % 3] for i, b in enumerate(restricted)}
    expected = [row_values(make_subject(), b.query, refusals[b.id], 3) for b in restricted]
    anchors = compute_anchors(adapt(make_subject()), restricted, refusals, list(refusals), NEURONS, 3)
    assert anchors.refusals == refusals and anchors.index == {b.id: i for i, b in enumerate(restricted)}
    for layer, units in NEURONS.items():
        values = torch.stack([row[layer] for row in expected])
        assert anchors.values[layer].shape == (4, 3, len(units))
        assert torch.allclose(anchors.values[layer], values, atol=1e-5)
        assert torch.allclose(anchors.scale[layer], values.square().mean((0, 1)) + 1e-3, atol=1e-5)
        assert not anchors.values[layer].requires_grad


def test_a_question_that_is_not_refused_gets_the_centroid_of_those_that_are(
    make_subject: Make, restricted: list[Behavior], texts: list[str]
) -> None:
    subject = make_subject()
    refusals = {b.id: texts[0] for b in restricted}
    whole = compute_anchors(subject, restricted, refusals, list(refusals), NEURONS, 2)
    refused = [restricted[0].id, restricted[2].id]
    some = compute_anchors(subject, restricted, refusals, refused, NEURONS, 2)
    for layer in NEURONS:
        centroid = (whole.values[layer][0] + whole.values[layer][2]) / 2
        assert torch.equal(some.values[layer][[0, 2]], whole.values[layer][[0, 2]])
        assert torch.allclose(some.values[layer][[1, 3]], centroid.expand(2, -1, -1))
    # With none to take a centroid of, each keeps its own.
    none = compute_anchors(subject, restricted, refusals, [], NEURONS, 2)
    assert all(torch.equal(none.values[layer], whole.values[layer]) for layer in NEURONS)


def test_a_path_without_neurons_has_no_anchors(
    make_subject: Make, restricted: list[Behavior], texts: list[str]
) -> None:
    refusals = {b.id: texts[0] for b in restricted}
    assert not compute_anchors(make_subject(), restricted, refusals, [], {0: []}, 2).values


def test_the_own_refusal_is_the_likeliest_under_the_original(
    make_subject: Make, adapt: Make, restricted: list[Behavior], texts: list[str]
) -> None:
    bare = make_subject()
    expected = {}
    for b in restricted:
        losses = bare.nll([b.query] * 3, texts).tolist()
        expected[b.id] = texts[losses.index(min(losses))]
    assert own_refusals(adapt(make_subject()), restricted, texts) == expected


# Ablations


@pytest.fixture
def anchors(make_subject: Make, adapt: Make, restricted: list[Behavior], texts: list[str]) -> Anchors:
    said = {b.id: texts[i % 3] for i, b in enumerate(restricted)}
    return compute_anchors(adapt(make_subject()), restricted, said, list(said), NEURONS, 3)


def test_the_centroid_is_one_anchor_for_all(anchors: Anchors) -> None:
    found = centred(anchors)
    for layer, values in anchors.values.items():
        assert found.values[layer].shape == values.shape
        for row in found.values[layer]:
            torch.testing.assert_close(row, values.mean(0))
    assert found.scale == anchors.scale


def test_a_random_anchor_is_one_for_all_and_as_long_as_theirs(anchors: Anchors) -> None:
    found, same, other = scattered(anchors, "a"), scattered(anchors, "a"), scattered(anchors, "b")
    for layer, values in found.values.items():
        assert values.shape == anchors.values[layer].shape
        assert torch.equal(values, same.values[layer]) and not torch.equal(values, other.values[layer])
        assert torch.equal(values[0], values[-1])
    # Over many seeds the mean square is that of the anchors, plus ε.
    squares = torch.stack([scattered(anchors, str(seed)).values[0][0].square().mean(0) for seed in range(400)])
    torch.testing.assert_close(squares.mean(0), anchors.scale[0], rtol=0.2, atol=0.0)


def test_the_direction_of_refusal_is_the_difference_of_means_in_units_of_each_neuron(
    make_subject: Make, adapt: Make, anchors: Anchors, restricted: list[Behavior]
) -> None:
    subject = adapt(make_subject())
    refused, answered = [b.query for b in restricted[:3]], ["What colour is it?", "Hello!"]
    found = directed(
        anchors, subject, [subject.prompt_ids(q) for q in refused], [subject.prompt_ids(q) for q in answered], NEURONS
    )
    bare = make_subject()
    assert found.direction is not None and found.values == anchors.values
    for layer in NEURONS:
        means = [
            torch.stack([row_values(bare, q, "", 1)[layer][0] for q in some]).mean(0) for some in (refused, answered)
        ]
        way = (means[0] - means[1]) / anchors.scale[layer].sqrt()
        torch.testing.assert_close(found.direction[layer], way / way.norm(), atol=1e-4, rtol=1e-4)
    with pytest.raises(DataError, match="direction of refusal"):
        directed(anchors, subject, [], [[1, 2]], NEURONS)
