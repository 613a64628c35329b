"""Engines: how one training step runs on one or many processes."""

from triptych.errors import RecipeError
from triptych.language.write import deepspeed_aside
from triptych.training.engines.base import Engine as Engine
from triptych.training.engines.ddp import DdpEngine
from triptych.training.engines.fsdp2 import Fsdp2Engine
from triptych.training.engines.single import SingleEngine
from triptych.training.stages import ParallelSpec


def make_engine(spec: ParallelSpec, precision: str = "fp32") -> Engine:
    """Build the engine that ``spec`` names, joining the process group if it needs one.

    Args:
        spec: which engine.
        precision: that of the run, ``fp32`` or ``bf16``.

    Raises:
        RecipeError: the engine needs torchrun and the process was started without it, or a package
            that is not installed.
    """
    minutes, bf16 = spec.timeout_minutes, precision == "bf16"
    if spec.engine == "ddp":
        return DdpEngine(minutes)
    if spec.engine == "fsdp2":
        return Fsdp2Engine(minutes, bf16=bf16, offload=spec.offload == "cpu")
    if spec.engine == "deepspeed":
        return _make_deepspeed(spec, bf16=bf16)
    return SingleEngine()


def _make_deepspeed(spec: ParallelSpec, *, bf16: bool) -> Engine:
    try:
        with deepspeed_aside():
            from triptych.training.engines.deepspeed import DeepSpeedEngine  # optional dependency
    except ImportError as error:
        raise RecipeError(
            f"parallel.engine is 'deepspeed' but DeepSpeed cannot be imported ({error}); pip "
            "install 'triptych[scale]', or use parallel.engine=fsdp2"
        ) from None
    return DeepSpeedEngine(spec, bf16=bf16)
