"""Deterministic, disjoint splits of users' data, and families for templates that have none.

Whole groups are dealt: an entity's behaviors stay together, and so do a family's templates. Groups are ordered
by a keyed hash of their names and cut into runs, so the order of the file does not matter, and a file that grows
keeps most of its splits.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from jpu.data.schemas import SPLITS, Behavior, BehaviorDraft, Split, Template, TemplateDraft
from jpu.errors import DataError

SHARES: Mapping[Split, float] = {"train": 0.5, "validation": 0.15, "test": 0.35}
ALIKE = 0.5
_SHINGLE = 3


def split_behaviors(
    drafts: Sequence[BehaviorDraft], *, seed: int, shares: Mapping[Split, float] = SHARES
) -> list[Behavior]:
    """Give every behavior a split; entities stay whole, and kinds are dealt one by one.

    A split that the file gives is kept, and its entity follows it.

    Raises:
        DataError: Fewer than three entities with restricted behaviors, or with ones to be answered.
    """
    restricted = {draft.entity for draft in drafts if draft.kind == "restricted"}
    answered = {draft.entity for draft in drafts if draft.kind != "restricted"}
    _enough("entities with restricted behaviors", restricted)
    _enough("entities with behaviors to be answered (benign prompts)", answered)
    kind_of: dict[str, str] = {}
    for draft in drafts:
        kind_of.setdefault(draft.entity, "restricted" if draft.entity in restricted else draft.kind)
    sizes = Counter(kind_of.values())
    strata: dict[str, list[str]] = {}
    for entity, kind in kind_of.items():
        # Kinds too small to reach every split are dealt as one.
        strata.setdefault(kind if sizes[kind] >= len(SPLITS) else "", []).append(entity)
    given = {draft.entity: draft.split for draft in drafts if draft.split}
    chosen: dict[str, Split] = {}
    for _, entities in sorted(strata.items()):
        chosen |= deal(entities, seed=seed, shares=shares, given=given)
    return [Behavior(**{**draft.model_dump(), "split": draft.split or chosen[draft.entity]}) for draft in drafts]


def split_templates(
    drafts: Sequence[TemplateDraft], *, seed: int, shares: Mapping[Split, float] = SHARES
) -> list[Template]:
    """Give every template a family and a split; families stay whole, and roles are dealt one by one.

    Templates without a family are put into families of near-copies first (`families`).

    Raises:
        DataError: Fewer than three families of jailbreak templates.
    """
    unknown = [draft for draft in drafts if not draft.family]
    named = dict(
        zip(
            (draft.id for draft in unknown),
            families([draft.text for draft in unknown], [draft.id for draft in unknown]),
            strict=True,
        )
    )
    family = {draft.id: draft.family or named[draft.id] for draft in drafts}
    given = {family[draft.id]: draft.split for draft in drafts if draft.split}
    chosen: dict[str, Split] = {}
    for role in ("jailbreak", "polite"):
        members = {family[draft.id] for draft in drafts if draft.role == role}
        if role == "jailbreak":
            _enough("families of jailbreak templates", members)
        chosen |= deal(members - chosen.keys(), seed=seed, shares=shares, given=given)
    return [
        Template(
            **{
                **draft.model_dump(),
                "family": family[draft.id],
                "split": draft.split or chosen[family[draft.id]],
            }
        )
        for draft in drafts
    ]


def deal(
    groups: Iterable[str],
    *,
    seed: int,
    shares: Mapping[Split, float] = SHARES,
    given: Mapping[str, Split] | None = None,
) -> dict[str, Split]:
    """Deal groups to the splits by share, none of them left empty where there are groups enough.

    Args:
        groups: Names of the groups; repeated ones count once.
        seed: Another seed deals another way.
        shares: Wanted share of each split; they sum to 1.
        given: Splits that are already decided.

    Returns:
        The split of every group.
    """
    names = sorted(set(groups))
    chosen = {name: given[name] for name in names if given and name in given}
    free = sorted(
        (name for name in names if name not in chosen),
        key=lambda name: hashlib.sha256(f"{seed}\x00{name}".encode()).digest(),
    )
    held = Counter(chosen.values())
    wanted = {split: max(0, quota - held[split]) for split, quota in _quotas(len(names), shares).items()}
    while sum(wanted.values()) > len(free):
        # A split that was given too much; the others share the loss.
        wanted[max(SPLITS, key=lambda split: wanted[split])] -= 1
    order = [split for split in SPLITS for _ in range(wanted[split])]
    return chosen | dict(zip(free, order, strict=True))


def families(texts: Sequence[str], names: Sequence[str], *, alike: float = ALIKE) -> list[str]:
    """Put near-copies into one family: Jaccard similarity of their word triples, single linkage.

    Public lists hold many rewrites of one prompt; apart, they would leak from training into test.

    Args:
        texts: The templates.
        names: Their ids; a family is named by the smallest id in it.
        alike: Similarity from which two texts are near-copies.

    Returns:
        The family of each text.
    """
    shingles = [_shingles(text) for text in texts]
    rarest = _rarest(shingles, alike)
    holders: dict[str, list[int]] = {}
    root = list(range(len(texts)))

    def find(index: int) -> int:
        while root[index] != index:
            root[index] = root[root[index]]
            index = root[index]
        return index

    for index, prefix in enumerate(rarest):
        for other in {other for shingle in prefix for other in holders.get(shingle, ())}:
            if find(other) != find(index) and _jaccard(shingles[index], shingles[other]) >= alike:
                root[find(other)] = find(index)
        for shingle in prefix:
            holders.setdefault(shingle, []).append(index)
    smallest: dict[int, str] = {}
    for index, name in enumerate(names):
        top = find(index)
        smallest[top] = min(smallest.get(top, name), name)
    return [smallest[find(index)] for index in range(len(texts))]


def nearest(texts: Sequence[str], known: Sequence[str], *, alike: float = ALIKE) -> list[int | None]:
    """For each text the index of the known one that it is most nearly a copy of; None where there is none.

    Args:
        texts: New texts.
        known: The texts to compare with.
        alike: Jaccard similarity of word triples from which two texts are near-copies.
    """
    shingles = [_shingles(text) for text in (*known, *texts)]
    rarest = _rarest(shingles, alike)
    holders: dict[str, list[int]] = {}
    for index in range(len(known)):
        for shingle in rarest[index]:
            holders.setdefault(shingle, []).append(index)
    found: list[int | None] = []
    for own, prefix in zip(shingles[len(known) :], rarest[len(known) :], strict=True):
        candidates = {other for shingle in prefix for other in holders.get(shingle, ())}
        scores = {other: _jaccard(own, shingles[other]) for other in candidates}
        best = max(scores, key=lambda other: (scores[other], -other), default=None)
        found.append(best if best is not None and scores[best] >= alike else None)
    return found


def _rarest(shingles: Sequence[set[str]], alike: float) -> list[list[str]]:
    """Of each set so many of its rarest members that two sets which are alike share one of them.

    Prefix filtering (Bayardo et al., 2007): what all texts of a list begin with does not make them candidates.
    """
    often = Counter(shingle for own in shingles for shingle in own)
    return [
        sorted(own, key=lambda shingle: (often[shingle], shingle))[: len(own) - math.ceil(alike * len(own)) + 1]
        for own in shingles
    ]


def _jaccard(first: set[str], second: set[str]) -> float:
    common = len(first & second)
    return common / (len(first) + len(second) - common)


def _shingles(text: str) -> set[str]:
    words = re.findall(r"\w+", text.lower())
    if len(words) < _SHINGLE:
        return {" ".join(words)}
    return {" ".join(words[i : i + _SHINGLE]) for i in range(len(words) - _SHINGLE + 1)}


def _quotas(total: int, shares: Mapping[Split, float]) -> dict[Split, int]:
    """Whole numbers that sum to `total`, by largest remainder; none is 0 if `total` allows."""
    quota = {split: math.floor(total * shares[split]) for split in SPLITS}
    by_remainder = sorted(SPLITS, key=lambda split: quota[split] - total * shares[split])
    for split in by_remainder[: total - sum(quota.values())]:
        quota[split] += 1
    if total >= len(SPLITS):
        for split in SPLITS:
            if quota[split] == 0:
                quota[max(SPLITS, key=lambda s: quota[s])] -= 1
                quota[split] = 1
    return quota


def _enough(what: str, groups: Iterable[str]) -> None:
    found = len(set(groups))
    if found < len(SPLITS):
        raise DataError(
            f"{found} {what}; at least {len(SPLITS)} are needed, one a split",
            mend="Add more files or records to the data section of params.yaml. Nothing was written.",
        )
