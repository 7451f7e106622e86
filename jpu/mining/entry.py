"""An entry of the jailbreak buffer: e = (T, Q, J, H) with its loss and descent (docs/method.md 1)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

from pydantic import Field, model_validator

from jpu.data.schemas import PLACEHOLDER, Record, Split


class Entry(Record):
    """One adversarial prompt.

    Attributes:
        id: First 12 hex digits of a hash of template id and prompt.
        parent: Id of the entry that it was mutated from; None for an unmutated one.
        behavior: Id of the restricted behavior that is asked for.
        template: Id of the template T.
        family: Family of the template.
        query: The query Q, or its mutation Q'.
        prompt: The full prompt J = T(Q).
        history: Names of the mutation operators applied so far, H.
        loss: Refusal loss in nats per token under the model that saw it last; None before scoring.
        round: The round that it was made in.
        split: The split of its behavior, template and operators.
        low: Visits running at which the loss was at most τ.
    """

    id: str = Field(pattern=r"^[0-9a-f]{12}$")
    parent: str | None
    behavior: str = Field(min_length=1)
    template: str = Field(min_length=1)
    family: str = Field(min_length=1)
    query: str = Field(min_length=1, repr=False)
    prompt: str = Field(min_length=1, repr=False)
    # JSON has no tuples: a list is taken too.
    history: tuple[str, ...] = Field(strict=False)
    loss: float | None = Field(default=None, allow_inf_nan=False)
    round: int = Field(ge=0)
    split: Split
    low: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _whole(self) -> Entry:
        if self.query not in self.prompt:
            raise ValueError("the prompt does not contain the query")
        if self.id != entry_id(self.template, self.prompt):
            raise ValueError("the id does not belong to this template and prompt")
        return self

    @property
    def known_loss(self) -> float:
        """The loss of a scored entry. Raises ValueError before scoring."""
        if self.loss is None or not math.isfinite(self.loss):
            raise ValueError(f"entry {self.id} has no finite loss")
        return self.loss

    @property
    def template_text(self) -> str:
        """The text of T as it was used, template-level mutations included, with ``{query}``."""
        return self.prompt.replace(self.query, PLACEHOLDER)


def entry_id(template: str, prompt: str) -> str:
    """Stable id of a prompt made with a template: 12 hex digits of SHA-256.

    The prompt rather than the query is hashed, so that template-level mutations get ids of their own.
    """
    return hashlib.sha256(f"{template}\x00{prompt}".encode()).hexdigest()[:12]


def make_entry(
    *,
    behavior: str,
    template: str,
    family: str,
    text: str,
    query: str,
    split: Split,
    round: int,
    parent: str | None = None,
    history: Sequence[str] = (),
) -> Entry:
    """Build an unscored entry by filling a template.

    Args:
        behavior: Id of the behavior.
        template: Id of the template.
        family: Its family.
        text: Text of the template, mutated or not, with ``{query}``.
        query: What goes into it.
        split: The split of all of these.
        round: The round that makes it.
        parent: Id of the entry that it comes from.
        history: Operators applied so far.

    Returns:
        The entry, with ``loss`` None.
    """
    prompt = text.replace(PLACEHOLDER, query)
    return Entry(
        id=entry_id(template, prompt),
        parent=parent,
        behavior=behavior,
        template=template,
        family=family,
        query=query,
        prompt=prompt,
        history=tuple(history),
        round=round,
        split=split,
    )
