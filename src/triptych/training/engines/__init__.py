"""Engines: how one training step runs on one or many processes."""

from triptych.training.engines.base import Engine as Engine
from triptych.training.engines.ddp import DdpEngine
from triptych.training.engines.single import SingleEngine
from triptych.training.stages import ParallelSpec


def make_engine(spec: ParallelSpec) -> Engine:
    """Build the engine that ``spec`` names, joining the process group if it needs one.

    Raises:
        RecipeError: the engine needs torchrun and the process was started without it.
    """
    if spec.engine == "ddp":
        return DdpEngine(spec.timeout_minutes)
    return SingleEngine()
