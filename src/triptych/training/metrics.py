"""Where measurements go: metrics.jsonl always, TensorBoard and Weights & Biases on top."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TextIO, TypeAlias

from torch.utils.tensorboard import SummaryWriter

from triptych.errors import RecipeError
from triptych.training.files import keep_steps
from triptych.training.stages import RunSpec

Entry: TypeAlias = Mapping[str, object]


class MetricsLog:
    """Appends entries; use on the main rank only.

    An entry is one JSON object per line with ``step`` (optimizer steps over all stages), ``kind``
    ("train" or "held_out") and ``stage``. Entries later than ``step`` are cut off on opening, so
    that a resumed run has no step twice.
    """

    def __init__(self, folder: Path, spec: RunSpec, step: int) -> None:
        path = folder / "metrics.jsonl"
        keep_steps(path, step)
        self._file: TextIO = path.open("a", encoding="utf-8")
        self._board = (
            SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)  # type: ignore[no-untyped-call]
            if spec.tensorboard
            else None
        )
        self._wandb = _start_wandb(folder, spec) if spec.wandb else None

    def write(self, entry: Entry) -> None:
        """Append one entry."""
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()
        step, prefix = int(str(entry["step"])), str(entry.get("set", entry["kind"]))
        scalars = {f"{prefix}/{name}": value for name, value in _scalars(entry).items()}
        if self._board is not None:
            for name, value in scalars.items():
                self._board.add_scalar(name, value, step)  # type: ignore[no-untyped-call]
        if self._wandb is not None:
            self._wandb.log(scalars, step=step)

    def close(self) -> None:
        """Flush and close everything."""
        self._file.close()
        if self._board is not None:
            self._board.close()  # type: ignore[no-untyped-call]
        if self._wandb is not None:
            self._wandb.finish()


def _scalars(entry: Entry) -> dict[str, float]:
    """Numbers of an entry; those of a nested mapping get its name in front."""
    scalars: dict[str, float] = {}
    for name, value in entry.items():
        if isinstance(value, Mapping):
            scalars |= {f"{name}/{key}": float(number) for key, number in value.items()}
        elif isinstance(value, (int, float)) and name != "step":
            scalars[name] = float(value)
    return scalars


def _start_wandb(folder: Path, spec: RunSpec) -> ModuleType:
    try:
        import wandb  # optional dependency
    except ImportError:
        raise RecipeError(
            "run.wandb is true but the wandb package is not installed; pip install wandb, or set "
            "run.wandb=false (metrics.jsonl and TensorBoard are written anyway)"
        ) from None
    settings = spec.model_dump(mode="json")
    wandb.init(project="triptych", name=folder.name, dir=str(folder), config=settings)
    module: ModuleType = wandb
    return module
