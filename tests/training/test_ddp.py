import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.training.tiny import entries, losses, recipe, stage

from triptych.data.loader import Loader
from triptych.data.spec import BatchSpec
from triptych.errors import RecipeError
from triptych.model.build import load_processor
from triptych.recipe import Recipe, save_recipe
from triptych.training.engines import make_engine
from triptych.training.launch import launch as start_processes
from triptych.training.run import train
from triptych.training.stages import ParallelSpec

WATCHDOG_SECONDS = 150


def launch(recipe: Recipe, file: Path, processes: int) -> "subprocess.CompletedProcess[str]":
    save_recipe(recipe, file)
    command = [sys.executable, "-m", "triptych", "train", str(file), "--processes", str(processes)]
    return subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        timeout=WATCHDOG_SECONDS,
        capture_output=True,
        text=True,
        check=False,
    )


def test_two_processes_train_to_the_same_loss_as_one(tmp_path: Path) -> None:
    """Micro-batches of one record, so that often one rank has an image and the other has none."""
    optimizer = {"eps": 1e-4, "weight_decay": 0.1}
    full = {"towers": True, "language": "full"}
    stages = (
        stage("align", steps=3, optimizer=optimizer),
        stage("full", steps=6, train=full, optimizer=optimizer, learning_rate=1e-3),
    )
    data: dict[str, Any] = {"batch": BatchSpec(tokens=64, tiles=4, samples=1, per_step=4)}
    settings = {"evaluate_every": 4, "sample_every": 5, "checkpoint_every": 4}
    single = recipe(tmp_path / "1", stages, data=data, run=settings)
    double = recipe(tmp_path / "2", stages, data=data, run=settings, parallel={"engine": "ddp"})
    train(single.model, single.data, single.stages, single.parallel, single.run)
    done = launch(double, tmp_path / "recipe.yaml", 2)
    assert done.returncode == 0, done.stderr[-4000:]

    one, two = single.run.folder, double.run.folder
    assert done.stdout.count("stage 'full'") == 1
    assert some_rank_has_no_image(single, load_processor(one / "start"))
    assert [step for step, _ in losses(two)] == list(range(1, 10))
    for kind in ("train", "held_out"):
        found, expected = ([e["loss"] for e in entries(run, kind)] for run in (two, one))
        assert found == pytest.approx(expected, rel=1e-5)
    weights = load_file(two / "model" / "model.safetensors")
    for name, value in load_file(one / "model" / "model.safetensors").items():
        torch.testing.assert_close(weights[name], value, rtol=1e-3, atol=1e-5, msg=name)


def some_rank_has_no_image(recipe: Recipe, processor: Any) -> bool:
    """Whether in some step the last micro-batch has images on one of two ranks only."""
    ranks = [
        Loader.open(processor, recipe.data, seed=recipe.run.seed, rank=rank, world=2).steps()
        for rank in range(2)
    ]
    for _ in range(3):
        last = ["tiles_per_image" in next(steps)[-1] for steps in ranks]
        if last[0] != last[1]:
            return True
    return False


def test_what_a_user_can_mend_ends_several_processes_without_a_traceback(tmp_path: Path) -> None:
    made = recipe(tmp_path / "run", (stage("align", steps=1),))
    source = next(iter(made.data.sources.values()))
    source.path.write_text('{"messages": 3}\n')
    done = launch(made, tmp_path / "recipe.yaml", 2)
    assert done.returncode == 2, done.stderr[-4000:]
    assert f"{source.path}:1" in done.stderr
    assert "Traceback" not in done.stderr


def test_processes_are_not_started_by_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(RecipeError, match="leave it out under torchrun"):
        start_processes([], 2)


def test_ddp_without_torchrun_says_how_to_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(RecipeError, match="--processes N"):
        make_engine(ParallelSpec(engine="ddp"))
