"""The model to export: of a model folder, or of a checkpoint of a run."""

import json
from dataclasses import dataclass
from pathlib import Path

from triptych.errors import CheckpointError
from triptych.inference.folder import find_model
from triptych.model.build import load_pretrained
from triptych.model.modeling import TriptychForConditionalGeneration
from triptych.model.processing import TriptychProcessor
from triptych.recipe import Recipe, load_recipe
from triptych.training.checkpoint import Checkpoint, read_checkpoint
from triptych.training.lora import MATRIX
from triptych.training.restore import restore


@dataclass(frozen=True)
class Source:
    """A model to export.

    Attributes:
        model: with LoRA matrices beside its layers where its stage trains some.
        processor: its processor.
        name: where it comes from, for people.
        recipe: of the run, where it comes from a checkpoint.
        trained: names of the weights that the run has trained, but for LoRA matrices that stand
            beside their layers.
    """

    model: TriptychForConditionalGeneration
    processor: TriptychProcessor
    name: str
    recipe: Recipe | None = None
    trained: tuple[str, ...] = ()


def open_source(path: Path, checkpoint: str | None, *, apart: str | None) -> Source:
    """Load what is to be exported.

    Args:
        path: a model folder or a run folder.
        checkpoint: ``last``, ``best`` or a number of steps; None is the trained model of the run,
            or its last checkpoint where it has not ended or matrices are wanted apart.
        apart: the option that wants LoRA matrices by themselves; None where they may be merged.

    Raises:
        CheckpointError: there is no such model or checkpoint, or it is of a quantised run.
    """
    is_run = (path / "checkpoints").is_dir()
    if not is_run and (checkpoint is not None or apart):
        wanted = apart or f"--checkpoint {checkpoint}"
        raise CheckpointError(f"{path}: {wanted} needs a run folder with its checkpoints")
    finished = (path / "model" / "config.json").is_file()
    if not is_run or (finished and checkpoint is None and not apart):
        folder = find_model(path)
        return Source(*load_pretrained(folder), str(folder))
    found = find_checkpoint(path / "checkpoints", checkpoint or "last")
    recipe = load_recipe(path / "recipe.yaml")
    if recipe.model.language.quantize is not None:
        raise CheckpointError(
            f"{found.folder}: its language model was quantised while it trained, and a checkpoint "
            "does not hold those weights; export the trained model of the run, without "
            "--checkpoint and --adapter"
        )
    model, processor = restore(path, found, recipe.stages, recipe.run)
    stage = recipe.stages[found.progress.stage].name
    name = f"{found.folder} (stage '{stage}')"
    trained = tuple(one for one in found.progress.trained if MATRIX not in one)
    return Source(model, processor, name, recipe, trained)


def find_checkpoint(folder: Path, which: str) -> Checkpoint:
    """The checkpoint that ``which`` names: ``last``, ``best``, or a number of steps.

    Raises:
        CheckpointError: there is none.
    """
    there = sorted(path.name for path in folder.glob("step-*"))
    names = {str(int(name.removeprefix("step-"))): name for name in there}
    if which == "best":
        return _read_best(folder)
    if which == "last" and there:
        return read_checkpoint(folder / there[-1])
    if which not in names:
        raise CheckpointError(
            f"{folder}: no checkpoint '{which}'; found the steps {', '.join(names) or '(none)'}; "
            "'last' and 'best' are names too"
        )
    return read_checkpoint(folder / names[which])


def _read_best(folder: Path) -> Checkpoint:
    record = folder / "best.json"
    if not record.is_file():
        raise CheckpointError(
            f"{folder}: no best checkpoint is recorded (the run has no held-out data, or has not "
            "measured any yet); take --checkpoint last"
        )
    name = json.loads(record.read_text(encoding="utf-8"))["checkpoint"]
    return read_checkpoint(folder / name)
