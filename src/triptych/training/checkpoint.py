"""Checkpoints: everything that a run needs to go on as if it had never stopped.

``checkpoints/step-00000100/`` holds weights.safetensors (all that was trained so far, in any
stage), optimizer.safetensors (AdamW moments), rng.safetensors (generators of every rank) and
state.json. Where an engine spreads the model over ranks, each of them writes a part:
weights-00000-of-00002.safetensors and so on. Tensors are whole and in float32 in either case, so
that any engine goes on from them on any number of ranks. The folder appears under its name only
when it is whole. ``start/`` beside it holds the weights that never trained.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from triptych.errors import CheckpointError
from triptych.training import rng
from triptych.training.engines.base import Engine
from triptych.training.files import remove_folder, remove_temporary, write_text
from triptych.training.lora import plain_name

FILES = ("rng.safetensors", "state.json")
FORMAT = 2


@dataclass(frozen=True)
class Window:
    """Sums over the steps since the last entry in the log.

    ``loss`` is that of all ``items`` together (supervised tokens or pairs); ``sums`` are what the
    objective reports from.
    """

    steps: int = 0
    loss: float = 0.0
    items: int = 0
    sums: tuple[float, ...] = ()
    supervised: int = 0
    tokens: int = 0
    images: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Best:
    """The best held-out loss so far, and the step it was measured at."""

    held_out: str
    loss: float
    step: int


@dataclass(frozen=True)
class Progress:
    """How far a run has come.

    Attributes:
        step: optimizer steps over all stages.
        stage: index of the stage.
        stage_step: optimizer steps of that stage.
        loader: state of the stage's loader.
        trained: plain names of the tensors changed so far.
        seconds: time spent in steps.
        best: best held-out loss so far.
        window: sums not yet logged.
    """

    step: int = 0
    stage: int = 0
    stage_step: int = 0
    loader: dict[str, int] | None = None
    trained: tuple[str, ...] = ()
    seconds: float = 0.0
    best: Best | None = None
    window: Window = field(default_factory=Window)


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on disk."""

    folder: Path
    progress: Progress

    def load_weights(self, model: nn.Module) -> None:
        """Copy the trained tensors into ``model``, whose stage has begun.

        Raises:
            CheckpointError: a tensor of the checkpoint is not in the model, or has another shape,
                or one that trains, or trained in an earlier stage, is not in the checkpoint.
        """
        own, found = dict(tensors(model)), set()
        for name, value in self._stored("weights"):
            found.add(name)
            if name not in own or own[name].shape != value.shape:
                has = tuple(own[name].shape) if name in own else "no such tensor"
                raise CheckpointError(
                    f"{self.folder}: '{name}' is {tuple(value.shape)} in the checkpoint, the model "
                    f"has {has}; model and stages of a run must not change before it is resumed"
                )
            if own[name].dtype == value.dtype:
                own[name].data.copy_(value)
            else:  # merged LoRA layers are float32 also where the rest is frozen in bfloat16
                own[name].data = value.to(own[name].device)
        absent = sorted(name for name, _ in trainable(model) if name not in found)
        if absent:
            raise CheckpointError(
                f"{self.folder}: '{absent[0]}' (and {len(absent) - 1} more) trains in this stage "
                "but is not in the checkpoint; the stages of a run must not change before it is "
                "resumed"
            )
        lost = sorted(set(self.progress.trained) - {plain_name(name) for name in found})
        if lost:  # they would keep their values of start/
            raise CheckpointError(
                f"{self.folder}: '{lost[0]}' (and {len(lost) - 1} more) was trained but is in none "
                "of its files; the checkpoint is incomplete, go on from another one"
            )

    def load_optimizer(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, engine: Engine
    ) -> None:
        """Put AdamW's moments and step counts back.

        Raises:
            CheckpointError: the checkpoint has moments of a parameter that does not train.
        """
        parameters = dict(trainable(model))
        for key, value in self._stored("optimizer"):
            name, _, moment = key.rpartition("/")
            if name not in parameters:
                raise CheckpointError(
                    f"{self.folder}: optimizer.safetensors has moments of '{name}', which does not "
                    "train; the stages of a run must not change before it is resumed"
                )
            engine.set_moments(optimizer, parameters[name], {moment: value})

    def restore_rng(self, rank: int) -> None:
        """Restore the generators of ``rank``; leave them as they are if the run had fewer ranks."""
        prefix = f"{rank}/"
        states = load_file(self.folder / "rng.safetensors")
        own = {k.removeprefix(prefix): v for k, v in states.items() if k.startswith(prefix)}
        if own:
            rng.restore(own)

    def _stored(self, kind: str) -> Iterator[tuple[str, Tensor]]:
        """Every tensor of one kind, one after the other, whoever wrote it."""
        for path in sorted(self.folder.glob(f"{kind}*.safetensors")):
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118  # not a mapping
                    yield name, file.get_tensor(name)


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read the state of the checkpoint in ``folder``.

    Raises:
        CheckpointError: written by another format of this program.
    """
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    found = state.pop("format", None)
    if found != FORMAT:
        raise CheckpointError(
            f"{folder}: checkpoint format {found}, this version of triptych reads {FORMAT}"
        )
    progress = Progress(**state)
    best = None if progress.best is None else Best(**state["best"])
    window = Window(**state["window"] | {"sums": tuple(state["window"]["sums"])})
    trained = tuple(progress.trained)
    return Checkpoint(folder, replace(progress, best=best, window=window, trained=trained))


def latest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest complete checkpoint under ``folder``; deletes half-written ones."""
    remove_temporary(folder)
    for path in sorted(folder.glob("step-*"), reverse=True):
        if all((path / name).is_file() for name in FILES):
            return read_checkpoint(path)
        remove_folder(path)
    return None


def prune(folder: Path, keep: int, best: Best | None) -> None:
    """Delete all checkpoints but the last ``keep`` and the best; record which one is the best."""
    checkpoints = sorted(folder.glob("step-*"))
    kept = {path.name for path in checkpoints[-keep:]}
    if best is not None:
        name = f"step-{best.step:08d}"
        kept.add(name)
        write_text(folder / "best.json", json.dumps({"checkpoint": name, **asdict(best)}) + "\n")
    for path in checkpoints:
        if path.name not in kept:
            remove_folder(path)


def tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers of ``model`` by name."""
    yield from model.named_parameters()
    yield from model.named_buffers()


def trainable(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Parameters that the optimizer of the stage updates, by name."""
    return ((name, one) for name, one in model.named_parameters() if one.requires_grad)


def describe(progress: Progress) -> str:
    """The content of state.json."""
    return json.dumps({"format": FORMAT, **asdict(progress)}, indent=1)
