import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.training.tiny import entries, losses, model_spec, recipe, stage

from triptych.data.spec import SourceSpec
from triptych.recipe import Recipe, save_recipe
from triptych.training.reporter import Reporter
from triptych.training.run import train

ADAPTED = {
    "language": {"mode": "lora", "dropout": 0.2},
    "towers": {"mode": "lora", "dora": True, "targets": {"mlp": {"rank": 4}}},
}
STAGES = (
    stage("align", steps=3, data={"a": 1}, train=ADAPTED),
    stage("full", steps=3, train={"towers": 1e-3, "language": "full"}),
)


def resumable(folder: Path, **fields: Any) -> Recipe:
    return recipe(folder, fields.pop("stages", STAGES), model=model_spec(dropout=0.1), **fields)


def run_recipe(recipe: Recipe, resume: Path | None = None) -> Path:
    args = (recipe.model, recipe.data, recipe.stages, recipe.parallel, recipe.run)
    train(*args, resume=resume)
    return recipe.run.folder


def assert_same_run(found: Path, expected: Path) -> None:
    """The same losses at the same steps, no step twice, and the same weights, to the bit."""
    assert losses(found) == losses(expected)
    for kept in ("loss", "token_accuracy", "answer_accuracy", "step"):
        both = [[e[kept] for e in entries(run, "held_out")] for run in (found, expected)]
        assert both[0] == both[1]
    weights = [load_file(run / "model" / "model.safetensors") for run in (found, expected)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_resumed_at_every_step_of_every_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"checkpoint_every": 1, "evaluate_every": 2, "keep": 1}
    whole = run_recipe(resumable(tmp_path / "whole", run=settings))
    shared = {"run": settings, "data": {"sources": sources(tmp_path / "whole")}}
    for stop in range(1, 6):
        interrupted = resumable(tmp_path / f"stopped-{stop}", **shared)

        def show_step(self: Reporter, step: int, _: str, stop: int = stop) -> None:
            if step == stop + 1:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Reporter, "show_step", show_step)
            with pytest.raises(KeyboardInterrupt):
                run_recipe(interrupted)
        run_recipe(interrupted, resume=interrupted.run.folder)
        assert_same_run(interrupted.run.folder, whole)


def sources(folder: Path) -> dict[str, SourceSpec]:
    return {name: SourceSpec(path=folder / "data" / f"{name}.jsonl") for name in ("a", "b")}


def kill_at(arguments: list[str], run: Path, step: int) -> None:
    """Start the command line, and SIGKILL it as soon as ``step`` has been logged."""
    command = [sys.executable, "-m", "triptych.cli.main", "train", *arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            metrics = run / "metrics.jsonl"
            if metrics.exists() and f'"step": {step},' in metrics.read_text(encoding="utf-8"):
                break
            time.sleep(0.002)
    finally:
        process.send_signal(signal.SIGKILL)
    assert process.wait(timeout=30) == -signal.SIGKILL


def test_sigkill_in_both_stages_leaves_no_trace(tmp_path: Path) -> None:
    stages = tuple(one.model_copy(update={"steps": 15}) for one in STAGES)
    settings = {"checkpoint_every": 4, "evaluate_every": 10, "log_every": 1}
    whole = run_recipe(resumable(tmp_path / "whole", stages=stages, run=settings))
    shared = {"stages": stages, "run": settings, "data": {"sources": sources(tmp_path / "whole")}}
    killed = resumable(tmp_path / "killed", **shared)
    run, file = killed.run.folder, tmp_path / "recipe.yaml"
    save_recipe(killed, file)
    chance = random.SystemRandom()
    kill_at([str(file)], run, chance.randint(5, 13))
    kill_at(["--resume", str(run)], run, chance.randint(20, 27))
    run_recipe(killed, resume=run)
    assert_same_run(run, whole)
