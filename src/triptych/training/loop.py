"""The training loop.

For every stage, for every optimizer step: fetch micro-batches, count the supervised tokens of the
global batch, forward and backward each micro-batch, clip once, step. What happens between steps
(log, held-out loss, samples, checkpoints) leaves no trace in the training state.

Shape suffixes: B batch, S sequence.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Protocol

import torch
from torch import Tensor, nn

from triptych.errors import TriptychError
from triptych.language.head import IGNORE
from triptych.model.fingerprint import fingerprint
from triptych.model.tilings import use_tiling
from triptych.training import rng
from triptych.training.checkpoint import Checkpoint, Progress, Window, read_checkpoint
from triptych.training.engines import Engine
from triptych.training.lora import MATRIX
from triptych.training.moving import autocast, to_device
from triptych.training.objectives.base import Objective, Totals
from triptych.training.objectives.table import make_objective, needs_fingerprint
from triptych.training.parts import (
    begin_stage,
    end_stage,
    make_optimizer,
    set_modes,
    trained_names,
)
from triptych.training.reporter import Reporter, View
from triptych.training.saving import Saver
from triptych.training.schedule import factor
from triptych.training.stages import RunSpec, StageSpec

if TYPE_CHECKING:
    from triptych.model.modeling import TriptychForConditionalGeneration

Batch = Mapping[str, Tensor]


class StepLoader(Protocol):
    """This rank's micro-batches, an optimizer step at a time, without end."""

    def steps(self) -> Iterator[Sequence[Batch]]:
        """Micro-batches of each step, from the loader's state on."""
        ...

    def once(self) -> Iterator[Batch]:
        """This rank's micro-batches over all samples, each once; as many on every rank."""
        ...

    def names(self) -> list[str]:
        """Records of the step given last, for messages."""
        ...

    def state_dict(self) -> dict[str, int]:
        """State after the step given last."""
        ...

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on after the step at which ``state`` was taken."""
        ...


@dataclass(frozen=True)
class StagePlan:
    """A stage, its loader, its length in optimizer steps, and how held-out data are seen in it."""

    spec: StageSpec
    loader: StepLoader
    steps: int
    view: View | None = None


@dataclass
class Trainer:
    """Trains a model through its stages; ``run.train`` puts one together.

    Attributes:
        folder: where checkpoints go.
        progress: how far the run has come; replaced after every step.
        reload: the plain model as the run began with it; for engines that shard.
    """

    model: "TriptychForConditionalGeneration"
    engine: Engine
    run: RunSpec
    stages: Sequence[StagePlan]
    reporter: Reporter
    folder: Path
    progress: Progress = field(default_factory=Progress)
    reload: "Callable[[], TriptychForConditionalGeneration] | None" = None
    saver: Saver = field(init=False)

    def __post_init__(self) -> None:
        self.saver = Saver(self.folder, self.engine, self.run.keep)

    def train(self, checkpoint: Checkpoint | None = None) -> None:
        """Run all stages, from ``checkpoint`` on if there is one.

        Raises:
            TriptychError: the loss is not finite.
        """
        if checkpoint is not None:
            self.progress = checkpoint.progress
        try:
            for index in range(self.progress.stage, len(self.stages)):
                self._run_stage(index, checkpoint)
                checkpoint = None
        finally:
            self.saver.close()

    def _run_stage(self, index: int, checkpoint: Checkpoint | None) -> None:
        plan = self.stages[index]
        if plan.view is not None:
            self.reporter.look(plan.view)
            use_tiling(self.model, plan.view.processor.settings.tiling)
        rng.seed_all(self.run.seed, index, self.engine.rank)
        named = checkpoint is None and needs_fingerprint(plan.spec)
        before = fingerprint(self.model) if named else None
        parts = begin_stage(self.model, plan.spec)
        self.reporter.show_stage(plan.spec, parts, plan.steps)
        trained = trained_names(parts, self.model) | set(self.progress.trained)
        self.progress = replace(self.progress, stage=index, trained=tuple(sorted(trained)))
        if checkpoint is None:
            self.progress = replace(self.progress, stage_step=0, loader=None)
        else:
            checkpoint.load_weights(self.model)
        self.saver.begin_stage(self.model, trained)
        objective = make_objective(
            self.model,
            plan.spec,
            self.engine,
            precision=self.run.precision,
            path=self.folder.parent / "reference" / f"stage-{index}.safetensors",
            fingerprint=before,
        )
        module, optimizer = self.engine.prepare(
            self.model, lambda _: make_optimizer(parts, plan.spec.optimizer), plan.spec.clip
        )
        objective.begin(module, plan.loader, resumed=checkpoint is not None)
        stage = Active(plan, objective, module, optimizer)
        started = time.perf_counter()
        for batches in self._steps(plan, optimizer, checkpoint):
            sums = self._step(stage, batches)
            self._advance(plan, sums, time.perf_counter() - started)
            self._between_steps(stage, sums.grad_norm)
            started = time.perf_counter()
        self._plain_again(plan)
        merged = set(end_stage(self.model))
        kept = {name for name in trained if MATRIX not in name} | merged
        self.progress = replace(self.progress, trained=tuple(sorted(kept)))

    def _plain_again(self, plan: StagePlan) -> None:
        """After an engine that spreads the model: load it anew, as the stage's end saved it."""
        self.engine.finish()
        if not self.engine.sharded or self.reload is None:
            return
        self.saver.wait()
        self.engine.barrier()
        self.model = self.reporter.model = self.reload()
        if plan.view is not None:
            use_tiling(self.model, plan.view.processor.settings.tiling)
        begin_stage(self.model, plan.spec)
        saved = read_checkpoint(self.folder / f"step-{self.progress.step:08d}")
        saved.load_weights(self.model)

    def _steps(
        self, plan: StagePlan, optimizer: torch.optim.Optimizer, checkpoint: Checkpoint | None
    ) -> Iterator[Sequence[Batch]]:
        """The steps left of a stage, all states restored before the first one is taken."""
        if checkpoint is not None:
            checkpoint.load_optimizer(self.model, optimizer, self.engine)
            plan.loader.load_state_dict(checkpoint.progress.loader or {})
        steps = plan.loader.steps()
        while self.progress.stage_step < plan.steps:
            batches = next(steps)
            if checkpoint is not None:
                # After the loader has started, which may draw from the generators.
                checkpoint.restore_rng(self.engine.rank)
                checkpoint = None
            yield batches

    def _step(self, stage: "Active", batches: Sequence[Batch]) -> "StepSums":
        engine, plan, objective, optimizer = (
            self.engine,
            stage.plan,
            stage.objective,
            stage.optimizer,
        )
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * factor(
                plan.spec.schedule, self.progress.stage_step, plan.steps
            )
        own_items = torch.tensor([sum(objective.items(batch) for batch in batches)])
        counts = torch.cat([own_items, torch.stack([count(batch) for batch in batches]).sum(0)])
        reduced = engine.all_reduce_sum(counts.to(engine.device)).tolist()
        items, supervised, tokens, images = reduced
        totals = Totals(max(items, 1), max(tokens, 1))
        total = torch.zeros((), dtype=torch.float64, device=engine.device)
        measured: list[Tensor] = []
        for number, batch in enumerate(batches, start=1):
            moved = to_device(batch, engine.device)
            with engine.accumulating(last=number == len(batches)):
                with autocast(engine.device, self.run.precision):
                    found = objective.loss(stage.module, moved, totals)
                engine.backward(found.value)
            total += found.value.detach()
            measured.append(found.sums)
        own = total.clone()
        sums = torch.cat([total[None], torch.stack(measured).sum(0)])
        loss, *means = engine.all_reduce_sum(sums).tolist()
        norm = engine.update(optimizer) if math.isfinite(loss) else math.nan
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self._refuse(plan, own.item(), loss, norm)
        return StepSums(tuple(means), items, supervised, tokens, images, norm)

    def _refuse(self, plan: StagePlan, own: float, loss: float, norm: float) -> NoReturn:
        """Stop because of a loss that is not finite, naming the samples that may have caused it."""
        innocent = math.isfinite(own) and not math.isfinite(loss)
        gathered = self.engine.gather([] if innocent else plan.loader.names())
        names = ", ".join(name for names in gathered for name in names)
        what = f"gradient norm is {norm}" if math.isfinite(loss) else f"loss is {loss}"
        raise TriptychError(
            f"step {self.progress.step + 1} (stage '{plan.spec.name}'): the {what}; the samples of "
            f"this step: {names}. Look at them with `triptych data preview`, lower the learning "
            "rate or train with run.precision=fp32; the weights were not updated and the last "
            "checkpoint is intact"
        )

    def _advance(self, plan: StagePlan, sums: "StepSums", seconds: float) -> None:
        old, window = self.progress, self.progress.window
        self.progress = replace(
            old,
            step=old.step + 1,
            stage_step=old.stage_step + 1,
            loader=dict(plan.loader.state_dict()),
            seconds=old.seconds + seconds,
            window=Window(
                steps=window.steps + 1,
                loss=window.loss + sums.sums[0],
                items=window.items + sums.items,
                sums=add(window.sums, sums.sums),
                supervised=window.supervised + sums.supervised,
                tokens=window.tokens + sums.tokens,
                images=window.images + sums.images,
                seconds=window.seconds + seconds,
            ),
        )

    def _between_steps(self, active: "Active", grad_norm: float) -> None:
        """Log, measure, sample and save where these are due; all of them at the very end."""
        plan, optimizer = active.plan, active.optimizer
        step, stage = self.progress.step, plan.spec.name
        ends = self.progress.stage_step == plan.steps
        last = ends and plan is self.stages[-1]

        def due(every: int | None) -> bool:
            return last or (every is not None and step % every == 0)

        self.reporter.show_step(step, stage)
        if ends or due(self.run.log_every):
            window = self.progress.window
            measured = active.objective.report(window.sums, window.items)
            self.reporter.log_window(self.progress, stage, optimizer, grad_norm, measured)
            self.progress = replace(self.progress, window=Window())
        best = self.progress.best
        if due(self.run.evaluate_every):
            best = self.reporter.measure_held_out(self.progress, stage)
            set_modes(self.model, plan.spec)
        if due(self.run.sample_every):
            self.reporter.show_samples(step, stage)
            set_modes(self.model, plan.spec)
        improved = best != self.progress.best
        self.progress = replace(self.progress, best=best)
        if ends or improved or due(self.run.checkpoint_every):
            self._save(optimizer, last)

    def _save(self, optimizer: torch.optim.Optimizer, last: bool) -> None:
        self.saver.save(self.progress, self.model, optimizer)
        self.reporter.draw(last=last)


@dataclass(frozen=True)
class Active:
    """A stage while it runs."""

    plan: StagePlan
    objective: Objective
    module: nn.Module
    optimizer: torch.optim.Optimizer


@dataclass(frozen=True)
class StepSums:
    """Sums over the global batch of one step; ``sums`` as the objective names them."""

    sums: tuple[float, ...]
    items: int
    supervised: int
    tokens: int
    images: int
    grad_norm: float


def add(one: tuple[float, ...], other: tuple[float, ...]) -> tuple[float, ...]:
    """Sum by place; nothing yet counts as zeros."""
    return tuple(a + b for a, b in zip(one, other, strict=True)) if one else other


def count(batch: Batch) -> Tensor:
    """Supervised tokens, tokens without padding, and images of a micro-batch: (3,) int64."""
    supervised = (batch["labels"][:, 1:] != IGNORE).sum()
    images = len(batch["tiles_per_image"]) if "tiles_per_image" in batch else 0
    return torch.stack([supervised, batch["attention_mask"].sum(), torch.tensor(images)])
