"""What can be set of each defence, with the values of its paper. Knows no torch: settings are read before it is needed.

A number that a paper gives for a model of 32 layers (a layer, a bound on a norm) is given relative to the model here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Positive = Annotated[float, Field(gt=0.0)]
Weight = Annotated[float, Field(ge=0.0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=1)]
# kl: KL(M_0‖M_θ) on retained answers. nll: their negative log-likelihood. stream: distance of the residual stream.
Retain = Literal["kl", "nll", "stream"]


class DefenceSettings(BaseModel):
    """Base of all.

    Attributes:
        name: The defence.
        retain: Its retain term.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    name: str
    retain: Retain = "kl"


class BaselineSettings(DefenceSettings):
    """Base of those whose losses are all on one batch; the weight of the others is 1, unless a paper has a name for it.

    Attributes:
        retain_weight: Weight of the retain term.
    """

    retain_weight: Weight = 1.0


@dataclass(frozen=True)
class Weights:
    """Weights of JPU's losses; 0 leaves one out, with its forward pass."""

    refusal: float = 1.0
    anchor: float = 1.0
    prefill: float = 1.0
    leak: float = 0.0
    relearned: float = 0.0
    retain: float = 1.0


class JpuSwitches(DefenceSettings):
    """What an ablation of JPU changes (`jpu.py`); its numbers are in `JpuSettings`.

    Attributes:
        anchor: Where the path is pulled to: its `own` anchor for each behavior, the `centroid` of those of the refused,
            a `random` one of the same size, or only along the `direction` of refusal.
        leak_scope: Whether the unlikelihood of the leak moves `all` that is trained, or the units of the `path` alone.
    """

    name: Literal["jpu"] = "jpu"
    anchor: Literal["own", "centroid", "random", "direction"] = "own"
    leak_scope: Literal["all", "path"] = "all"


class JpuSettings(JpuSwitches):
    """All of JPU (`jpu.py`).

    Attributes:
        positions: Positions at which path and anchor are compared.
        prefill_batch: Entries a step with the leak's first words given.
        exposure_batch: Questions a step under an exposure.
        exposures_a_step: Exposures in a step; they take turns.
        weights: Weights of the losses.
        exposures: Name of an exposure → weight of its loss; 0 leaves it out.
    """

    positions: Count = 4
    prefill_batch: Annotated[int, Field(ge=0)] = 16
    exposure_batch: Annotated[int, Field(ge=0)] = 12
    exposures_a_step: Count = 1
    weights: Weights = Weights()
    exposures: Mapping[str, float] = Field(default_factory=dict)


class RefusalSftSettings(BaselineSettings):
    """Refusal fine-tuning (`refusal_sft.py`)."""

    name: Literal["refusal_sft"] = "refusal_sft"


class GradientDifferenceSettings(BaselineSettings):
    """Gradient difference (`gradient_difference.py`)."""

    name: Literal["gradient_difference"] = "gradient_difference"
    retain: Retain = "nll"


class NpoSettings(BaselineSettings):
    """Negative preference optimisation (`npo.py`)."""

    name: Literal["npo"] = "npo"
    beta: Positive = 0.1


class SteeringSettings(BaselineSettings):
    """What RMU and adaptive RMU share; `depth` 7/32 is layer 7 of 32.

    Attributes:
        depth: The layer behind which the stream is steered.
        tokens: Whose: those that say an `answer`, or `all` of prompt and answer.
    """

    depth: Share = 7 / 32
    tokens: Literal["answer", "all"] = "answer"
    retain: Retain = "stream"


class RmuSettings(SteeringSettings):
    """Representation misdirection (`rmu.py`); `coefficient` is c."""

    name: Literal["rmu"] = "rmu"
    coefficient: Positive = 20.0
    retain_weight: Weight = 100.0


class AdaptiveRmuSettings(SteeringSettings):
    """Adaptive RMU (`adaptive_rmu.py`); `scale` is β."""

    name: Literal["adaptive_rmu"] = "adaptive_rmu"
    scale: Positive = 5.0
    retain_weight: Weight = 1200.0


class SafeUnlearningSettings(BaselineSettings):
    """Safe Unlearning (`safe_unlearning.py`)."""

    name: Literal["safe_unlearning"] = "safe_unlearning"
    alpha: Weight = 0.3
    beta: Positive = 1.0
    theta: Weight = 0.5
    retain: Retain = "nll"


class CircuitBreakersSettings(BaselineSettings):
    """Circuit breakers (`circuit_breakers.py`); layers 10 and 20 of 32.

    Attributes:
        alpha: α, of the schedule.
        depths: Layers that are rerouted.
        tokens: As for RMU.
        start: How far streams are from M_0's at the start, in their lengths.
    """

    name: Literal["circuit_breakers"] = "circuit_breakers"
    alpha: Positive = 10.0
    depths: Annotated[tuple[Share, ...], Field(min_length=1, strict=False)] = (10 / 32, 20 / 32)
    tokens: Literal["answer", "all"] = "answer"
    start: Positive = 0.1
    retain: Retain = "stream"


class LatSettings(BaselineSettings):
    """Latent adversarial training (`lat.py`).

    Attributes:
        embedding: Whether the tokens' vectors are perturbed too.
        depths: Layers behind which the stream is.
        radius: Of each token's perturbation, in mean lengths of a layer's stream.
        searched: Steps of the search.
        toward: Weight of the refusal.
        away: Weight of the leak's unlikelihood.
    """

    name: Literal["lat"] = "lat"
    embedding: bool = True
    depths: Annotated[tuple[Share, ...], Field(min_length=1, strict=False)] = (8 / 32, 16 / 32, 24 / 32, 30 / 32)
    radius: Positive = 0.3
    searched: Count = 16
    toward: Weight = 1.0
    away: Weight = 1.0
    retain_weight: Weight = 0.2


class DpoSettings(BaselineSettings):
    """Direct preference optimisation, refusal against leak (`dpo.py`)."""

    name: Literal["dpo"] = "dpo"
    beta: Positive = 0.1


class EraserSettings(BaselineSettings):
    """Eraser (`eraser.py`); `gamma` in nats per token."""

    name: Literal["eraser"] = "eraser"
    gamma: Positive = 1.8


def _short_form(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


# A name alone stands for its settings as they are.
AnyDefence = Annotated[
    JpuSwitches
    | RefusalSftSettings
    | GradientDifferenceSettings
    | NpoSettings
    | RmuSettings
    | AdaptiveRmuSettings
    | SafeUnlearningSettings
    | CircuitBreakersSettings
    | LatSettings
    | DpoSettings
    | EraserSettings,
    Field(discriminator="name"),
    BeforeValidator(_short_form),
]
