"""The losses of rectification, each on one batch of jailbreak entries.

    L = w_ref · L_ref + w_rect · L_rect + w_prefill · L_prefill + w_leak · L_leak + w_retain · KL(M_0‖M_θ)

L_ref      mean NLL of y_ref after J.                                        [faithful: Safe Unlearning, as cited]
L_rect     squared distance of the path's neurons to their safety anchors.    [inferred: the form is RMU's]
L_prefill  NLL of y_ref after J and the first words of the leak: a refusal that does not hang on the first token
           alone (Qi et al., 2024, arXiv 2406.05946).                        [ours]
L_leak     −log(1 − p(leak token)) on the secret part of the leak: unlikelihood (Welleck et al., 2019,
           arXiv 1908.04319), bounded below where NPO or gradient ascent are not. [ours]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from jpu.models import Subject, answer_logits, answer_nll
from jpu.paths.activations import capture
from jpu.unlearning.anchors import Anchors, anchor_positions


def refusal_and_anchor_loss(
    subject: Subject,
    prompts: Sequence[str],
    behaviors: Sequence[str],
    anchors: Anchors,
    neurons: Mapping[int, Sequence[int]],
    positions: int,
) -> tuple[Tensor, Tensor]:
    """L_ref and L_rect in one forward pass: J and Q differ in length, so both are read on the same y_ref.

    L_rect = mean over entries, layers, positions and neurons of (z_l(J,i)_n − sg a_l(Q,i)_n)² / (mean a² + ε),
    or, along a direction r_l alone, the mean of (Σ_n r_n (z_n − a_n) / √(mean a² + ε))² / k_l.

    Args:
        subject: M_θ.
        prompts: Jailbreak prompts J.
        behaviors: Behavior id of each.
        anchors: Safety anchors of these behaviors.
        neurons: Layer → path neurons R_l.
        positions: Positions compared.

    Returns:
        Two scalars: nats per token, and a dimensionless squared distance (0 where the path is empty).
    """
    heads = [subject.prompt_ids(p) for p in prompts]
    tails = [subject.answer_ids(anchors.refusals[b]) for b in behaviors]
    ids, labels = subject.collate(heads, tails)
    rows = torch.tensor([anchors.index[b] for b in behaviors])
    with capture(subject.model, positions=anchor_positions(heads, tails, positions)) as found:
        losses, _ = answer_nll(subject.model, ids, labels)
    distances = []
    for layer, values in anchors.values.items():
        now = found[layer][..., list(neurons[layer])].float()
        target, scale = values[rows].to(now.device), anchors.scale[layer].to(now.device)
        if anchors.direction is None:
            distances.append(((now - target).square() / scale).mean())
        else:
            way = anchors.direction[layer].to(now.device)
            distances.append((((now - target) / scale.sqrt()) @ way).square().mean() / len(way))
    rect = torch.stack(distances).mean() if distances else losses.new_zeros(())
    return losses.mean(), rect


def prefill_loss(
    subject: Subject, prompts: Sequence[str], prefills: Sequence[Sequence[int]], refusals: Sequence[str]
) -> Tensor:
    """NLL of y_ref after J and the leak's first tokens.

    Args:
        subject: M_θ.
        prompts: Jailbreak prompts J.
        prefills: First tokens of each leak.
        refusals: y_ref of each.

    Returns:
        Scalar, nats per token.
    """
    heads = [[*subject.prompt_ids(p), *f] for p, f in zip(prompts, prefills, strict=True)]
    ids, labels = subject.collate(heads, [subject.answer_ids(r) for r in refusals])
    losses, _ = answer_nll(subject.model, ids, labels)
    return losses.mean()


def leak_loss(
    subject: Subject, prompts: Sequence[str], prefills: Sequence[Sequence[int]], secrets: Sequence[Sequence[int]]
) -> Tensor:
    """Unlikelihood of the leak's tokens after J and the leak's words so far.

    Args:
        subject: M_θ.
        prompts: Jailbreak prompts J.
        prefills: The leak's tokens before the secret.
        secrets: The secret's tokens.

    Returns:
        Scalar, −mean log(1 − p), at least 0.
    """
    heads = [[*subject.prompt_ids(p), *f] for p, f in zip(prompts, prefills, strict=True)]
    ids, labels = subject.collate(heads, secrets)
    logits, targets, _ = answer_logits(subject.model, ids, labels)
    log_p = logits.log_softmax(-1).gather(-1, targets[:, None])[:, 0]
    return -torch.log1p(-log_p.exp().clamp(max=1 - 1e-6)).mean()
