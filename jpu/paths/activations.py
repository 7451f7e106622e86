"""The neurons and heads of a Llama-like model: see, ablate and replace their values while it runs.

An FFN neuron is one input of a layer's ``down_proj``; an attention head is one block of ``d_head`` inputs of its
``o_proj``. Both are reached by hooks on those two modules, which stay in place when PEFT wraps the modules, so the same
code serves the bare and the adapted model.

Not covered: fused projections (one ``gate_up_proj``) and mixtures of experts; they raise ModelError.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from jpu.errors import ModelError
from jpu.rows import rows_of

Kind = Literal["neurons", "heads"]

_SITES: dict[Kind, tuple[str, str]] = {"neurons": ("mlp", "down_proj"), "heads": ("self_attn", "o_proj")}
# All that an adapter may train; a fused projection is found out here, before any time is spent.
_PROJECTIONS = (
    *(("mlp", name) for name in ("gate_proj", "up_proj", "down_proj")),
    *(("self_attn", name) for name in ("q_proj", "k_proj", "v_proj", "o_proj")),
)


def bare_model(model: Any) -> Any:
    """The transformers model inside a PEFT wrapper (the adapter's layers stay in it), or `model` itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    """The decoder layers, lowest first.

    Raises:
        ModelError: The model is not Llama-like: no ``model.layers`` with ``mlp.down_proj`` and ``self_attn.o_proj``.
    """
    layers = list(getattr(getattr(bare_model(model), "model", None), "layers", ()))
    for number, layer in enumerate(layers):
        for part, name in _PROJECTIONS:
            if not isinstance(getattr(getattr(layer, part, None), name, None), nn.Module):
                raise ModelError(
                    f"layer {number} has no {part}.{name}",
                    where=type(bare_model(model)).__name__,
                    mend="Use a Llama-like model with separate gate, up and down projections.",
                )
    if not layers:
        raise ModelError(
            "no decoder layers at model.layers",
            where=type(bare_model(model)).__name__,
            mend="Use a Llama-like causal language model.",
        )
    return layers


def sites(model: nn.Module, kind: Kind) -> list[nn.Module]:
    """The module of each layer whose input holds the units: ``down_proj`` or ``o_proj``. Raises ModelError."""
    part, name = _SITES[kind]
    return [getattr(getattr(layer, part), name) for layer in decoder_layers(model)]


def unit_size(model: nn.Module, kind: Kind) -> int:
    """Columns of a site's input that make one unit: 1 for a neuron, ``d_head`` for a head."""
    if kind == "neurons":
        return 1
    config = bare_model(model).config
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def columns(units: Sequence[int], size: int) -> list[int]:
    """The columns of a site's input that belong to `units`, in their order."""
    return [unit * size + offset for unit in units for offset in range(size)]


@contextmanager
def watch(model: nn.Module, kind: Kind, visit: Callable[[int, Tensor], Tensor | None]) -> Iterator[None]:
    """Call ``visit(layer, values)`` whenever a layer's units have been computed.

    Args:
        model: Llama-like model, with or without an adapter.
        kind: Which units.
        visit: Gets the layer's number and the site's input (rows, length, width), in the graph if there is one; a
            tensor that it returns takes the input's place.

    Raises:
        ModelError: The model is not Llama-like.
    """
    rows = rows_of(model)

    def whole(layer: int, here: Tensor) -> Tensor | None:
        put = visit(layer, rows.all(here))
        return None if put is None else rows.mine(put)

    with _watch_here(model, kind, whole):
        yield


@contextmanager
def _watch_here(model: nn.Module, kind: Kind, visit: Callable[[int, Tensor], Tensor | None]) -> Iterator[None]:
    """As `watch`, of the rows that this process runs."""
    with ExitStack() as stack:
        for number, module in enumerate(sites(model, kind)):

            def hook(_: nn.Module, inputs: tuple[Tensor, ...], number: int = number) -> Tensor | None:
                return visit(number, inputs[0])

            stack.callback(module.register_forward_pre_hook(hook).remove)
        yield


@contextmanager
def capture(
    model: nn.Module, kind: Kind = "neurons", *, positions: Tensor | None = None
) -> Iterator[dict[int, Tensor]]:
    """Collect every layer's values during the forward pass that runs inside.

    The tensors stay in the graph, so that a loss may be put on them; wrap the pass in ``torch.no_grad`` for constants.
    A later pass overwrites what an earlier one left.

    Args:
        model: Llama-like model.
        kind: Which units.
        positions: (rows, p) int64, the token positions wanted of each row; None keeps all.

    Yields:
        Layer number → values (rows, p or length, width), filled as the pass goes.
    """
    found: dict[int, Tensor] = {}
    rows = rows_of(model)

    def visit(layer: int, values: Tensor) -> None:
        if positions is not None:
            index = rows.mine(positions).to(values.device)[..., None].expand(-1, -1, values.shape[-1])
            values = values.gather(1, index)
        found[layer] = rows.all(values)

    with _watch_here(model, kind, visit):
        yield found


@contextmanager
def ablate(
    model: nn.Module,
    units: Mapping[int, Sequence[int]],
    kind: Kind = "neurons",
    fill: Mapping[int, Tensor] | None = None,
) -> Iterator[None]:
    """Set the named units of each layer to zero, or to given values, at every position (the causal check of a path).

    Args:
        model: Llama-like model.
        units: Layer → units.
        kind: Which units.
        fill: Layer → what the columns of all its units are set to (width,); None for zero.
    """
    size = unit_size(model, kind)
    kept: dict[int, Tensor] = {}
    put: dict[int, Tensor] = {}
    for layer, site in enumerate(sites(model, kind)):
        if units.get(layer):
            kept[layer] = torch.ones(site_width(site))
            kept[layer][columns(units[layer], size)] = 0.0
            value = torch.zeros(site_width(site)) if fill is None else fill[layer].cpu()
            put[layer] = value * (1 - kept[layer])

    def visit(layer: int, values: Tensor) -> Tensor | None:
        return values * kept[layer].to(values) + put[layer].to(values) if layer in kept else None

    with watch(model, kind, visit):
        yield


@contextmanager
def replace(model: nn.Module, values: Mapping[int, tuple[Tensor, Tensor]], kind: Kind = "neurons") -> Iterator[None]:
    """Put given values in the place of some columns of some layers.

    Args:
        model: Llama-like model.
        values: Layer number → ``(index, value)``: int64 columns (rows, c), and what to put there, (rows, length, c).
            Gradients flow into `value`, and stop at what it replaced.
        kind: Which units.
    """

    def visit(layer: int, found: Tensor) -> Tensor | None:
        return put(found, *values[layer]) if layer in values else None

    with watch(model, kind, visit):
        yield


@contextmanager
def layers_between(model: nn.Module, first: int, last: int | None, entering: Tensor | None) -> Iterator[None]:
    """Inside, a pass runs only some of the decoder layers.

    Args:
        model: Llama-like model.
        first: The lowest layer that runs; 0 leaves what enters it to the embedding.
        last: The highest one; None for the top.
        entering: What enters `first`, (rows, length, d), where it is not 0.
    """
    layers = decoder_layers(model)

    def below(*_: Any, **__: Any) -> Tensor | None:
        return entering

    def beyond(hidden: Tensor, *_: Any, **__: Any) -> Tensor:
        return hidden

    with ExitStack() as stack:
        for number, layer in enumerate(layers):
            if number < first or (last is not None and number > last):
                stack.callback(vars(layer).update, {k: v for k, v in vars(layer).items() if k == "forward"})
                stack.callback(vars(layer).pop, "forward", None)
                vars(layer)["forward"] = below if number < first else beyond
        yield


def put(found: Tensor, index: Tensor, value: Tensor) -> Tensor:
    """`found` (rows, length, width) with columns `index` (rows, c) replaced by `value` (rows, length, c)."""
    where = index[:, None, :].expand(-1, found.shape[1], -1)
    return found.scatter(-1, where, value.to(found.dtype))


def site_width(site: nn.Module) -> int:
    """Inputs of a site: ``d_ff``, or heads × ``d_head``; PEFT's wrapper knows it too."""
    width: int = site.in_features  # type: ignore[assignment]
    return width
