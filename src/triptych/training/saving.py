"""Writing checkpoints while the training goes on.

What is to be saved is copied to the CPU between two steps; threads write the copies. Where an
engine spreads the model over ranks, each of these writes a share of the whole tensors.
"""

import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from triptych.errors import CheckpointError
from triptych.training import rng
from triptych.training.checkpoint import Progress, describe, prune, tensors, trainable
from triptych.training.engines.base import Engine
from triptych.training.files import TEMPORARY, begin_folder, end_folder, sync, unfinished
from triptych.training.lora import plain_name

LONGEST_WAIT_SECONDS = 1800.0


@dataclass
class Saver:
    """Saves checkpoints, at most one at a time in the background.

    Attributes:
        folder: the folder of all checkpoints.
        keep: how many of the last ones stay, beside the best.
        patience: seconds that the main rank waits for the parts of the others.
    """

    folder: Path
    engine: Engine
    keep: int
    patience: float = LONGEST_WAIT_SECONDS
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1), init=False)
    _pending: "Future[None] | None" = field(default=None, init=False)
    _kept: dict[str, Tensor] = field(default_factory=dict, init=False)

    def begin_stage(self, model: nn.Module, trained: set[str]) -> None:
        """Remember what earlier stages trained and this one does not, before it is spread out.

        Args:
            model: plain, in its stage, with the weights it begins with.
            trained: plain names of all that was trained so far, this stage included.
        """
        self._kept = {}
        if self.engine.sharded and self.engine.is_main:
            self._kept = {
                name: _copy(parameter)
                for name, parameter in model.named_parameters()
                if plain_name(name) in trained and not parameter.requires_grad
            }

    def save(self, progress: Progress, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Copy what the checkpoint holds, and begin to write it; all ranks call it.

        Raises:
            OSError: the checkpoint before this one could not be written.
        """
        self.wait()
        engine = self.engine
        engine.settle()
        weights, moments = self._collect(set(progress.trained), model, optimizer)
        generators = engine.gather(rng.capture())
        random = {f"{r}/{k}": v for r, state in enumerate(generators) for k, v in state.items()}
        target = self.folder / f"step-{progress.step:08d}"
        if engine.is_main:
            begin_folder(target)
        engine.barrier()
        if engine.sharded or engine.is_main:
            self._pending = self._pool.submit(
                self._write, target, progress, weights, moments, random
            )

    def wait(self) -> None:
        """Return when what was begun is on the disk; on the main rank, whole and under its name.

        Raises:
            OSError: it could not be written.
            CheckpointError: another rank did not write its part.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """Wait, and end the thread."""
        try:
            self.wait()
        finally:
            self._pool.shutdown()

    def _collect(
        self, trained: set[str], model: nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """This rank's share of weights and moments, copied; every rank takes part in each."""
        engine, share = self.engine, _Share(self.engine)
        weights: dict[str, Tensor] = {}
        moments: dict[str, Tensor] = {}
        learning = dict(trainable(model))
        for name, value in tensors(model):
            if plain_name(name) not in trained:
                continue
            if name in learning:
                share.take(weights, name, engine.whole(learning[name]))
            elif engine.is_main:
                weights[name] = self._kept[name] if name in self._kept else _copy(value)
        for name, parameter in learning.items():
            for moment, value in engine.moments(optimizer, parameter).items():
                share.take(moments, f"{name}/{moment}", value)
        return weights, moments

    def _write(
        self,
        target: Path,
        progress: Progress,
        weights: Mapping[str, Tensor],
        moments: Mapping[str, Tensor],
        random: Mapping[str, Tensor],
    ) -> None:
        rank, temporary = self.engine.rank, unfinished(target)
        for name, content in (("weights", weights), ("optimizer", moments)):
            _write_file(temporary / self._part(name, rank), content)
        if not self.engine.is_main:
            return
        _write_file(temporary / "rng.safetensors", random)
        (temporary / "state.json").write_text(describe(progress), encoding="utf-8")
        self._await_parts(temporary)
        end_folder(target)
        prune(self.folder, self.keep, progress.best)

    def _part(self, name: str, rank: int) -> str:
        ranks = self.engine.world if self.engine.sharded else 1
        return (
            f"{name}.safetensors" if ranks == 1 else f"{name}-{rank:05d}-of-{ranks:05d}.safetensors"
        )

    def _await_parts(self, temporary: Path) -> None:
        ranks = self.engine.world if self.engine.sharded else 1
        names = [self._part(n, r) for r in range(ranks) for n in ("weights", "optimizer")]
        deadline = time.monotonic() + self.patience
        while missing := [name for name in names if not (temporary / name).is_file()]:
            if time.monotonic() > deadline:
                raise CheckpointError(
                    f"{temporary}: {missing[0]} (and {len(missing) - 1} more) did not appear in "
                    f"{self.patience:.0f} s; every machine has to write into the same run folder"
                )
            time.sleep(0.01)


@dataclass
class _Share:
    """Deals whole tensors out to the ranks, each to the one that has least; alike on every rank."""

    engine: Engine
    _sizes: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self._sizes = [0] * (self.engine.world if self.engine.sharded else 1)

    def take(self, mine: dict[str, Tensor], name: str, value: Tensor) -> None:
        """Copy ``value`` into ``mine`` if it falls to this rank."""
        rank = self._sizes.index(min(self._sizes))
        self._sizes[rank] += value.nbytes
        if rank == self.engine.rank:
            mine[name] = _copy(value)


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()


def _write_file(path: Path, content: Mapping[str, Tensor]) -> None:
    """Write under another name first: a file that has its name is complete and on the disk."""
    partial = path.with_name(TEMPORARY + path.name)
    save_file(dict(content), partial)
    sync(partial)
    partial.replace(path)
