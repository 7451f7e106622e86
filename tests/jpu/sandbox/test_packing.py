"""Packed rows: nothing is lost, nothing sees its neighbour."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from jpu.sandbox.packing import pack

TOKENS = st.lists(st.integers(1, 99), min_size=1, max_size=12)


def test_the_longest_pair_opens_a_row_and_the_first_with_room_takes_the_next() -> None:
    batch = pack([([1, 2], [3]), ([4, 5, 6], [7, 8]), ([9], [10])], pad_id=0, width=8)
    assert batch.ids.tolist() == [[4, 5, 6, 7, 8, 1, 2, 3], [9, 10, 0, 0, 0, 0, 0, 0]]
    assert batch.positions.tolist() == [[0, 1, 2, 3, 4, 0, 1, 2], [0, 1, 0, 0, 0, 0, 0, 0]]
    assert batch.targets.tolist() == [[-100, -100, 7, 8, -100, -100, 3, -100], [10, *[-100] * 7]]
    seen = batch.mask[0, 0].nonzero().tolist()
    assert seen == [[i, j] for i in range(8) for j in range(i + 1) if (i < 5) == (j < 5)]


def test_a_pair_longer_than_the_width_widens_the_rows() -> None:
    assert pack([([1] * 9, [2]), ([3], [4])], pad_id=0, width=4).ids.shape == (2, 10)


@given(st.lists(st.tuples(TOKENS, TOKENS), min_size=1, max_size=12), st.integers(1, 40))
def test_every_pair_is_there_once_whole_and_sees_itself_only(
    pairs: list[tuple[list[int], list[int]]], width: int
) -> None:
    batch = pack(pairs, pad_id=0, width=width)
    found = []
    for ids, positions, mask, targets in zip(batch.ids, batch.positions, batch.mask[:, 0], batch.targets, strict=True):
        starts = [i for i in range(len(ids)) if positions[i] == 0 and ids[i] != 0]
        ends = [*starts[1:], int((ids != 0).sum())]
        for start, end in zip(starts, ends, strict=True):
            size = end - start
            assert positions[start:end].tolist() == list(range(size))
            assert torch.equal(mask[start:end, start:end], torch.ones(size, size, dtype=torch.bool).tril())
            assert mask[start:end].sum() == size * (size + 1) // 2
            wanted = targets[start:end]
            opening = int((wanted != -100).nonzero()[0]) + 1
            assert wanted[opening - 1 : -1].tolist() == ids[start + opening : end].tolist() and wanted[-1] == -100
            found.append((ids[start : start + opening].tolist(), ids[start + opening : end].tolist()))
    assert sorted(found) == sorted(pairs)
