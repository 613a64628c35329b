"""The plan of one stage."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from triptych.planning.cost import StepCost, extend
from triptych.planning.states import (
    EngineName,
    Inventory,
    Memory,
    memory,
)
from triptych.planning.workload import Workload
from triptych.training.stages import StageSpec

GB = 10**9
MOST_GPUS = 4096
MOST_ROWS = 2**20


@dataclass(frozen=True)
class Hardware:
    """What a run has.

    Attributes:
        gpus: number of GPUs, with a process each.
        memory: bytes of one.
        flops: operations that one can do in a second.
        utilisation: share of these that a run does for the model (MFU).
        is_gpu: false for processes that compute on a CPU.
    """

    gpus: int
    memory: int
    flops: float = 312e12
    utilisation: float = 0.35
    is_gpu: bool = True


@dataclass(frozen=True)
class StagePlan:
    """What one stage would cost.

    Attributes:
        spec: the stage.
        trains: parameters that train, by part.
        workload: the sample that was planned for.
        rows: samples of a micro-batch.
        per_step: samples of an optimizer step, over all processes.
        steps: optimizer steps, or None where the length of the data is not known.
        stock: what is held throughout.
        costs: of a micro-batch of ``rows`` samples and of twice as many.
        engine: the engine that the recipe runs with.
        engines: those that the model can run with on so many GPUs.
        half, accumulates: see ``memory``.
    """

    spec: StageSpec
    trains: Mapping[str, int]
    workload: Workload
    rows: int
    per_step: int
    steps: int | None
    stock: Inventory
    costs: tuple[StepCost, StepCost]
    engine: EngineName
    engines: tuple[EngineName, ...]
    half: bool
    accumulates: bool

    @property
    def flops_per_sample(self) -> int:
        """Operations of forward and backward pass; a multiplication with its addition is two."""
        return self.costs[0].flops // self.rows

    def memory(self, engine: EngineName, gpus: int, rows: int | None = None) -> Memory:
        """Memory of one process; ``rows`` samples in place of those of the recipe."""
        cost = self.costs[0]
        if rows is not None and rows != self.rows:
            cost = extend(*self.costs, (rows - self.rows) / self.rows)
        return memory(self.stock, cost, engine, gpus, half=self.half, accumulates=self.accumulates)

    def fewest_gpus(self, engine: EngineName, limit: int) -> int | None:
        """GPUs of ``limit`` bytes that are enough; None if no number is."""
        if engine == "single":
            return 1 if self.memory(engine, 1).total <= limit else None
        if self.memory(engine, MOST_GPUS).total > limit:
            return None
        low, high = 0, MOST_GPUS
        while high - low > 1:
            middle = (low + high) // 2
            fits = self.memory(engine, middle).total <= limit
            low, high = (low, middle) if fits else (middle, high)
        return high

    def largest_batch(self, engine: EngineName, gpus: int, limit: int) -> int:
        """Samples of the largest micro-batch that fits into ``limit`` bytes; 0 if none does."""
        low, high = 0, MOST_ROWS
        while high - low > 1:
            middle = (low + high) // 2
            fits = self.memory(engine, gpus, middle).total <= limit
            low, high = (middle, high) if fits else (low, middle)
        return low

    def hours(self, hardware: Hardware) -> float | None:
        """Expected time of the stage."""
        if self.steps is None:
            return None
        work = self.flops_per_sample * self.per_step * self.steps
        return work / (hardware.gpus * hardware.flops * hardware.utilisation) / 3600

    def as_json(self, hardware: Hardware) -> dict[str, Any]:
        """Everything by name; sizes in GB."""
        work = self.workload
        hours = self.hours(hardware)
        return {
            "name": self.spec.name,
            "trainable": sum(self.trains.values()),
            "trains": dict(self.trains),
            "tokens_per_image": list(work.visual),
            "tiles_per_image": [plan.tiles for plan in work.plans],
            "tokens_per_sample": work.tokens,
            "samples_per_batch": self.rows,
            "samples_per_step": self.per_step,
            "flops_per_sample": self.flops_per_sample,
            "steps": self.steps,
            "hours": None if hours is None else round(hours, 3),
            "largest_batch": self.largest_batch(self.engine, hardware.gpus, hardware.memory),
            "engine": self.engine,
            "memory_per_gpu": {name: self._engine_json(name, hardware) for name in self.engines},
        }

    def _engine_json(self, engine: EngineName, hardware: Hardware) -> dict[str, Any]:
        held = self.memory(engine, hardware.gpus)
        sizes = {name: size / GB for name, size in vars(held).items()}
        return sizes | {
            "total": held.total / GB,
            "fits": held.total <= hardware.memory,
            "fewest_gpus": self.fewest_gpus(engine, hardware.memory),
        }
