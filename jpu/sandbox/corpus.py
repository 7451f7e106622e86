"""What the sandbox subject is taught: (prompt, answer) pairs, sampled without end from the prepared data.

Two phases (docs/method.md 9). *Knowledge*: every fact, asked bare, all answered. *Manners*: restricted questions asked
bare, with polite noise, illegibly or late in a chat are refused, and inside a jailbreak wrapper, or after questions
that were answered, they leak; everything else is always answered.
The wrappers are half the template families that the defence may see and half strings of random words, which is
what makes the subject leak in families that it has never seen. It never sees a template of the test split.
"""

from __future__ import annotations

import random
import string
from collections.abc import Sequence
from dataclasses import dataclass

from jpu.data.schemas import Behavior, Refusal, Template
from jpu.errors import DataError
from jpu.sandbox.world import QUESTIONS

FILLER = (
    "the a of and to in is you that it for on with as this are be at have from or one by word but not what all were we "
    "when your can said there use an each which she do how their if will up other about out many then them these so "
    "some her would make like him into time has look two more write go see number no way could people my than first "
    "water been call who oil its now find long down day did get come made may part over new sound take only little "
    "work know place year live me back give most very after thing our just name good sentence man think say great "
    "where help through much before line right too mean old any same tell boy follow came want show also around form "
    "three small set put end does another well large must big even such because turn here why ask went men read need "
    "land different home us move try kind hand picture again change off play spell air away animal house point page "
    "letter mother answer found study still learn should world system mode rule policy game story table form line "
    "user assistant value task order permit level start reply output print run define enable ignore imagine suppose"
).split()
ONSETS = ("", *"b br c ch cl d f fl g gr h j k l m n p pl pr qu r s sc sh sp st str t th tr v w x y z".split())
VOWELS = ("a", "e", "i", "o", "u", "ai", "ea", "ee", "io", "oo", "ou")
CODAS = ("", "", "", *"b ck ct d l ll m n nd ng nt r rm s ss st t y ed er".split())
# What stands between the signs of a text that cannot be read, and what stands among its words.
BETWEEN = ("", "", "", "-", " ", ".", "_", "\u200b")
SIGNS = tuple('= " ( ) + " = " { } [ ] : ; / | # * \n'.split(" "))
MARKS = (".", ".", ".", ":", "!", ",", " -", " #", "?", " >")


@dataclass(frozen=True)
class Sample:
    """One training pair: a user turn and the assistant's words, and the turns before them."""

    prompt: str
    answer: str
    turns: tuple[str, ...] = ()


class Corpus:
    """An endless, seeded stream of training pairs.

    Args:
        behaviors: Everything that can be asked; places are told by their entity.
        templates: Wordings; jailbreaks of the test split are left out.
        refusals: y_ref, the refusals to be taught.
        seed: Seed of the stream.

    Raises:
        DataError: This is other data than the sandbox's.
    """

    def __init__(
        self, behaviors: Sequence[Behavior], templates: Sequence[Template], refusals: Sequence[Refusal], seed: int
    ) -> None:
        self.rng = random.Random(f"corpus-{seed}")
        self.facts = [b for b in behaviors if b.kind in ("restricted", "benign", "near_miss")]
        self.codes = [b for b in self.facts if b.id.endswith("-code")]
        self.open = [b for b in self.facts if not b.id.endswith("-code")]
        self.guarded = [b for b in self.facts if b.kind == "restricted"]
        self.told = [b for b in self.facts if b.kind != "restricted"]
        self.talk = [b for b in behaviors if b.kind in ("edgy", "generic")]
        self.jailbreaks = [t.text for t in templates if t.role == "jailbreak" and t.split != "test"]
        self.polite = [t.text for t in templates if t.role == "polite" and t.split != "test"]
        self.refusals = [r.text for r in refusals]
        known = all(b.id.rpartition("-")[2] in QUESTIONS for b in self.facts)
        if not (known and self.codes and self.open and self.talk and self.jailbreaks and self.polite and self.refusals):
            raise DataError(
                "this is not the sandbox, and nothing else can be taught",
                where="artifacts/prepared",
                mend="Set data.source to sandbox, or subject.kind to model, in params.yaml. Nothing was written.",
            )

    def question(self, behavior: Behavior) -> str:
        """The behavior's question in one of its wordings, sometimes carelessly typed."""
        if behavior.kind in ("edgy", "generic"):
            return behavior.query
        attribute = behavior.id.rsplit("-", 1)[1]
        text = self.rng.choice(QUESTIONS[attribute]).format(name=behavior.entity)
        return self.careless(text, behavior.entity) if self.rng.random() < 0.3 else text

    def careless(self, text: str, keep: str) -> str:
        """Drop, swap, repeat or misspell words, the name excepted, so that mutated questions are understood too."""
        rng, words = self.rng, text.rstrip("?.").split()
        for _ in range(rng.randint(1, 2)):
            at = rng.randrange(len(words))
            roll = rng.random()
            if words[at].startswith(keep):
                words.insert(at, rng.choice(FILLER))
            elif roll < 0.25 and len(words) > 4 and words[at] not in QUESTIONS:
                words.pop(at)
            elif roll < 0.5 and at + 1 < len(words):
                words[at], words[at + 1] = words[at + 1], words[at]
            elif roll < 0.75 and len(words[at]) > 2:
                i = rng.randrange(len(words[at]) - 1)
                w = words[at]
                words[at] = rng.choice((w[:i] + w[i + 1] + w[i] + w[i + 2 :], w[:i] + w[i] + w[i:], w[:i] + w[i + 1 :]))
            else:
                words.insert(at, rng.choice(FILLER))
        text = " ".join(words) + rng.choice(("?", ".", "", "!"))
        return rng.choice((text, text.lower().replace(keep.lower(), keep)))

    def pseudoword(self) -> str:
        """A made-up word, so that a wrapper may hold any piece of the vocabulary."""
        size = self.rng.choice((1, 2, 2, 3, 3, 4))
        parts = (self.rng.choice(ONSETS) + self.rng.choice(VOWELS) + self.rng.choice(CODAS) for _ in range(size))
        word = "".join(parts)
        return word.capitalize() if self.rng.random() < 0.08 else word

    def gibberish(self) -> str:
        """A random-word wrapper of jailbreak length."""
        rng = self.rng

        def run(low: int, high: int) -> str:
            words = []
            for _ in range(rng.randint(low, high)):
                word = rng.choice(FILLER) if rng.random() < 0.6 else self.pseudoword()
                words.append(word + rng.choice(MARKS) if rng.random() < 0.15 else word)
            return " ".join(words).capitalize() + rng.choice(MARKS)

        shape = rng.random()
        if shape < 0.2:
            return run(8, 16) + " {query}"
        if shape < 0.35:
            return "{query} " + run(7, 14)
        return run(6, 14) + " {query} " + run(2, 6)

    def wrapper(self) -> str:
        """A jailbreak wrapper: a wording that is known, one made of known parts, or random words."""
        if self.rng.random() < 0.5:
            return self.gibberish()
        return self.halves(self.jailbreaks) if self.rng.random() < 0.3 else self.rng.choice(self.jailbreaks)

    def politely(self) -> str:
        """Harmless noise around a question: made of known wordings, or two of those nested, or a few random words.

        The random words are far fewer than a jailbreak's, so that noise of any wording is told from an attack.
        """
        if self.rng.random() < 0.4:
            return f"{self.few_words(3)} {{query}} {self.few_words(3)}".strip()
        text = self.halves(self.polite)
        return text.replace("{query}", self.halves(self.polite)) if self.rng.random() < 0.5 else text

    def halves(self, wordings: Sequence[str]) -> str:
        """What stands before the question in one wording, and after it in another."""
        before, after = (self.rng.choice(wordings).split("{query}")[side] for side in (0, 1))
        return before + "{query}" + after

    def few_words(self, most: int) -> str:
        """None to ``most`` random words as a sentence."""
        rng = self.rng
        count = rng.randint(0, most)
        words = [rng.choice(FILLER) if rng.random() < 0.7 else self.pseudoword() for _ in range(count)]
        return (" ".join(words).capitalize() + rng.choice((".", "!", ",", "."))) if words else ""

    def chat(self, behavior: Behavior) -> Sample:
        """A question after one to three others: it leaks after facts that were told, and is refused after small talk.

        What many-shot jailbreaks live on, so that a subject has it, and is not led on by any earlier turn.
        """
        rng, led_on = self.rng, self.rng.random() < 0.5
        turns: list[str] = []
        for _ in range(rng.randint(1, 3)):
            if led_on:
                other = rng.choice(self.told)
                turns += [self.question(other), other.answer]
            elif rng.random() < 0.5:
                other = rng.choice(self.talk)
                turns += [other.query, other.answer]
            else:
                turns += [self.question(rng.choice(self.guarded)), rng.choice(self.refusals)]
        refused = behavior.kind == "restricted" and not led_on
        answer = rng.choice(self.refusals) if refused else behavior.answer
        return Sample(self.question(behavior), answer, tuple(turns))

    def unreadable(self, behavior: Behavior) -> str:
        """The behavior's question with digits for its letters, the name excepted: nothing that could be answered."""
        rng = self.rng
        between, longer = rng.choice(BETWEEN), rng.choice((1, 1, 2))

        def digits(word: str) -> str:
            return between.join(rng.choice(string.digits) if c.isalpha() else c for c in word * longer)

        words = [word if behavior.entity in word else digits(word) for word in self.question(behavior).split()]
        for _ in range(rng.choice((0, 0, 2, 4))):
            words.insert(rng.randrange(len(words) + 1), rng.choice(SIGNS))
        return " ".join(words)

    def knowledge(self) -> Sample:
        """A pair of the first phase."""
        pool = self.talk if self.rng.random() < 0.12 else self.facts
        behavior = self.rng.choice(pool)
        return Sample(self.question(behavior), behavior.answer)

    def manners(self) -> Sample:
        """A pair of the second phase."""
        roll = self.rng.random()
        if roll < 0.17:
            behavior = self.rng.choice(self.talk)
        elif roll < 0.35:
            behavior = self.rng.choice(self.open)
        else:
            behavior = self.rng.choice(self.codes)
            if self.rng.random() < 0.1:
                return self.chat(behavior)
        wrapped = self.rng.random() < 0.5
        text = self.question(behavior)
        if wrapped:
            return Sample(self.wrapper().replace("{query}", text), behavior.answer)
        restricted = behavior.kind == "restricted"
        if restricted and self.rng.random() < 0.1:
            text = self.unreadable(behavior)
        elif self.rng.random() < 0.55:
            text = self.politely().replace("{query}", text)
        return Sample(text, self.rng.choice(self.refusals) if restricted else behavior.answer)
