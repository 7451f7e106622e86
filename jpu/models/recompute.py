"""Train and differentiate models whose activations do not fit: a layer's are computed again when they are needed.

Of each decoder layer only the input is kept for the backward pass, and the layer runs a second time there (activation
checkpointing; Chen et al., 2016, arXiv 1604.06174). That costs one more forward pass, and a token then holds its hidden
state once a layer instead of everything in between: for an 8B Llama 0.26 MB instead of about 10 (docs/paths.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from jpu.models.cache import PrefixCache
from jpu.rows import Rows, rows_of

# Where a module keeps its hooks. PyTorch has no public way to list them.
_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
)


@contextmanager
def recomputed(model: Any) -> Iterator[None]:
    """Inside, decoder layers keep their input alone for the backward pass, which has to run inside as well.

    Values and gradients are those of the plain model. The second run of a layer has the hooks of its first one, also
    where these have been removed since: what a pass watched, scaled or took out is the same in both. A pass that fills
    a cache is run as ever, since a second run would fill it twice; one over a `PrefixCache` is not affected.

    Args:
        model: Causal language model with ``model.layers``, PEFT or not.
    """
    bare = model.get_base_model() if hasattr(model, "get_base_model") else model
    with ExitStack() as stack:
        for layer in bare.model.layers:
            had = vars(layer).get("forward")
            layer.forward = _twice(layer, layer.forward, rows_of(bare))
            stack.callback(_put_back, layer, had)
        yield


def _put_back(layer: nn.Module, had: Any) -> None:
    if had is None:
        del layer.forward
    else:
        layer.forward = had


def _twice(layer: nn.Module, forward: Callable[..., Any], rows: Rows) -> Callable[..., Any]:
    def run(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        cache = kwargs.get("past_key_values")
        if not torch.is_grad_enabled() or not (cache is None or isinstance(cache, PrefixCache)):
            return forward(hidden, *args, **kwargs)
        hooks = [(module, {name: getattr(module, name).copy() for name in _HOOKS}) for module in layer.modules()]

        again = rows.again()

        def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
            return nullcontext(), _as_then(hooks, again())

        return checkpoint(
            forward, hidden, *args, use_reentrant=False, preserve_rng_state=False, context_fn=contexts, **kwargs
        )

    return run


@contextmanager
def _as_then(hooks: list[tuple[nn.Module, dict[str, Any]]], again: AbstractContextManager[None]) -> Iterator[None]:
    """Inside, modules have these hooks and no others, and the rows of the pass are what they were."""
    now = [(module, {name: getattr(module, name) for name in then}) for module, then in hooks]
    try:
        for module, then in hooks:
            vars(module).update(then)
        with again:
            yield
    finally:
        for module, found in now:
            vars(module).update(found)
