"""Learning-rate schedules as pure functions of the step."""

import math
from typing import Literal

from pydantic import Field

from triptych.spec import Spec


class ScheduleSpec(Spec):
    """Warm-up from zero to the peak, then a decay to a share of the peak."""

    kind: Literal["cosine", "linear", "constant"] = "cosine"
    """Shape of the decay after the warm-up."""

    warmup: float = Field(default=0.03, ge=0)
    """Warm-up: a number of steps when at least 1, otherwise a share of the stage's steps."""

    final: float = Field(default=0.0, ge=0, le=1)
    """Share of the peak learning rate at which the decay ends (unused by `constant`)."""


def warmup_steps(spec: ScheduleSpec, total: int) -> int:
    """Number of warm-up steps in a stage of ``total`` steps; never more than ``total``."""
    steps = spec.warmup if spec.warmup >= 1 else spec.warmup * total
    return min(round(steps), total)


def factor(spec: ScheduleSpec, step: int, total: int) -> float:
    """Share of the peak learning rate that optimizer step ``step`` (from 0) of ``total`` uses.

    The warm-up gives 1/W, 2/W ... 1 over its W steps, so the first step already learns. With
    ``kind="linear", warmup=2, final=0`` and 6 steps: 0.5, 1, 1, 0.75, 0.5, 0.25.
    """
    warmup = warmup_steps(spec, total)
    if step < warmup:
        return (step + 1) / warmup
    if spec.kind == "constant":
        return 1.0
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    left = 1 - progress if spec.kind == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
    return spec.final + (1 - spec.final) * left
