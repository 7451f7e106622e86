"""Connection sensitivity of every weight of a layer, its absolute value taken for each sample.

    s(w) = E_x |w · ∂ℓ_x/∂w|        (SNIP: Lee et al., ICLR 2019, eq. 4, unnormalised)          [faithful]

with ℓ_x the mean negative log-likelihood of an answer's tokens after its prompt [ours]. The absolute value stands
inside the mean, so the gradient of a batch does not do: every sample's own is needed. For a linear layer with input a
and a gradient δ of its output, a sample's is δᵀa over its tokens, which backpropagation computes for a batch as well,
with the samples' tokens in one product instead of one product each. So one backward pass over a batch, with a product
for each sample at each matrix, has the arithmetic of plain training and no loop over prompts; what it adds is that
every |δᵀa| is summed in memory.

Only matrices of the decoder layers: not embeddings, norms, biases. An adapter's update counts as part of its matrix.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from jpu.models import Subject, answer_logits, token_batches
from jpu.paths.activations import decoder_layers
from jpu.paths.passes import Exchanges, constant_weights

# The matrices of a layer, in the order in which their weights stand side by side.
MATRICES = (
    *(f"self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "o_proj")),
    *(f"mlp.{name}" for name in ("gate_proj", "up_proj", "down_proj")),
)
# Values of per-sample gradients held at once: more of them fall out of a CPU's cache.
_HELD = 1 << 20


def sensitivities(
    subject: Subject, exchanges: Exchanges, owners: Sequence[int], layers: Sequence[int], *, batch_tokens: int = 4096
) -> dict[int, Tensor]:
    """Mean sensitivity of each weight over the samples of each owner.

    Args:
        subject: The model, run as it stands.
        exchanges: n prompts and answers, in tokens.
        owners: Of each sample, the number of what it belongs to, from 0 and without gaps: a behavior.
        layers: Layers that are wanted. Memory: owners × weights of these layers, in float32.
        batch_tokens: Bound on rows × longest row of a pass.

    Returns:
        Layer → (owners, weights), float32, on the subject's device; weights as `weight_count` has them.

    Raises:
        ModelError: The model is not Llama-like.
    """
    every = decoder_layers(subject.model)
    found = {n: [(m, effective_weight(every[n].get_submodule(m))) for m in MATRICES] for n in layers}
    count = max(owners) + 1
    totals = {
        n: torch.zeros(count, sum(weight.numel() for _, weight in matrices), device=subject.device)
        for n, matrices in found.items()
    }
    owner = torch.tensor(list(owners), device=subject.device)
    lengths = [len(p) + len(a) for p, a in zip(exchanges.prompts, exchanges.answers, strict=True)]
    with constant_weights(subject.model), torch.enable_grad():
        for batch in token_batches(lengths, batch_tokens):
            with ExitStack() as stack:
                for number, matrices in found.items():
                    start = 0
                    for name, weight in matrices:
                        part = totals[number][:, start : start + weight.numel()]
                        stack.enter_context(_summed(every[number].get_submodule(name), part, owner[batch]))
                        start += weight.numel()
                _backward(subject, [exchanges.prompts[i] for i in batch], [exchanges.answers[i] for i in batch])
    samples = torch.bincount(owner, minlength=count).clamp_min(1)[:, None]
    return {
        n: totals[n].mul_(torch.cat([weight.abs().flatten() for _, weight in matrices])).div_(samples)
        for n, matrices in found.items()
    }


def effective_weight(module: nn.Module) -> Tensor:
    """The matrix that a linear module multiplies by, with the updates of its active adapters: (out, in) float32."""
    base: Any = getattr(module, "base_layer", module)
    weight: Tensor = base.weight.detach().float()
    if base is not module and not module.disable_adapters:
        wrapper: Any = module
        for name in wrapper.active_adapters:
            if name in wrapper.lora_A:
                weight = weight + wrapper.get_delta_weight(name).detach().float()
    return weight


def layer_weights(subject: Subject, layer: int) -> Tensor:
    """All weights of a layer's matrices side by side, (weights,) float32, in the order of `sensitivities`."""
    found = decoder_layers(subject.model)[layer]
    return torch.cat([effective_weight(found.get_submodule(name)).flatten() for name in MATRICES])


@contextmanager
def _summed(module: nn.Module, total: Tensor, owner: Tensor) -> Iterator[None]:
    """Add |δᵀa| of each row to its owner's line of `total` (owners, out × in) when the pass inside runs backward."""

    def seen(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        given = inputs[0].detach().float()

        def arrived(slope: Tensor) -> None:
            rows = max(1, _HELD // total.shape[1])
            for start in range(0, len(given), rows):
                part = slice(start, start + rows)
                own = torch.bmm(slope[part].float().transpose(1, 2), given[part]).abs_()
                total.index_add_(0, owner[part], own.flatten(1))

        output.register_hook(arrived)  # type: ignore[no-untyped-call]

    handle = module.register_forward_hook(seen)
    try:
        yield
    finally:
        handle.remove()


def _backward(subject: Subject, heads: Sequence[Sequence[int]], tails: Sequence[Sequence[int]]) -> None:
    """One pass over prompts and answers: every row's own mean loss, backward to the first layer's inputs."""
    ids, labels = subject.collate(heads, tails)
    # The weights are constants, so the graph has to begin at the tokens' vectors.
    inputs = subject.base.get_input_embeddings()(ids).detach().requires_grad_()
    logits, targets, owner = answer_logits(subject.model, ids, labels, inputs=inputs)
    losses = nn.functional.cross_entropy(logits, targets, reduction="none")
    sizes = torch.bincount(owner, minlength=len(heads))
    torch.autograd.grad((losses / sizes[owner]).sum(), inputs)
