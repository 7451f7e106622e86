"""A model served by vLLM in this process, for machines with a GPU: it answers, and shows no weights.

Written against vLLM's documented interface (`LLM.generate` on token prompts, `SamplingParams`, `LoRARequest`), and not
run here, where there is no GPU. The chat format is the subject's own, so that prompts are the same tokens in both.
vLLM shares prefixes and batches by itself. Its samples differ from the subject's; its greedy texts may, by rounding.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from jpu.errors import ModelError
from jpu.models.subject import Subject
from jpu.unlearning.adapter_check import check_adapter

# The ranks that vLLM reserves room for.
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
# Seeds of one call's samples stand closer than this; those of another call's seed do not overlap them.
_SEEDS = 2**20


class VllmTarget:
    """A chat model under attack, as `jpu.models.Target`.

    Args:
        source: Folder of a saved model, or a hub name.
        adapter: LoRA adapter folder to answer with.
        dtype: "auto", "float32", "bfloat16" or "float16".
        memory: Share of the GPU's memory that vLLM may take.

    Raises:
        ModelError: vLLM is not installed, there is no GPU, or the adapter is none that vLLM runs as PEFT does.
    """

    def __init__(
        self, source: Path | str, adapter: Path | None = None, *, dtype: str = "auto", memory: float = 0.9
    ) -> None:
        where = str(source)
        if find_spec("vllm") is None:
            raise ModelError("vLLM is not installed", where=where, mend="`pip install vllm`, or use the local backend.")
        if not torch.cuda.is_available():
            raise ModelError("vLLM needs a GPU, and none is found", where=where, mend="Use the local backend.")
        rank = 0 if adapter is None else lora_rank(adapter)
        from transformers import AutoTokenizer
        from vllm import LLM
        from vllm.lora.request import LoRARequest

        # Only the chat format is asked of this subject, which has no model.
        self._chat = Subject(None, AutoTokenizer.from_pretrained(where, trust_remote_code=False), where)
        room = {"enable_lora": True, "max_lora_rank": rank} if rank else {}
        self._llm: Any = LLM(model=where, dtype=dtype, gpu_memory_utilization=memory, trust_remote_code=False, **room)
        self._lora = LoRARequest("adapter", 1, str(adapter)) if rank else None

    @property
    def name(self) -> str:
        """Where it was loaded from."""
        return self._chat.source

    def tokens(self, text: str) -> int:
        """Tokens of a text, without the chat format."""
        return self._chat.tokens(text)

    def generate(
        self,
        prompts: Sequence[str],
        *,
        prefills: Sequence[str] | None = None,
        turns: Sequence[Sequence[str]] | None = None,
        max_new_tokens: int = 24,
        temperature: float = 0.0,
        seed: int = 0,
        progress: Callable[[int], None] | None = None,
    ) -> list[str]:
        """Completions, as `Target.generate` says; each sample has a seed of its own, of `seed` and its place."""
        from vllm import SamplingParams, TokensPrompt

        count = len(prompts)
        if not count:
            return []
        given = zip(prompts, prefills or [""] * count, turns or [()] * count, strict=True)
        asked = [TokensPrompt(prompt_token_ids=self._chat.prompt_ids(*one)) for one in given]
        how = [
            SamplingParams(
                temperature=temperature,
                max_tokens=max_new_tokens,
                seed=seed * _SEEDS + place,
                stop_token_ids=self._chat._stop_ids,
            )
            for place in range(count)
        ]
        outputs = self._llm.generate(asked, how, lora_request=self._lora, use_tqdm=False)
        if progress is not None:
            progress(count)
        return [str(output.outputs[0].text).strip() for output in outputs]


def lora_rank(adapter: Path) -> int:
    """The rank to reserve for an adapter.

    vLLM scales every layer by the file's one alpha / r and pads smaller ranks: right where all layers scale alike.

    Raises:
        ModelError: The file cannot be read, or its layers scale differently.
    """
    check_adapter(adapter, cached=True)
    file = adapter / "adapter_config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        ranks, alphas = dict(config.get("rank_pattern") or {}), dict(config.get("alpha_pattern") or {})
        scale = config["lora_alpha"] / config["r"]
        highest = max([config["r"], *ranks.values()])
        layers = ranks.keys() | alphas.keys()
        alike = all(alphas.get(n, config["lora_alpha"]) / ranks.get(n, config["r"]) == scale for n in layers)
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError) as error:
        raise ModelError(
            "no readable LoRA configuration", where=str(file), mend="Point at an adapter folder."
        ) from error
    if not alike or highest > _RANKS[-1]:
        raise ModelError(
            f"vLLM cannot run this adapter: its layers scale differently, or its rank is over {_RANKS[-1]}",
            where=str(file),
            mend="Merge it into the model and serve that, or use the local backend.",
        )
    return next(rank for rank in _RANKS if rank >= highest)
