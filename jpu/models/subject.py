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
from jpu.models.batching import BATCH_TOKENS, pad, prefix_batches
from jpu.models.devices import pick_device, pick_dtype
from jpu.models.generation import GENERATION_TOKENS, completions
from jpu.models.scoring import score_answers

_MEND_TEMPLATE = "Mend chat_template.jinja in the folder, or choose another chat model."


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
        self.pad_id: int = next(i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if i is not None)
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
        self._end_ids: list[int] = self.encode(tail.rstrip("\n")) or eos
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

        no_bars()
        where = str(source)
        folder = Path(source)
        if folder.exists():
            if not (folder / "config.json").is_file():
                raise ModelError(
                    "no config.json: this is not a model folder",
                    where=where,
                    mend="Point at the folder that save_pretrained wrote.",
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
        if not (hasattr(model, "model") and hasattr(model, "lm_head")):
            raise ModelError(
                f"a {type(model).__name__} is not of the shape that is known",
                where=where,
                mend="Choose a Llama-like model: model.layers with separate projections, and lm_head.",
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
    def name(self) -> str:
        """What it is called in reports: where it was loaded from."""
        return self.source

    @property
    def adapted(self) -> bool:
        """Whether an adapter is on the model and enabled."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        return any(isinstance(m, BaseTunerLayer) and not m.disable_adapters for m in self.model.modules())

    @property
    def frame(self) -> tuple[str, str]:
        """The chat format's text before and after one user turn, the opening of the assistant's turn included."""
        return self._head, self._tail

    def tokens(self, text: str) -> int:
        """Tokens of a text, without the chat format."""
        return len(self.encode(text))

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

    def _render(self, prompt: str, turns: Sequence[str] = ()) -> str:
        roles = ("user", "assistant")
        said = [{"role": roles[i % 2], "content": text} for i, text in enumerate((*turns, prompt))]
        text: str = self.tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
        return text

    def encode(self, text: str) -> list[int]:
        """Tokens of a text as it stands, without any chat format."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def prompt_ids(self, prompt: str, prefill: str = "", turns: Sequence[str] = ()) -> list[int]:
        """Tokens of a user turn and the opening of the assistant's, with its first words when given.

        Args:
            prompt: The user turn.
            prefill: First words of the assistant.
            turns: Earlier turns, user and assistant alternately, an even number of them.
        """
        opened = self._render(prompt, turns) if turns else self._head + prompt + self._tail
        return self.encode(opened) + (self.encode(prefill) if prefill else [])

    def answer_ids(self, answer: str) -> list[int]:
        """Tokens of an assistant's answer and of the end of its turn."""
        return self.encode(answer) + self._end_ids

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
            (answer, end): self.answer_ids(answer) if end else self.encode(answer)
            for answer, end in set(zip(answers, whole, strict=True))
        }
        tails = [known[key] for key in zip(answers, whole, strict=True)]
        unique = list(asked)
        out = torch.empty(len(tails))
        longest = max((len(t) for t in tails), default=0)
        for batch in prefix_batches([heads[p] for p in unique], longest, batch_tokens):
            rows = [asked[unique[i]] for i in batch]
            score_answers(self.base, [heads[unique[i]] for i in batch], rows, tails, out, self.pad_id, batch_tokens)
        return out

    def collate(self, heads: Sequence[Sequence[int]], tails: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Join prompts and answers, padded on the right.

        No mask is needed: under causal attention nothing sees the padding that comes after it, and without a mask
        attention is faster.

        Returns:
            ``(ids, labels)`` of shape (rows, longest) on the subject's device; labels are -100 off the answers.
        """
        ids, _ = pad([[*h, *t] for h, t in zip(heads, tails, strict=True)], self.pad_id)
        labels = torch.full_like(ids, -100)
        for i, (head, tail) in enumerate(zip(heads, tails, strict=True)):
            labels[i, len(head) : len(head) + len(tail)] = torch.tensor(list(tail), dtype=torch.long)
        return ids.to(self.device), labels.to(self.device)

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[str],
        *,
        prefills: Sequence[str] | None = None,
        turns: Sequence[Sequence[str]] | None = None,
        max_new_tokens: int = 24,
        temperature: float = 0.0,
        seed: int = 0,
        batch_tokens: int = GENERATION_TOKENS,
        progress: Callable[[int], None] | None = None,
    ) -> list[str]:
        """Completions, greedy by default.

        Args:
            prompts: n user turns.
            prefills: n first words put into the assistant's mouth; not part of what is returned.
            turns: n earlier conversations, user and assistant turns alternately.
            max_new_tokens: Bound on new tokens of each.
            temperature: 0 for greedy decoding.
            seed: Seed of the samples, where the temperature is not 0; the n-th sample depends on it and on n alone.
            batch_tokens: Bound on rows × (prompt + new tokens) of a batch.
            progress: Called with the number of prompts that have just been completed.

        Returns:
            n completions, without special tokens.
        """
        count = len(prompts)
        given = zip(prompts, prefills or [""] * count, turns or [()] * count, strict=True)
        rows = [self.prompt_ids(*one) for one in given]
        texts = [""] * len(rows)
        chance = None
        if temperature > 0.0:
            chance = torch.rand(count, max_new_tokens, generator=torch.Generator().manual_seed(seed))
        done = completions(
            self.model,
            rows,
            self._stop_ids,
            max_new_tokens,
            pad_id=self.pad_id,
            temperature=temperature,
            uniforms=chance,
            batch_tokens=batch_tokens,
        )
        for new in done:
            for i, text in zip(
                new, self.tokenizer.batch_decode(list(new.values()), skip_special_tokens=True), strict=True
            ):
                texts[i] = text.strip()
            if progress is not None:
                progress(len(new))
        return texts

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
        no_bars()
        self.base.save_pretrained(folder, safe_serialization=True)
        self.tokenizer.save_pretrained(folder)


def no_bars() -> None:
    """Switch transformers' progress bars off: for a load of milliseconds they say nothing, and break a log's lines."""
    from transformers.utils import logging

    logging.disable_progress_bar()


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
