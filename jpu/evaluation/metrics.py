"""Rates and means with intervals that respect clusters.

Attempts about one entity (its questions, wordings, templates and operators) succeed or fail together, so entities are
resampled, not attempts: a seeded cluster bootstrap with percentile intervals (Field and Welsh, 2007,
JRSS B 69). The fallbacks where it has no spread are ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

RESAMPLES = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its interval.

    Attributes:
        value: The estimate.
        low: Lower end of the interval.
        high: Upper end.
        n: Observations (attempts, not clusters).
    """

    value: float
    low: float
    high: float
    n: int

    def as_dict(self) -> dict[str, float | int]:
        """As it stands in `metrics.json`."""
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.n}


def rate(
    outcomes: Sequence[bool],
    clusters: Sequence[str],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Estimate:
    """Share of true outcomes, with a cluster-bootstrap interval inside [0, 1].

    Where every cluster has the same rate (all 0, all 1, one cluster only) the bootstrap has no spread and
    would claim certainty; then the interval is Wilson's, with the number of *clusters* as its n. That is
    conservative: it takes attempts on one behavior for copies of each other. For 0 of 32 it is [0, .107].

    Args:
        outcomes: n outcomes.
        clusters: n cluster names, the behavior or entity of each outcome.
        seed: Seed of the resampling.
        resamples: Number of bootstrap samples.
        confidence: Coverage of the interval.

    Raises:
        ValueError: No outcomes, lengths differ, or the options make no sense.
    """
    values = np.asarray([float(outcome) for outcome in outcomes], dtype=np.float64)
    sums, weights = _by_cluster(values, np.ones_like(values), clusters)
    value = float(sums.sum() / weights.sum())
    means = sums / weights
    if np.ptp(means) == 0.0:
        low, high = wilson(value, len(means), confidence=confidence)
    else:
        low, high = _percentiles(_resampled(sums, weights, seed, resamples), confidence)
    return Estimate(value, min(low, value), max(high, value), len(values))


def mean(
    values: Sequence[float],
    clusters: Sequence[str],
    *,
    weights: Sequence[float] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Estimate:
    """Weighted mean with a cluster-bootstrap interval (for KL: mean nats per token, weighted by tokens).

    With one cluster only, the observations are resampled instead, and with one observation the interval is
    the value itself: neither says anything about other behaviors.

    Args:
        values: n finite values.
        clusters: n cluster names.
        weights: n positive weights, such as tokens; equal ones by default.
        seed: Seed of the resampling.
        resamples: Number of bootstrap samples.
        confidence: Coverage of the interval.

    Raises:
        ValueError: No values, lengths differ, a value is not finite, or a weight not positive.
    """
    array = np.asarray(values, dtype=np.float64)
    weight = np.ones_like(array) if weights is None else np.asarray(weights, dtype=np.float64)
    if array.shape != weight.shape:
        raise ValueError(f"{len(array)} values, {len(weight)} weights")
    if not bool(np.isfinite(array).all()) or not bool((np.isfinite(weight) & (weight > 0)).all()):
        raise ValueError("values have to be finite, weights finite and positive")
    sums, totals = _by_cluster(array, weight, clusters)
    if len(sums) == 1:
        sums, totals = array * weight, weight
    value = float(sums.sum() / totals.sum())
    low, high = _percentiles(_resampled(sums, totals, seed, resamples), confidence)
    return Estimate(value, min(low, value), max(high, value), len(array))


def perplexity(
    nll: Sequence[float],
    clusters: Sequence[str],
    *,
    tokens: Sequence[float] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Estimate:
    """Perplexity: exp of the mean NLL per token, interval ends exponentiated likewise.

    Args:
        nll: n mean negative log-likelihoods, nats per token.
        clusters: n cluster names.
        tokens: Tokens of each, as weights; equal ones by default.
        seed: Seed of the resampling.
        resamples: Number of bootstrap samples.
        confidence: Coverage of the interval.

    Raises:
        ValueError: As for `mean`.
    """
    log = mean(nll, clusters, weights=tokens, seed=seed, resamples=resamples, confidence=confidence)
    return Estimate(math.exp(log.value), math.exp(log.low), math.exp(log.high), log.n)


def wilson(share: float, n: int, *, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Wilson's score interval for a share of n trials (Wilson, 1927, JASA 22)."""
    if n < 1 or not 0.0 <= share <= 1.0:
        raise ValueError("a share of at least one trial, inside [0, 1], is needed")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    middle = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def _by_cluster(values: Floats, weights: Floats, clusters: Sequence[str]) -> tuple[Floats, Floats]:
    """Weighted sums and total weights, one a cluster, clusters in order of first appearance."""
    if len(values) == 0:
        raise ValueError("no observations: there is nothing to estimate")
    if len(values) != len(clusters):
        raise ValueError(f"{len(values)} observations, {len(clusters)} clusters")
    index: dict[str, int] = {}
    owner = np.asarray([index.setdefault(name, len(index)) for name in clusters], dtype=np.intp)
    sums = np.bincount(owner, weights=values * weights, minlength=len(index)).astype(np.float64)
    totals = np.bincount(owner, weights=weights, minlength=len(index)).astype(np.float64)
    return sums, totals


def _resampled(sums: Floats, weights: Floats, seed: int, resamples: int) -> Floats:
    """Bootstrap means, (resamples,): each draws as many clusters as there are, with replacement."""
    if resamples < 1:
        raise ValueError("at least one resample is needed")
    count = len(sums)
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1.0 / count), size=resamples)
    means: Floats = (draws @ sums) / (draws @ weights)
    return means


def _percentiles(means: Floats, confidence: float) -> tuple[float, float]:
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence has to be inside (0, 1), not {confidence}")
    tail = (1.0 - confidence) / 2
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return float(low), float(high)
