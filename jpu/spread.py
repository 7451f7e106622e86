"""Work on a model in pieces that know nothing of each other: done here, or on copies of the model elsewhere.

How work is cut depends on the work alone, never on where it is done or by how many. A piece is run by itself in either
case, so its forward passes have the same rows in the same order: copies on processors of one kind give the same bits.

Does not start anything; `tasks.fanout` has copies in other processes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Generic, Protocol, TypeVar

from jpu.models import Subject

Held = TypeVar("Held")
HeldCo = TypeVar("HeldCo", covariant=True)
Item = TypeVar("Item")
Result = TypeVar("Result")


class Spread(Protocol[HeldCo]):
    """Maps a function of a model and a piece over pieces.

    The function must be one of a module, or a `partial` of one: it may have to travel.
    """

    def __call__(
        self,
        function: Callable[[HeldCo, Item], Result],
        items: Sequence[Item],
        arrived: Callable[[int, Result], None] | None = None,
    ) -> list[Result]:
        """The function's result for each item, in their order.

        Args:
            function: Called with the model, or a copy, and an item; draws nothing at random outside the item.
            items: The pieces.
            arrived: Called with the place and the result of each, in the order in which they come.
        """
        ...


class Here(Generic[Held]):
    """One piece after the other, on the model itself.

    Args:
        held: The model.
    """

    def __init__(self, held: Held) -> None:
        self._held = held

    def __call__(
        self,
        function: Callable[[Held, Item], Result],
        items: Sequence[Item],
        arrived: Callable[[int, Result], None] | None = None,
    ) -> list[Result]:
        """As `Spread`."""
        results: list[Result] = []
        for place, item in enumerate(items):
            results.append(function(self._held, item))
            if arrived is not None:
                arrived(place, results[-1])
        return results


def by_length(texts: Sequence[str], characters: int) -> list[list[int]]:
    """Cut texts into pieces of like length, for forward passes that are padded.

    Args:
        texts: n texts.
        characters: Bound on texts × longest text of a piece; one text alone may exceed it.

    Returns:
        Indices of each piece, longest texts first.
    """
    order = sorted(range(len(texts)), key=lambda i: (-len(texts[i]), i))
    pieces: list[list[int]] = []
    while order:
        size = max(1, characters // max(1, len(texts[order[0]])))
        pieces.append(order[:size])
        order = order[size:]
    return pieces


def by_beginning(texts: Sequence[str], characters: int) -> list[list[int]]:
    """Cut texts into pieces of neighbours in the alphabet, for passes that run what texts begin with once.

    Args:
        texts: n texts.
        characters: About as many stand in a piece; all pieces have about as many.

    Returns:
        Indices of each piece, none empty.
    """
    order = sorted(range(len(texts)), key=lambda i: (texts[i], i))
    total = sum(map(len, texts))
    count = max(1, -(-total // characters))
    pieces: list[list[int]] = [[] for _ in range(count)]
    before = 0
    for i in order:
        # By its middle: a text is where most of it lies.
        pieces[min(count - 1, (2 * before + len(texts[i])) * count // (2 * total or 1))].append(i)
        before += len(texts[i])
    return [piece for piece in pieces if piece]


def gathered(pieces: Sequence[Sequence[int]], results: Sequence[Sequence[Result]]) -> list[Result]:
    """Results of the pieces' texts, in the order of the texts."""
    places = {
        index: result
        for piece, found in zip(pieces, results, strict=True)
        for index, result in zip(piece, found, strict=True)
    }
    return [places[index] for index in range(len(places))]


def of_reference(over: Spread[Subject]) -> Spread[Subject]:
    """The same copies, as M_0: each with its adapter disabled."""

    def spread(
        function: Callable[[Subject, Item], Result],
        items: Sequence[Item],
        arrived: Callable[[int, Result], None] | None = None,
    ) -> list[Result]:
        return over(partial(_with_reference, function), items, arrived)

    return spread


def _with_reference(function: Callable[[Subject, Item], Result], subject: Subject, item: Item) -> Result:
    with subject.reference():
        return function(subject, item)
