"""Mining as the stages `mine` and `unlearn` both do it: the same threshold, seeds and budget."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from jpu.judges import Completion, judge_all
from jpu.mining.batch import Batch
from jpu.mining.buffer import Buffer
from jpu.mining.mine import MiningSettings, Seeds, mine
from jpu.mining.refusal import Calibration, calibrate_tau
from jpu.models import Subject, plain_texts
from jpu.spread import Spread
from tasks.layout import Prepared
from tasks.sections import MiningSettings as Section


@dataclass
class Miner:
    """Mines the train split against a subject as it is at each call.

    Attributes:
        subject: M_t.
        data: The train split.
        buffer: The buffer, changed by each call.
        section: Settings of params.yaml.
        longest: Most characters of a prompt.
        calibration: The threshold and what it rests on.
        refused: Ids of the behaviors that M_0 refuses directly.
        pieces: Texts of the vocabulary, for noise.
    """

    subject: Subject
    data: Prepared
    buffer: Buffer
    section: Section
    longest: int
    calibration: Calibration
    refused: list[str]
    pieces: list[str]

    @classmethod
    def open(cls, subject: Subject, data: Prepared, buffer: Path, section: Section, longest: int) -> Miner:
        """Read the buffer and calibrate τ on M_0.

        Args:
            subject: M_t; M_0 is its reference.
            data: The train split.
            buffer: The buffer's file.
            section: Settings.
            longest: Most characters of a prompt.

        Raises:
            SubjectError: M_0 refuses none of the restricted questions.
            DataError: The buffer cannot be read.
        """
        queries = [b.query for b in data.restricted]
        with subject.reference():
            said = subject.generate(queries)
        verdicts = judge_all([Completion(text) for text in said], refusals=data.refusal_texts)
        refused = [v.refused for v in verdicts]
        found = calibrate_tau(
            subject,
            queries,
            data.refusal_texts[: section.references],
            refused=refused,
            quantile=section.tau_quantile,
            floor=section.tau_floor,
        )
        if section.tau != "auto":
            found = Calibration(section.tau, found.queries, found.refused, found.quantile_loss)
        return cls(
            subject,
            data,
            Buffer.read(
                buffer,
                capacity=section.capacity,
                quota_per_template=section.quota_per_template,
                low_visits=section.low_visits,
            ),
            section,
            longest,
            found,
            [b.id for b, no in zip(data.restricted, refused, strict=True) if no],
            list(plain_texts(subject).values()),
        )

    def mine(
        self, round: int, rng: random.Random, number: int | None = None, over: Spread[Subject] | None = None
    ) -> Batch:
        """One mining of a round.

        Args:
            round: The round.
            rng: The only source of chance.
            number: Counts the minings within the round, and decides whether the whole buffer is due.
            over: Copies of the subject as it is now, which share the scoring.
        """
        section = self.section
        return mine(
            self.subject,
            Seeds(self.data.restricted, self.data.templates, self.data.refusals[: section.references], self.pieces),
            self.buffer,
            MiningSettings(
                tau=self.calibration.tau,
                round=round,
                number=number,
                fresh=section.fresh,
                fresh_mutations=section.fresh_mutations,
                revisit=section.revisit,
                rescore_every=section.rescore_every,
                iterations=section.iterations,
                offspring=section.offspring,
                children=section.children,
                template_mutation=section.template_mutation,
                query_mutation=section.query_mutation,
                longest=self.longest,
            ),
            rng,
            over,
        )
