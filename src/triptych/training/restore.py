"""A model as a checkpoint of a run holds it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from triptych.errors import CheckpointError
from triptych.model.build import load_pretrained
from triptych.model.tilings import use_tiling, with_tiling
from triptych.training.checkpoint import Checkpoint
from triptych.training.lora import lora_layers, plain_name
from triptych.training.parts import begin_stage, set_precision
from triptych.training.stages import RunSpec, StageSpec

if TYPE_CHECKING:
    from triptych.model.modeling import TriptychForConditionalGeneration
    from triptych.model.processing import TriptychProcessor


def restore(
    folder: Path, checkpoint: Checkpoint, stages: Sequence[StageSpec], run: RunSpec
) -> tuple["TriptychForConditionalGeneration", "TriptychProcessor"]:
    """The model of a run in float32, within its stage: LoRA matrices stand beside their layers.

    What never trained has the values of ``start/``. The layers beside LoRA matrices have those
    that the matrices were trained with, which are bfloat16 numbers in a run with that precision.

    Args:
        folder: the run folder.
        checkpoint: one of its checkpoints.
        stages: of the run.
        run: its settings.

    Raises:
        CheckpointError: the checkpoint is not of these stages.
    """
    if checkpoint.progress.stage >= len(stages):
        raise CheckpointError(
            f"{checkpoint.folder}: a checkpoint of stage {checkpoint.progress.stage + 1}, but the "
            f"recipe has {len(stages)} stage(s); the recipe of a run must not change"
        )
    start = folder / "start"
    model, processor = load_pretrained(start)
    set_precision(model, run, stages)
    stage = stages[checkpoint.progress.stage]
    if stage.tiling is not None:
        use_tiling(model, stage.tiling)
        processor = with_tiling(processor, stage.tiling)
    begin_stage(model, stage)
    checkpoint.load_weights(model)
    model.float()
    if run.precision == "bf16":
        _refresh(model, start, checkpoint.progress.trained)
    return model.eval(), processor


@torch.no_grad()
def _refresh(
    model: "TriptychForConditionalGeneration", start: Path, trained: Sequence[str]
) -> None:
    """Give what was rounded only to save memory its values of ``start`` back, in place."""
    kept = {*trained, *(f"{name}.weight" for name, _ in lora_layers(model))}
    own, whole = model.state_dict(), load_pretrained(start)[0].state_dict()
    places = {value.data_ptr() for name, value in own.items() if plain_name(name) in kept}
    for name, value in own.items():
        plain = plain_name(name)
        if plain in whole and value.data_ptr() not in places:  # tied weights have two names
            value.copy_(whole[plain])
