"""Everything a run tells: its log, held-out measurements, sample predictions, the loss picture."""

import json
import resource
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from triptych.inference.engine import Engine as InferenceEngine
from triptych.training.checkpoint import Best, Progress
from triptych.training.display import Display
from triptych.training.engines import Engine
from triptych.training.held_out import measure
from triptych.training.metrics import MetricsLog
from triptych.training.moving import autocast
from triptych.training.parts import Part, parameter_table
from triptych.training.picture import draw_loss
from triptych.training.samples import Question, predict
from triptych.training.stages import RunSpec, StageSpec

if TYPE_CHECKING:
    from triptych.model.modeling import TriptychForConditionalGeneration
    from triptych.model.processing import TriptychProcessor

SECONDS_BETWEEN_PICTURES = 20.0

HeldOut: TypeAlias = Callable[[], Iterable[Mapping[str, Tensor]]]


@dataclass(frozen=True)
class View:
    """How images are cut and held-out data seen in a stage.

    Attributes:
        held_out: name -> this rank's batches, anew at each call.
    """

    processor: "TriptychProcessor"
    held_out: Mapping[str, HeldOut]


@dataclass
class Reporter:
    """Measures and tells; on other ranks than the main one it only takes part in measuring.

    Attributes:
        folder: the run folder.
        total: optimizer steps of the run.
        held_out: as in ``View``.
        questions: held-out conversations for sample predictions.
        log: None on other ranks than the main one.
        drawn: when the picture was drawn last, or the run began.
    """

    model: "TriptychForConditionalGeneration"
    processor: "TriptychProcessor"
    engine: Engine
    run: RunSpec
    folder: Path
    total: int
    held_out: Mapping[str, HeldOut]
    questions: Sequence[Question]
    display: Display
    log: MetricsLog | None
    drawn: float = field(default_factory=time.monotonic)

    def look(self, view: View) -> None:
        """Measure and sample as in ``view`` from now on."""
        self.processor, self.held_out = view.processor, view.held_out

    def show_stage(self, stage: StageSpec, parts: Sequence[Part], steps: int) -> None:
        """Print the table of parts at the beginning of a stage."""
        self.display.say(parameter_table(stage, parts, steps))

    def show_step(self, step: int, stage: str) -> None:
        """Move the progress bar."""
        self.display.advance(step, stage)

    def log_window(
        self,
        progress: Progress,
        stage: str,
        optimizer: torch.optim.Optimizer,
        grad_norm: float,
        measured: Mapping[str, object],
    ) -> None:
        """Write one training entry over the steps since the last one, with what was measured."""
        window = progress.window
        per_second = 1 / max(window.seconds, 1e-9)
        entry = {
            "kind": "train",
            "step": progress.step,
            "stage": stage,
            "loss": window.loss / max(window.items, 1),
            **measured,
            "learning_rate": {str(g["part"]): float(g["lr"]) for g in optimizer.param_groups},
            "grad_norm": grad_norm,
            "tokens_per_second": window.tokens * per_second,
            "supervised_per_second": window.supervised * per_second,
            "images_per_second": window.images * per_second,
            "seconds": progress.seconds,
            "eta_seconds": (self.total - progress.step) * window.seconds / window.steps,
            "memory_gib": peak_memory(self.engine.device),
        }
        if self.log is not None:
            self.log.write(entry)
        self.display.log(entry)

    def measure_held_out(self, progress: Progress, stage: str) -> Best | None:
        """Measure every held-out set; returns the best loss so far of the set that decides."""
        self.model.eval()
        best, entries = progress.best, []
        for name, batches in self.held_out.items():
            score = measure(self.model, batches(), self.engine, self.run.precision)
            head = {"kind": "held_out", "step": progress.step, "stage": stage, "set": name}
            entries.append({**head, **asdict(score)})
            decides = name == (self.run.best or next(iter(self.held_out)))
            if decides and (best is None or score.loss < best.loss):
                best = Best(name, score.loss, progress.step)
            if self.log is not None:
                self.log.write(entries[-1])
        self.display.log_held_out(entries)
        return best

    def show_samples(self, step: int, stage: str) -> None:
        """Let the model answer held-out questions; append to samples.jsonl and print.

        Where it is spread over the ranks, all of them ask it the same.
        """
        entries: list[dict[str, object]] = []
        if self.questions and (self.engine.is_main or self.engine.sharded):
            self.model.eval()
            with autocast(self.engine.device, self.run.precision):
                cached = not self.engine.sharded  # it calls parts of the model by themselves
                inference = InferenceEngine(self.model, self.processor, image_cache=cached)
                entries = predict(inference, self.questions, step, stage)
        if entries and self.engine.is_main:
            with (self.folder / "samples.jsonl").open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
            for entry in entries:
                self.display.say_sample(entry)
        self.engine.barrier()

    def draw(self, *, last: bool) -> None:
        """Draw loss.png from what has been logged; not more often than it is looked at."""
        now = time.monotonic()
        if self.log is not None and (last or now - self.drawn > SECONDS_BETWEEN_PICTURES):
            self.drawn = now
            draw_loss(self.folder)


def peak_memory(device: torch.device) -> float:
    """Peak memory in GiB: of the GPU where there is one, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
