"""The subject: a causal chat model with its tokenizer, its chat format, scoring and generation.

Everything is batched: rows are sorted by length, cut into batches of a bounded number of tokens and put back in order.
The frozen original M_0 is the same weights with the adapter disabled, so the base is never in memory twice.

Does not train, and knows nothing of any attack or defence.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from jpu.errors import ModelError

# Rows × padded length of one forward pass; on two cores larger batches gain nothing and cost memory.
BATCH_TOKENS = 8192

_MEND_TEMPLATE = "Mend chat_template.jinja in the folder, or choose another chat model."


def pick_device(device: str = "auto") -> torch.device:
    """The device to run on: the named one, or CUDA where there is one, else the CPU."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The weights' dtype: the named one, or bfloat16 on CUDA and float32 on the CPU.

    Raises:
        ModelError: The name is no floating dtype that models are run in.
    """
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if dtype not in known:
        raise ModelError(f"unknown dtype {dtype!r}", mend=f"Use auto or one of {', '.join(known)}.")
    return known[dtype]


def token_batches(lengths: Sequence[int], batch_tokens: int = BATCH_TOKENS) -> Iterator[list[int]]:
    """Cut rows into batches of like length.

    Args:
        lengths: Tokens of each row.
        batch_tokens: Bound on rows × longest row of a batch; one row alone may exceed it.

    Yields:
        Indices of the rows of one batch, longest rows first.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    start = 0
    while start < len(order):
        size = max(1, batch_tokens // max(1, lengths[order[start]]))
        yield order[start : start + size]
        start += size


def pad(rows: Sequence[Sequence[int]], pad_id: int, *, left: bool = False) -> tuple[Tensor, Tensor]:
    """Stack token rows.

    Returns:
        ``(ids, mask)``, both int64 of shape (rows, longest); the mask is 1 on real tokens.
    """
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad_id, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for i, row in enumerate(rows):
        at = width - len(row) if left else 0
        ids[i, at : at + len(row)] = torch.tensor(row, dtype=torch.long)
        mask[i, at : at + len(row)] = 1
    return ids, mask


class Subject:
    """A chat model under attack or defence.

    Attributes:
        model: The causal language model, with or without a PEFT adapter around it.
        tokenizer: Its tokenizer, with a chat template.
        source: Where it was loaded from, for messages.
    """

    def __init__(self, model: Any, tokenizer: Any, source: str = "memory") -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.source = source
        if not getattr(tokenizer, "chat_template", None):
            raise ModelError(
                "the tokenizer has no chat template",
                where=source,
                mend="Add chat_template.jinja to the folder, or choose a chat model.",
            )
        self.pad_id: int = next(
            i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if i is not None
        )
        try:
            opened = self._render("\x00")
            closed: str = tokenizer.apply_chat_template(
                [{"role": "user", "content": "\x00"}, {"role": "assistant", "content": "\x01"}], tokenize=False
            )
        except Exception as error:  # a template is a program of its own, and fails in its own ways
            what = f"the chat template cannot be used ({error})"
            raise ModelError(what, where=source, mend=_MEND_TEMPLATE) from error
        if "\x00" not in opened:
            raise ModelError("the chat template leaves the user's words out", where=source, mend=_MEND_TEMPLATE)
        # The template's text after the assistant's words is the end of its turn: taught and expected after each answer.
        tail = closed.split("\x01", 1)[1] if "\x01" in closed else ""
        eos = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
        self._end_ids: list[int] = self._encode(tail.rstrip("\n")) or eos
        if not self._end_ids:
            raise ModelError(
                "nothing ends the assistant's turn: no text after it in the chat template, and no eos token",
                where=source,
                mend=_MEND_TEMPLATE,
            )
        # Some templates put a space before the end of the turn, and a space ends nothing.
        end = next((i for i in self._end_ids if tokenizer.decode([i]).strip()), self._end_ids[0])
        self._stop_ids: list[int] = sorted({end, *eos})
        self._head, self._tail = opened.split("\x00", 1)

    @classmethod
    def load(
        cls, source: Path | str, adapter: Path | None = None, *, device: str = "auto", dtype: str = "auto"
    ) -> Self:
        """Load a model folder or a hub name, and a path adapter on it.

        Args:
            source: Folder of a saved model, or a hub name.
            adapter: Adapter folder; one whose ``round.json`` says rank 0 is no adapter at all.
            device: "auto", "cpu", "cuda", …
            dtype: "auto", "float32", "bfloat16" or "float16".

        Raises:
            ModelError: The folder is missing, incomplete or corrupted, or has no chat template.
        """
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging as transformers_logging

        # A bar for a load of milliseconds says nothing, and breaks the lines of a log.
        transformers_logging.disable_progress_bar()
        where = str(source)
        folder = Path(source)
        if folder.exists():
            if not (folder / "config.json").is_file():
                raise ModelError(
                    "no config.json: this is not a model folder", where=where, mend="Point at the folder that "
                    "save_pretrained wrote."
                )
        elif folder.is_absolute() or where.startswith((".", "artifacts")) or where.count("/") != 1:
            raise ModelError("no such model folder", where=where, mend="Check the path, or run `dvc checkout`.")
        target = pick_device(device)
        try:
            tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=False)
            model, found = AutoModelForCausalLM.from_pretrained(
                where,
                dtype=pick_dtype(dtype, target),
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
            )
        except Exception as error:  # transformers raises a dozen kinds; each means that this folder cannot be used
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ModelError(
                f"the model cannot be loaded ({reason[:200]})",
                where=where,
                mend="Bring it back with `dvc checkout`, or save it again as safetensors.",
            ) from error
        if found["missing_keys"]:
            # transformers would go on with random weights in their place.
            raise ModelError(
                f"weights are missing: {', '.join(sorted(found['missing_keys'])[:3])} …",
                where=where,
                mend="Bring the folder back with `dvc checkout`, or save the model again as safetensors.",
            )
        model = model.to(target)
        model.eval()
        model.requires_grad_(False)
        subject = cls(model, tokenizer, where)
        if adapter is not None and not _is_empty_adapter(Path(adapter)):
            from jpu.unlearning.adapter import load_adapter

            subject.model = load_adapter(model, Path(adapter))
            subject.model.eval()
        return subject

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = next(self.model.parameters()).device
        return device

    @property
    def base(self) -> Any:
        """The model without the PEFT wrapper around it (the adapter's layers stay inside)."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    @property
    def layers(self) -> nn.ModuleList:
        """The decoder layers, Llama-like: ``.mlp.{gate,up,down}_proj`` and ``.self_attn.{q,k,v,o}_proj``."""
        layers: nn.ModuleList = self.base.model.layers
        return layers

    @contextlib.contextmanager
    def reference(self) -> Iterator[None]:
        """M_0: the adapter is disabled inside this context."""
        with original(self.model):
            yield

    def _render(self, prompt: str) -> str:
        text: str = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
        )
        return text

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def prompt_ids(self, prompt: str, prefill: str = "") -> list[int]:
        """Tokens of one user turn and the opening of the assistant's, with its first words when given."""
        return self._encode(self._head + prompt + self._tail) + (self._encode(prefill) if prefill else [])

    def answer_ids(self, answer: str) -> list[int]:
        """Tokens of an assistant's answer and of the end of its turn."""
        return self._encode(answer) + self._end_ids

    @torch.no_grad()
    def nll(
        self,
        prompts: Sequence[str],
        answers: Sequence[str],
        *,
        ended: Sequence[bool] | None = None,
        batch_tokens: int = BATCH_TOKENS,
    ) -> Tensor:
        """Mean negative log-likelihood of each answer after its prompt.

        A prompt that stands there with several answers (the refusal loss asks for several wordings) is run once, and
        its keys and values serve all of them.

        Args:
            prompts: n user turns, in any order, repeated or not.
            answers: n answers.
            ended: For each answer whether it is whole, and the end of the turn is scored with it; all are by default.
            batch_tokens: Bound on rows × length of one forward pass.

        Returns:
            (n,) float32 on the CPU, nats per answer token (the end of the turn counted in where it is scored).
        """
        asked: dict[str, list[int]] = {}
        for i, prompt in enumerate(prompts):
            asked.setdefault(prompt, []).append(i)
        heads = {prompt: self.prompt_ids(prompt) for prompt in asked}
        whole = [True] * len(answers) if ended is None else list(ended)
        known = {
            (answer, end): self.answer_ids(answer) if end else self._encode(answer)
            for answer, end in set(zip(answers, whole, strict=True))
        }
        tails = [known[key] for key in zip(answers, whole, strict=True)]
        unique = list(asked)
        out = torch.empty(len(tails))
        longest = max((len(t) for t in tails), default=0)
        for batch in token_batches([len(heads[p]) + longest for p in unique], batch_tokens):
            rows = [asked[unique[i]] for i in batch]
            self._score_batch([heads[unique[i]] for i in batch], rows, tails, out)
        return out

    def _score_batch(
        self,
        heads: Sequence[Sequence[int]],
        wanted: Sequence[Sequence[int]],
        tails: Sequence[Sequence[int]],
        out: Tensor,
    ) -> None:
        """Fill ``out`` for one batch of prompts: the prompts once, then one pass for each turn of answers."""
        ids, mask = pad(heads, self.pad_id, left=True)
        ids, mask = ids.to(self.device), mask.to(self.device)
        trunk, head = self.base.model, self.base.lm_head
        start = trunk(
            input_ids=ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0), use_cache=True
        )
        cache, last = start.past_key_values, start.last_hidden_state[:, -1:]
        lengths = mask.sum(1)
        for turn in range(max(len(w) for w in wanted)):
            rows = [tails[w[turn]] if turn < len(w) else [self.pad_id] for w in wanted]
            answer, real = pad(rows, self.pad_id)
            answer, real = answer.to(self.device), real.to(self.device)
            hidden = last
            if answer.shape[1] > 1:
                steps = torch.arange(answer.shape[1] - 1, device=self.device)
                more = trunk(
                    input_ids=answer[:, :-1],
                    attention_mask=torch.cat([mask, real[:, :-1]], 1),
                    position_ids=lengths[:, None] + steps,
                    past_key_values=cache,
                    use_cache=True,
                )
                hidden = torch.cat([last, more.last_hidden_state], 1)
                cache.crop(1 - answer.shape[1])
            keep = real.bool()
            losses = nn.functional.cross_entropy(head(hidden[keep]).float(), answer[keep], reduction="none")
            sums = torch.zeros(len(rows), device=self.device).index_add_(0, keep.nonzero()[:, 0], losses)
            means = (sums / real.sum(1)).cpu()
            for row, w in enumerate(wanted):
                if turn < len(w):
                    out[w[turn]] = means[row]

    def collate(self, heads: Sequence[Sequence[int]], tails: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor, Tensor]:
        """Join prompts and answers.

        Returns:
            ``(ids, mask, labels)`` of shape (rows, longest) on the subject's device; labels are -100 off the answers.
        """
        ids, mask = pad([[*h, *t] for h, t in zip(heads, tails, strict=True)], self.pad_id)
        labels = torch.full_like(ids, -100)
        for i, (head, tail) in enumerate(zip(heads, tails, strict=True)):
            labels[i, len(head) : len(head) + len(tail)] = torch.tensor(list(tail), dtype=torch.long)
        return ids.to(self.device), mask.to(self.device), labels.to(self.device)

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[str],
        *,
        prefills: Sequence[str] | None = None,
        max_new_tokens: int = 24,
        batch_tokens: int = BATCH_TOKENS,
        progress: Callable[[int], None] | None = None,
    ) -> list[str]:
        """Greedy completions.

        Args:
            prompts: n user turns.
            prefills: n first words put into the assistant's mouth; not part of what is returned.
            max_new_tokens: Bound on new tokens of each.
            batch_tokens: Bound on rows × (prompt + new tokens) of a batch.
            progress: Called with the number of prompts that have just been completed.

        Returns:
            n completions, without special tokens.
        """
        rows = [self.prompt_ids(p, f) for p, f in zip(prompts, prefills or [""] * len(prompts), strict=True)]
        texts = [""] * len(rows)
        for batch in token_batches([len(r) + max_new_tokens for r in rows], batch_tokens):
            ids, mask = pad([rows[i] for i in batch], self.pad_id, left=True)
            new = self._greedy(ids.to(self.device), mask.to(self.device), max_new_tokens)
            decoded = self.tokenizer.batch_decode(new, skip_special_tokens=True)
            for i, text in zip(batch, decoded, strict=True):
                texts[i] = text.strip()
            if progress is not None:
                progress(len(batch))
        return texts

    def _greedy(self, ids: Tensor, mask: Tensor, max_new_tokens: int) -> list[list[int]]:
        """Greedy decoding with a KV cache; rows that have ended leave the batch together at the end."""
        stops = torch.tensor(self._stop_ids, device=ids.device)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        cache: Any = None
        new: list[Tensor] = []
        done = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
        for _ in range(max_new_tokens):
            out = self.model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            cache = out.past_key_values
            token = out.logits[:, -1].argmax(-1)
            token = torch.where(done, stops[0], token)
            new.append(token)
            done |= torch.isin(token, stops)
            if bool(done.all()):
                break
            ids = token[:, None]
            positions = positions[:, -1:] + 1
            mask = torch.cat([mask, torch.ones_like(ids)], 1)
        result = []
        for row in torch.stack(new, 1).tolist():
            result.append(row[: next((i for i, token in enumerate(row) if token in self._stop_ids), len(row))])
        return result

    def save(self, folder: Path) -> None:
        """Write the bare model, tokenizer and chat template as a folder of safetensors and JSON.

        Raises:
            ModelError: There is an adapter on the model, whose parts would be written among its weights.
        """
        if self.model is not self.base:
            raise ModelError(
                "a model with an adapter on it is not saved as one",
                where=str(folder),
                mend="Save the adapter by itself. Nothing was written.",
            )
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()
        self.base.save_pretrained(folder, safe_serialization=True)
        self.tokenizer.save_pretrained(folder)


@contextlib.contextmanager
def original(model: Any) -> Iterator[None]:
    """M_0 inside: the adapter is disabled, where there is one.

    PEFT makes every factor of an adapter trainable when it is enabled again, also those that are frozen by choice (the
    path's one-hot factors) and those of an adapter loaded to be run only; here each comes back as it was.
    """
    if not hasattr(model, "disable_adapter"):
        yield
        return
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        with model.disable_adapter():
            yield
    finally:
        for parameter, trained in before:
            parameter.requires_grad_(trained)


def answer_nll(model: Any, ids: Tensor, mask: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood of every answer token; the vocabulary is only visited at answer positions.

    Args:
        model: Causal language model whose ``model`` is the trunk and ``lm_head`` the head (PEFT or not).
        ids: (rows, length) tokens.
        mask: (rows, length) 1 on real tokens.
        labels: (rows, length), -100 off the answers.

    Returns:
        ``(losses, owner)``, both (answer tokens,): nats in float32, and the row of each.
    """
    logits, targets, owner = answer_logits(model, ids, mask, labels)
    return nn.functional.cross_entropy(logits, targets, reduction="none"), owner


def answer_logits(model: Any, ids: Tensor, mask: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Logits that predict every answer token.

    Returns:
        ``(logits, targets, owner)`` of shapes (t, vocabulary) in float32, (t,) and (t,) for t answer tokens.
    """
    bare = model.get_base_model() if hasattr(model, "get_base_model") else model
    hidden = bare.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    keep = labels[:, 1:] != -100
    logits = bare.lm_head(hidden[:, :-1][keep]).float()
    owner = keep.nonzero()[:, 0]
    return logits, labels[:, 1:][keep], owner


def _is_empty_adapter(folder: Path) -> bool:
    """Whether this is the adapter of round 0: no ranks at all.

    Raises:
        ModelError: The folder holds neither an adapter nor a round that says it has none.
    """
    if (folder / "adapter_config.json").is_file():
        return False
    marker = folder / "round.json"
    try:
        return bool(json.loads(marker.read_text(encoding="utf-8"))["rank"] == 0)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            "neither adapter_config.json nor a round.json of rank 0 in this folder",
            where=str(folder),
            mend="Bring it back with `dvc checkout`, or name the folder that `unlearn` wrote.",
        ) from error
