"""The residual stream as it leaves layers: seen at some tokens, or moved while the model runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from jpu.models import Subject
from jpu.rows import rows_of

# The stream before the first layer.
EMBEDDING = -1


@contextmanager
def leaving(subject: Subject, layers: Sequence[int], visit: Callable[[int, Tensor], Tensor | None]) -> Iterator[None]:
    """Call ``visit(layer, stream)`` whenever a layer is done; a tensor that it returns takes the stream's place."""
    embedding: nn.Module = subject.base.get_input_embeddings()
    rows = rows_of(subject.base)
    with ExitStack() as stack:
        for number in layers:

            def hook(_: nn.Module, __: Any, out: Any, number: int = number) -> Any:
                # A decoder layer gives its stream alone, or first in a tuple.
                stream = out[0] if isinstance(out, tuple) else out
                moved = visit(number, rows.all(stream))
                if moved is None:
                    return None
                put = rows.mine(moved)
                return (put, *out[1:]) if isinstance(out, tuple) else put

            module = embedding if number == EMBEDDING else subject.layers[number]
            stack.callback(module.register_forward_hook(hook).remove)
        yield


def streams(subject: Subject, layers: Sequence[int], ids: Tensor, keep: Tensor) -> Tensor:
    """Streams of some tokens behind some layers; differentiable in what is trained.

    Args:
        subject: The model as it is.
        layers: Layers, none twice; EMBEDDING for what enters the first.
        ids: (rows, length) tokens, padded on the right.
        keep: (rows, length) bool, the tokens wanted.

    Returns:
        (layers, tokens, width) float32.
    """
    found: dict[int, Tensor] = {}

    def visit(layer: int, stream: Tensor) -> None:
        found[layer] = stream[keep].float()

    with leaving(subject, layers, visit):
        subject.base.model(input_ids=ids, use_cache=False)
    return torch.stack([found[layer] for layer in layers])


@torch.no_grad()
def reference_streams(subject: Subject, layers: Sequence[int], ids: Tensor, keep: Tensor) -> Tensor:
    """The same under M_0, without a graph."""
    with subject.reference():
        return streams(subject, layers, ids, keep)


@contextmanager
def moved(subject: Subject, by: Mapping[int, Tensor]) -> Iterator[None]:
    """Add vectors to the streams that leave some layers: layer → (rows, length, width)."""
    with leaving(subject, list(by), lambda layer, stream: stream + by[layer].to(stream.dtype)):
        yield


def saying(labels: Tensor) -> Tensor:
    """Tokens that say an answer: from the last of the prompt to the last of the answer.

    Args:
        labels: (rows, length), -100 off the answers.

    Returns:
        (rows, length) bool.
    """
    answer = labels != -100
    before = torch.zeros_like(answer)
    before[:, :-1] = answer[:, 1:]
    return answer | before


def real(labels: Tensor) -> Tensor:
    """All tokens of prompt and answer, the padding behind them left out; arguments and result as of `saying`."""
    return (labels != -100).flip(1).cumsum(1).flip(1) > 0
