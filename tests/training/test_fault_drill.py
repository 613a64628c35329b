"""One of two ranks is killed at a random step; the run goes on and ends as if nothing had been."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tests.training.engine_cases import assert_equal_runs
from tests.training.tiny import losses, recipe, stage

from triptych.data.spec import BatchSpec
from triptych.recipe import Recipe, save_recipe

WATCHDOG_SECONDS = 280
STEPS = 16
ENGINES: dict[str, dict[str, Any]] = {
    "ddp": {"engine": "ddp"},
    "fsdp2": {"engine": "fsdp2"},
    "zero1": {"engine": "deepspeed", "zero": 1},
    "zero2": {"engine": "deepspeed", "zero": 2},
    "zero3": {"engine": "deepspeed", "zero": 3},
}


def drilled(folder: Path, parallel: dict[str, Any]) -> Recipe:
    stages = (
        stage("align", steps=STEPS // 2),
        stage("tune", steps=STEPS // 2, train={"towers": 1e-3, "language": "lora"}),
    )
    return recipe(
        folder,
        stages,
        data={"batch": BatchSpec(tokens=64, tiles=4, samples=1, per_step=4)},
        run={"checkpoint_every": 3},
        parallel={"timeout_minutes": 1, **parallel},
    )


def start(arguments: list[str], output: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "triptych", "train", *arguments, "--processes", "2"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with output.open("wb") as file:
        return subprocess.Popen(
            command, env=environment, stdout=file, stderr=file, start_new_session=True
        )


def finish(process: "subprocess.Popen[bytes]") -> int:
    """Exit code; whatever still runs after the watchdog's time is killed, and the test fails."""
    try:
        return process.wait(timeout=WATCHDOG_SECONDS)
    except subprocess.TimeoutExpired:
        pytest.fail("hung")
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def ranks(launcher: int) -> list[int]:
    """Processes that the launcher has started to train, in the order of their ids."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and (entry / "stat").exists():
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            command = (entry / "cmdline").read_bytes()
            if parent == launcher and b"triptych" in command:
                found.append(int(entry.name))
    return sorted(found)


def kill_one(process: "subprocess.Popen[bytes]", run: Path, step: int) -> None:
    """SIGKILL a random rank as soon as ``step`` has been logged."""
    deadline = time.monotonic() + WATCHDOG_SECONDS
    metrics = run / "metrics.jsonl"
    while time.monotonic() < deadline and process.poll() is None:
        if metrics.exists() and f'"step": {step},' in metrics.read_text(encoding="utf-8"):
            os.kill(random.SystemRandom().choice(ranks(process.pid)), signal.SIGKILL)
            return
        time.sleep(0.002)
    pytest.fail(f"step {step} never came")


@pytest.mark.slow
@pytest.mark.timeout(3 * WATCHDOG_SECONDS)
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to find the ranks")
@pytest.mark.parametrize("name", ENGINES)
def test_a_killed_rank_leaves_no_trace(name: str, tmp_path: Path) -> None:
    if name.startswith("zero"):
        pytest.importorskip("deepspeed")
    whole = drilled(tmp_path / "whole", ENGINES[name])
    killed = drilled(tmp_path / "killed", ENGINES[name])
    for made in (whole, killed):
        save_recipe(made, made.run.folder.parent / "recipe.yaml")
    assert finish(start([str(tmp_path / "whole" / "recipe.yaml")], tmp_path / "whole.txt")) == 0

    step = random.SystemRandom().randint(2, STEPS - 2)
    process = start([str(tmp_path / "killed" / "recipe.yaml")], tmp_path / "killed.txt")
    kill_one(process, killed.run.folder, step)
    assert finish(process) != 0
    assert not (killed.run.folder / "model").exists()
    resumed = start(["--resume", str(killed.run.folder)], tmp_path / "resumed.txt")
    assert finish(resumed) == 0, (tmp_path / "resumed.txt").read_text()[-4000:]
    assert losses(killed.run.folder)[-1] == losses(whole.run.folder)[-1], f"killed after {step}"
    assert_equal_runs(killed.run.folder, whole.run.folder)
