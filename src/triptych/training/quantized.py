"""Runs whose frozen language model is held in a few bits."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from triptych.errors import RecipeError
from triptych.language.quantize import quantize
from triptych.model.spec import ModelSpec
from triptych.training.stages import ParallelSpec, RunSpec, StageSpec

if TYPE_CHECKING:
    from triptych.model.modeling import TriptychForConditionalGeneration


def check_quantized(
    model: ModelSpec, stages: Sequence[StageSpec], parallel: ParallelSpec, run: RunSpec
) -> None:
    """Refuse what a quantised language model cannot do; nothing is asked of any other.

    Raises:
        RecipeError: a stage that trains the whole language model, LoRA before the last stage,
            another precision than bf16, or an engine that shards.
    """
    spec = model.language.quantize
    if spec is None:
        return
    where = "model.language.quantize"
    for number, stage in enumerate(stages, start=1):
        mode = stage.train.language.mode
        if mode == "full":
            raise RecipeError(
                f"{where}: stage '{stage.name}' trains the whole language model, whose weights "
                "stay fixed when they are quantised; set train.language=lora, or leave quantize out"
            )
        if mode == "lora" and stage.train.language.dora and spec.bits == 8:
            raise RecipeError(
                f"{where}: stage '{stage.name}' has train.language.dora over 8-bit weights, which "
                "cannot be read back exactly for it; set bits: 4, or dora: false"
            )
        if mode == "lora" and number < len(stages):
            raise RecipeError(
                f"{where}: stage '{stage.name}' adapts the language model before the last stage; "
                "merging makes it whole again, so only the last stage can have train.language=lora"
            )
    if run.precision != "bf16":
        raise RecipeError(
            f"{where}: computes in bfloat16, but run.precision is '{run.precision}'; set "
            "run.precision=bf16"
        )
    if parallel.engine not in ("single", "ddp"):
        raise RecipeError(
            f"{where}: the engine '{parallel.engine}' cannot spread quantised weights; take "
            "parallel.engine=single or ddp"
        )


def quantize_language(
    model: "TriptychForConditionalGeneration", spec: ModelSpec, device: torch.device
) -> None:
    """Quantise the language model in place, where the recipe says so."""
    if spec.language.quantize is not None:
        quantize(model.language_model, spec.language.quantize, device)
