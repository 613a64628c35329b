"""A whole run: model, data, stages, and the run folder that holds everything."""

import json
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers

import triptych
from triptych.data.corpus import open_sources
from triptych.data.spec import DataSpec
from triptych.errors import CheckpointError
from triptych.language.quantize import check_quantize
from triptych.language.write import write_model
from triptych.model.build import initialise, load_pretrained
from triptych.model.modeling import TriptychForConditionalGeneration
from triptych.model.processing import TriptychProcessor
from triptych.model.spec import ModelSpec
from triptych.model.tilings import learn_tilings, use_tiling
from triptych.training.checkpoint import Checkpoint, latest_checkpoint
from triptych.training.checks import check_cache, check_parallel
from triptych.training.display import Display
from triptych.training.engines import Engine, make_engine
from triptych.training.files import keep_steps, remove_temporary, whole_folder, write_text
from triptych.training.loop import Trainer
from triptych.training.metrics import MetricsLog
from triptych.training.objectives.table import check_objective
from triptych.training.parts import ready_for_run
from triptych.training.quantized import check_quantized, quantize_language
from triptych.training.reporter import Reporter
from triptych.training.stage_data import StageData
from triptych.training.stages import ParallelSpec, RunSpec, StageSpec, tilings_of
from triptych.training.start import take_over

BEFORE_TRAINING = {
    "recipe.yaml", "environment.json", "start", "features", "reference", "quarantine.jsonl",
}  # fmt: skip


def train(
    model_spec: ModelSpec,
    data_spec: DataSpec,
    stages: Sequence[StageSpec],
    parallel: ParallelSpec,
    run: RunSpec,
    *,
    resume: Path | None = None,
) -> Path:
    """Train a model through its stages.

    Args:
        model_spec: the model.
        data_spec: its data.
        stages: what trains, in order.
        parallel: over how many processes.
        run: the run folder, logging and precision.
        resume: the folder of a run to go on with, instead of ``run.folder``.

    Returns:
        The folder of the trained model.

    Raises:
        CheckpointError: the run folder is taken, or a run to resume is not there.
        RecipeError: stages, data and engine do not fit together.
        TriptychError: the loss is not finite.
    """
    if resume is not None and not resume.is_dir():
        raise CheckpointError(f"{resume}: no such run folder to resume")
    check_cache(data_spec, stages)
    check_parallel(parallel, run)
    check_quantized(model_spec, stages, parallel, run)
    engine = make_engine(parallel, run.precision)
    if model_spec.language.quantize is not None:
        check_quantize(model_spec.language.quantize, engine.device)
    if engine.is_main and resume is None:
        check_new(run.folder)
    folder = resume or run.folder
    model = _Run(folder, model_spec, data_spec, tuple(stages), run, engine).train()
    # Only now: where this rank failed, the others must not fail of its silence before it has ended.
    engine.close()
    return model


def check_new(folder: Path) -> None:
    """Check that a new run may write into ``folder``.

    What a run leaves that ended before its first step does not count.

    Raises:
        CheckpointError: there are other files in it.
    """
    found = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    passing = (".", "features-")
    taken = [name for name in found if name not in BEFORE_TRAINING and not name.startswith(passing)]
    if taken:
        names = ", ".join(taken[:5])
        raise CheckpointError(
            f"{folder}: the run folder is not empty (it holds {names}); go on with that run by "
            f"`triptych train --resume {folder}`, choose another folder by run.folder=..., or "
            "delete it"
        )


@dataclass
class _Run:
    """One run on one rank."""

    folder: Path
    model_spec: ModelSpec
    data_spec: DataSpec
    stages: tuple[StageSpec, ...]
    run: RunSpec
    engine: Engine

    def train(self) -> Path:
        """Prepare everything, train, save the model."""
        display = Display(self.engine.is_main)
        model, processor = self._start()
        for stage in self.stages:
            packed = (stage.batch or self.data_spec.batch).packed
            check_objective(model, stage, packed=packed)
        checkpoint = self._find_checkpoint()
        data = StageData(
            model, processor, self.data_spec, self.run, self.folder, self.engine, display
        )
        plans = data.open(self.stages)
        total = sum(plan.steps for plan in plans)
        step = 0 if checkpoint is None else checkpoint.progress.step
        if checkpoint is not None:
            display.say(f"resuming {self.folder} after step {step} of {total}")
        log = MetricsLog(self.folder, self.run, step) if self.engine.is_main else None
        reporter = Reporter(
            model=model,
            processor=processor,
            engine=self.engine,
            run=self.run,
            folder=self.folder,
            total=total,
            held_out={},
            questions=data.questions(plans[0]),
            display=display,
            log=log,
        )
        trainer = Trainer(
            model,
            self.engine,
            self.run,
            plans,
            reporter,
            self._checkpoints,
            reload=lambda: self._load()[0],
        )
        try:
            with display.training(total, step):
                trainer.train(checkpoint)
        finally:
            if log is not None:
                log.close()
        target = self.folder / "model"
        if self.engine.is_main:
            view = plans[-1].view
            last = processor if view is None else view.processor
            self._save(trainer.model, last, trainer.progress.trained, target)
        self.engine.barrier()
        display.say(f"model: {target}   picture of the loss: {self.folder / 'loss.png'}")
        return target

    @property
    def _checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def _start(self) -> tuple[TriptychForConditionalGeneration, TriptychProcessor]:
        """The model before training, from ``start/``, which is written first in a new run.

        A new run loads it too: what a resumed run begins with is then the same to the bit.
        """
        start = self.folder / "start"
        if self.engine.is_main and not (self._checkpoints.exists() and start.exists()):
            self.folder.mkdir(parents=True, exist_ok=True)
            texts = training_texts(self.data_spec)
            if self.run.start is None:
                model, processor = initialise(self.model_spec, seed=self.run.seed, texts=texts)
            else:
                model, processor = take_over(self.run.start, self.model_spec, seed=self.run.seed)
            learn_tilings(model, tilings_of(self.stages), seed=self.run.seed)
            with whole_folder(start) as temporary:
                write_model(model, temporary)
                processor.save_pretrained(temporary)
            write_text(self.folder / "environment.json", json.dumps(environment(), indent=1) + "\n")
        self.engine.barrier()
        return self._load()

    def _load(self) -> tuple[TriptychForConditionalGeneration, TriptychProcessor]:
        """What ``start/`` holds, made ready for this run."""
        model, processor = load_pretrained(self.folder / "start")
        ready_for_run(model, self.run, self.stages)
        if self.engine.gathers_on_use:
            model.run_every_part("features" if self.data_spec.cache_features else "tiles")
        packed = any((stage.batch or self.data_spec.batch).packed for stage in self.stages)
        if packed and self.engine.device.type == "cpu":
            model.attend_by_document()
        quantize_language(model, self.model_spec, self.engine.device)
        model.to(self.engine.home)
        return model, processor

    def _find_checkpoint(self) -> Checkpoint | None:
        """The newest checkpoint; the main rank tidies the folder before the others look."""
        checkpoint = None
        if self.engine.is_main:
            remove_temporary(self.folder)
            checkpoint = latest_checkpoint(self._checkpoints)
            step = 0 if checkpoint is None else checkpoint.progress.step
            keep_steps(self.folder / "samples.jsonl", step)
        self.engine.barrier()
        return checkpoint if self.engine.is_main else latest_checkpoint(self._checkpoints)

    def _save(
        self,
        model: TriptychForConditionalGeneration,
        processor: TriptychProcessor,
        trained: Sequence[str],
        target: Path,
    ) -> None:
        """Write the final model; frozen weights are those of ``start/``, bit for bit."""
        if self.run.precision == "bf16":
            values = dict(model.state_dict())
            model, _ = load_pretrained(self.folder / "start")
            model.float()
            own = model.state_dict()
            for name in trained:
                own[name].copy_(values[name])
        use_tiling(model, processor.settings.tiling)
        if self.run.save_precision == "bf16":
            model.to(torch.bfloat16)
        with whole_folder(target) as temporary:
            write_model(model, temporary)
            processor.save_pretrained(temporary)


def training_texts(data: DataSpec) -> Iterator[str]:
    """Texts of all training sources, for a tokenizer that is trained on them."""
    readers = open_sources(data.sources)
    for name, source in data.sources.items():
        reader = readers[name]
        for index in range(min(len(reader), source.limit or len(reader))):
            for message in reader[index].messages:
                yield message.text


def environment() -> dict[str, str]:
    """Versions that a run was made with."""
    return {
        "triptych": triptych.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "machine": platform.platform(),
    }
