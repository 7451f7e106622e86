"""Splits of records that come to data which are there already: through the inbox.

A template family is sent in so that the model is hardened against it, so most of its wordings must be trained on; and
what that achieved has to be measured on wordings that training never saw. So of a new family with three wordings or
more about a third is held out in `test`, chosen by a hash of the text, and of a smaller one nothing. A wording stays
where it was put: what was trained on is not measured with later.

A family that the data's own files have stays whole, in its split, and so does a near-copy of one of their templates.
Behaviors go by entity: with their entity if it is known, else by a hash of its name, so that the order in which files
come does not matter.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from jpu.data.schemas import SPLITS, Behavior, BehaviorDraft, Split, Template, TemplateDraft
from jpu.data.splits import SHARES, families, nearest

HELD_OUT = 0.34
FEWEST = 3
"""Wordings from which some of a family are held out."""
INBOX = "inbox"


@dataclass(frozen=True)
class Likeness:
    """What a new template belongs to among those that are there.

    Attributes:
        family: The family that it names, else that of the template which it nearly copies; "" where it is new.
        split: Split of that family, or of that template, where it is one of the data's own; None elsewhere.
    """

    family: str
    split: Split | None


def likeness(drafts: Sequence[TemplateDraft], known: Iterable[Template]) -> list[Likeness]:
    """What each new template belongs to among the known ones, the data's own and those of the inbox."""
    known = list(known)
    own = {template.family: template.split for template in known if template.origin != INBOX}
    found = []
    indices = nearest([draft.text for draft in drafts], [template.text for template in known])
    for draft, index in zip(drafts, indices, strict=True):
        near = known[index] if index is not None else None
        family = draft.family or (near.family if near else "")
        copied = near.split if near is not None and near.origin != INBOX else None
        found.append(Likeness(family, own.get(family) or copied))
    return found


def place_templates(
    drafts: Sequence[TemplateDraft],
    likes: Sequence[Likeness],
    inbox: Iterable[Template],
    *,
    held_out: float = HELD_OUT,
) -> list[Template]:
    """Give every new template its family and split.

    Args:
        drafts: The new templates. A split that one brings is kept.
        likes: What each belongs to.
        inbox: The templates that came through the inbox before.
        held_out: Share of a new family's wordings that goes to `test`.
    """
    names = _families(drafts, likes)
    splits = [draft.split or like.split for draft, like in zip(drafts, likes, strict=True)]
    total, held = Counter(names), Counter[str]()
    for template in inbox:
        total[template.family] += 1
        held[template.family] += template.split == "test"
    for name, split in zip(names, splits, strict=True):
        held[name] += split == "test"
    # By a hash of the text, so that neither the order of the lines nor their ids decide.
    for index in sorted(range(len(drafts)), key=lambda i: _digest(drafts[i].text)):
        if splits[index] is None:
            name = names[index]
            measured = total[name] >= FEWEST and held[name] < max(1, round(total[name] * held_out))
            splits[index] = "test" if measured else "train"
            held[name] += measured
    return [
        Template(**{**draft.model_dump(), "family": name, "split": split, "origin": INBOX})
        for draft, name, split in zip(drafts, names, splits, strict=True)
    ]


def place_behaviors(
    drafts: Sequence[BehaviorDraft],
    known: Iterable[Behavior],
    *,
    seed: int,
    shares: Mapping[Split, float] = SHARES,
) -> list[Behavior]:
    """Give every new behavior the split of its entity; a split that one of its behaviors brings is kept."""
    given: dict[str, Split] = {draft.entity: draft.split for draft in drafts if draft.split}
    given |= {behavior.entity: behavior.split for behavior in known}
    return [
        Behavior(
            **{
                **draft.model_dump(),
                "split": draft.split or given.get(draft.entity) or _dealt(draft.entity, seed, shares),
            }
        )
        for draft in drafts
    ]


def _families(drafts: Sequence[TemplateDraft], likes: Sequence[Likeness]) -> list[str]:
    """The family of each; those that belong to none are put into families of near-copies."""
    unknown = [index for index, like in enumerate(likes) if not like.family]
    found = families([drafts[index].text for index in unknown], [drafts[index].id for index in unknown])
    new = dict(zip(unknown, found, strict=True))
    return [new.get(index, like.family) for index, like in enumerate(likes)]


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _dealt(entity: str, seed: int, shares: Mapping[Split, float]) -> Split:
    at = int.from_bytes(_digest(f"{seed}\x00{entity}")[:8], "big")
    reached = 0.0
    for split in SPLITS:
        reached += shares[split] * 2**64
        if at < reached:
            return split
    return SPLITS[-1]
