"""Trains and judges the runs of a study, one after the other, each in a run folder of its own.

What is finished is not done again: a trained run has its ``model/``, a judged one its
``result.json``. A run that was interrupted goes on after its last checkpoint.
"""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from triptych.data.corpus import open_sources
from triptych.data.schema import Record
from triptych.errors import CheckpointError, TriptychError
from triptych.evaluation.report import write_report
from triptych.evaluation.runner import evaluate_records
from triptych.evaluation.spec import EvalSpec
from triptych.evaluation.study.spec import METRICS, Run, StudySpec
from triptych.fusion import find_zoom
from triptych.inference import load_engine
from triptych.inference.engine import Engine
from triptych.model.spec import ModelSpec
from triptych.recipe import load_recipe, recipe_yaml, save_recipe
from triptych.training.checkpoint import latest_checkpoint
from triptych.training.files import write_text
from triptych.training.run import train

RESULT = "result.json"
KEPT = ("questions", *(f"{blind}{metric}" for metric in METRICS for blind in ("", "blind_")))
"""What a result has of each file and category."""

Say = Callable[[str], None]
Result = dict[str, Any]


@dataclass(frozen=True)
class Failure:
    """A run that could not be finished, and why."""

    arm: str
    seed: int
    reason: str


def run_study(
    study: StudySpec, runs: Sequence[Run], say: Say
) -> tuple[list[Result], list[Failure]]:
    """Bring every run to its end; one that fails does not keep the others from theirs.

    Args:
        study: what they are judged on.
        runs: what is to be run, in order.
        say: told what happens.

    Returns:
        The results of the runs that are finished, and the failures of the others.
    """
    judge = _Judge(study)
    results, failures = [], []
    for number, run in enumerate(runs, start=1):
        say(f"[{number}/{len(runs)}] {run.name}: {run.folder}")
        try:
            train_run(run, study, say)
            results.append(judge.judge(run, say))
        except (TriptychError, RuntimeError, OSError) as error:
            reason = str(error).strip() or type(error).__name__
            failures.append(Failure(run.arm, run.seed, reason))
            say(f"{run.name} FAILED: {reason}")
    return results, failures


def read_results(study: StudySpec, runs: Sequence[Run]) -> list[Result]:
    """The results there are, without training or judging anything."""
    judge = _Judge(study)
    found = (judge.find(run) for run in runs)
    return [one for one in found if one is not None]


def train_run(run: Run, study: StudySpec, say: Say) -> None:
    """Train a run, go on with it, or leave it as it is.

    Raises:
        CheckpointError: the folder has a run with another recipe.
        TriptychError: training failed.
    """
    saved = run.folder / "recipe.yaml"
    known = saved.is_file()
    if known and saved.read_text(encoding="utf-8") != recipe_yaml(run.recipe):
        raise CheckpointError(
            f"{run.folder}: was trained with another recipe than the study has now; delete the "
            "folder, or give the study another one (folder=...)"
        )
    if (run.folder / "model").is_dir():
        say("  trained already")
        return
    if not known:
        save_recipe(run.recipe, saved)
        _share_features(run, study.folder)
    recipe = run.recipe
    resume = run.folder if known else None
    train(recipe.model, recipe.data, recipe.stages, recipe.parallel, recipe.run, resume=resume)


def _share_features(run: Run, folder: Path) -> None:
    """Begin with the cached tower features of a run that looks at images in the same way.

    The files are linked, not copied; they are never written again, only replaced.
    """
    if not run.recipe.data.cache_features:
        return
    for index in sorted(folder.glob("*/*/features/index.json")):
        other = load_recipe(index.parents[1] / "recipe.yaml")
        if _looking(other.model) == _looking(run.recipe.model):
            shutil.copytree(index.parent, run.folder / "features", copy_function=os.link)
            return


def _looking(model: ModelSpec) -> tuple[object, ...]:
    """What the tower features of a model depend on."""
    return model.towers, model.tower_grid, model.tiling, find_zoom(model.fusion)


class _Judge:
    """Judges trained runs; each file of records is read once."""

    def __init__(self, study: StudySpec) -> None:
        self._study = study
        self._spec = EvalSpec(blind=study.blind, max_new_tokens=study.max_new_tokens)
        self._records: dict[str, list[Record]] = {}
        self._how: dict[str, Any] = {
            "scores": list(KEPT),
            "options": self._spec.model_dump(mode="json"),
            "judge": {name: source.model_dump(mode="json") for name, source in study.judge.items()},
        }

    def find(self, run: Run) -> Result | None:
        """The result of a run, if it was judged as the study says now."""
        path = run.folder / RESULT
        if not path.is_file():
            return None
        result: Result = json.loads(path.read_text(encoding="utf-8"))
        return result if result.pop("how") == self._how else None

    def judge(self, run: Run, say: Say) -> Result:
        """Judge a trained run, unless that has been done, and write down its result."""
        found = self.find(run)
        if found is not None:
            say("  judged already")
            return found
        engine = load_engine(run.folder)
        result: Result = {
            "arm": run.arm,
            "seed": run.seed,
            "folder": str(run.folder),
            **_parameters(engine, run.folder),
            **_speed(run.folder),
            "scores": {name: self._scores(engine, run, name, say) for name in self._study.judge},
        }
        text = json.dumps({**result, "how": self._how}, indent=1) + "\n"
        write_text(run.folder / RESULT, text)
        return result

    def _scores(self, engine: Engine, run: Run, name: str, say: Say) -> dict[str, Any]:
        evaluation = evaluate_records(engine, self._read(name), self._spec)
        about = {"model": str(run.folder), "data": str(self._study.judge[name].path)}
        summary = write_report(evaluation, run.folder / "evaluation" / name, about)
        scores = {key: summary[key] for key in KEPT}
        groups = {g: {k: s[k] for k in KEPT} for g, s in summary["by_category"].items()}
        say(f"  {name}: {100 * scores['accuracy']:.1f} % of {scores['questions']:,} questions")
        return {**scores, "by_category": groups}

    def _read(self, name: str) -> list[Record]:
        if name not in self._records:
            source = self._study.judge[name]
            reader = open_sources({name: source})[name]
            count = min(len(reader), source.limit or len(reader))
            self._records[name] = [reader[index] for index in range(count)]
        return self._records[name]


def _parameters(engine: Engine, folder: Path) -> dict[str, int]:
    """Parameters of the model, and how many of them any stage has trained."""
    checkpoint = latest_checkpoint(folder / "checkpoints")
    trained = set(() if checkpoint is None else checkpoint.progress.trained)
    sizes = {name: parameter.numel() for name, parameter in engine.model.named_parameters()}
    return {
        "parameters": sum(sizes.values()),
        "trained": sum(size for name, size in sizes.items() if name in trained),
    }


def _speed(folder: Path) -> dict[str, Any]:
    """Steps, seconds in steps, and tokens (padding left out) for each of these seconds."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    entries = [entry for entry in map(json.loads, lines) if entry["kind"] == "train"]
    tokens, before = 0.0, 0.0
    for entry in entries:
        tokens += entry["tokens_per_second"] * (entry["seconds"] - before)
        before = entry["seconds"]
    return {
        "steps": entries[-1]["step"],
        "seconds": before,
        "tokens_per_second": tokens / max(before, 1e-9),
    }
