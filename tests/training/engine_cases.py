"""Runs that every engine has to go through, and what is compared afterwards."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from tests.training.engine_driver import stop_at
from tests.training.tiny import data_spec, entries, losses, model_spec, recipe, stage
from torch import Tensor
from torch.testing import assert_close

from triptych.data.loader import Loader
from triptych.data.spec import BatchSpec, SourceSpec
from triptych.export import ExportSpec, export_model
from triptych.model.build import load_processor
from triptych.recipe import Recipe, save_recipe
from triptych.training.run import train

DRIVER = Path(__file__).with_name("engine_driver.py")
WATCHDOG_SECONDS = 120
TIMEOUT_MINUTES = 0.5
RELATIVE = 1e-5
OPTIMIZER = {"eps": 1e-4, "weight_decay": 0.1}


@dataclass(frozen=True)
class Job:
    """One recipe to train, or to go on with from what another run had at a step."""

    recipe: Recipe
    whole: Path | None = None
    step: int = 0


def make_case(
    folder: Path, parallel: dict[str, Any], *, held_out: bool = False, **run: Any
) -> Recipe:
    """Six steps in four stages: two micro-batches for each of two ranks, of one record at first.

    text: no rank ever has an image; frozen: the connector alone, often one rank has an image and
    the other has none; lora: with towers; full: everything, after LoRA has been merged, in
    micro-batches of one to three records.
    """
    stages = (
        stage(
            "text",
            steps=1,
            data={"text": 1},
            train={"towers": True, "language": "full"},
            learning_rate=1e-3,
            optimizer=OPTIMIZER,
        ),
        stage("frozen", steps=2, data={"a": 1}, optimizer=OPTIMIZER),
        stage(
            "lora",
            steps=2,
            data={"a": 1, "b": 1},
            train={"towers": 1e-3, "language": "lora"},
            optimizer=OPTIMIZER,
        ),
        stage(
            "full",
            steps=1,
            train={"towers": True, "language": "full"},
            learning_rate=1e-3,
            optimizer=OPTIMIZER,
            batch=BatchSpec(tokens=128, tiles=4, samples=3, per_step=4, window=16),
        ),
    )
    data = data_spec(folder / "data")
    sources = {**data.sources, "text": SourceSpec(path=text_records(folder))}
    settings = {"checkpoint_every": 4, "keep": 99, "evaluate_every": 3, **run}
    return recipe(
        folder,
        stages,
        model=model_spec(),
        data={
            "sources": sources,
            "held_out": data.held_out if held_out else {},
            "batch": BatchSpec(tokens=64, tiles=4, samples=1, per_step=4),
        },
        run={"samples": 1, **settings},
        parallel={"timeout_minutes": TIMEOUT_MINUTES, **parallel},
    )


def text_records(folder: Path) -> Path:
    lines = []
    for index in range(8):
        question = {"role": "user", "content": "Say yes. " * (1 + index % 3)}
        lines.append(json.dumps({"messages": [question, {"role": "assistant", "content": "yes"}]}))
    path = folder / "data" / "text.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def batches_of_ranks(made: Recipe, stage_index: int) -> Iterator[tuple[dict[str, Tensor], ...]]:
    """The micro-batches that two ranks have at the same time, in all steps of a stage."""
    processor = load_processor(made.run.folder / "start")
    stage = made.stages[stage_index]
    data = made.data.model_copy(update={"batch": stage.batch or made.data.batch})
    ranks = [
        Loader.open(processor, data, seed=made.run.seed, rank=rank, world=2)
        .derive(seed=made.run.seed + 7919 * stage_index, weights=stage.data)
        .steps()
        for rank in range(2)
    ]
    for _ in range(stage.steps or 0):
        yield from zip(*(next(rank) for rank in ranks), strict=True)


def run_alone(made: Recipe, whole: Path | None = None, step: int = 0) -> Path:
    """Train in this process."""
    run = made.run.folder
    if whole is not None:
        stop_at(whole, step, run)
    else:
        save_recipe(made, run / "recipe.yaml")
    resume = None if whole is None else run
    train(made.model, made.data, made.stages, made.parallel, made.run, resume=resume)
    return run


def run_together(folder: Path, jobs: Sequence[Job], processes: int = 2) -> None:
    """Train in several processes, all jobs in the same ones; kill them all if they hang."""
    listed: list[dict[str, Any]] = []
    for number, (job, port) in enumerate(zip(jobs, free_ports(len(jobs)), strict=True)):
        file = folder / f"job-{number}.yaml"
        save_recipe(job.recipe, file)
        if job.whole is None:
            save_recipe(job.recipe, job.recipe.run.folder / "recipe.yaml")
        whole = None if job.whole is None else str(job.whole)
        listed.append({"recipe": str(file), "port": port, "whole": whole, "step": job.step})
    (folder / "jobs.json").write_text(json.dumps(listed), encoding="utf-8")
    outputs = [folder / f"rank-{rank}.txt" for rank in range(processes)]
    driver = subprocess.Popen(
        [sys.executable, str(DRIVER), str(folder / "jobs.json")],
        env=environment(processes),
        stderr=(folder / "driver.txt").open("wb"),
        start_new_session=True,
    )
    try:
        watch(driver, outputs)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
    words = "\n".join(f"== {path.name}\n{tail(path)}" for path in (*outputs, folder / "driver.txt"))
    assert driver.returncode == 0, f"failed or hung:\n{words}"


def watch(driver: "subprocess.Popen[bytes]", outputs: Sequence[Path]) -> None:
    """Return when the driver has ended, or no rank has said anything for long."""
    said, deadline = -1, time.monotonic() + WATCHDOG_SECONDS
    while driver.poll() is None and time.monotonic() < deadline:
        written = sum(path.stat().st_size for path in outputs if path.exists())
        if written != said:  # a step at least; a busy machine makes them slow, but not silent
            said, deadline = written, time.monotonic() + WATCHDOG_SECONDS
        time.sleep(0.05)


def environment(processes: int) -> dict[str, str]:
    """What torchrun would tell every rank."""
    own = {"WORLD_SIZE": str(processes), "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
    return {**os.environ, **own, "PYTHONPATH": os.pathsep.join(sys.path)}


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def tail(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")[-4000:]


def weights(run: Path) -> dict[str, Tensor]:
    return load_file(run / "model" / "model.safetensors")


def assert_same_export(found: Path, expected: Path, step: int, folder: Path) -> None:
    """What checkpoints hold is written and loaded again, and its weights are nearly the same."""
    exported = []
    for run in (found, expected):
        out = folder / str(len(exported))
        export_model(run, out, ExportSpec(checkpoint=str(step), format="triptych"))
        exported.append(load_file(out / "model.safetensors"))
    assert exported[0].keys() == exported[1].keys()
    for name, value in exported[1].items():
        assert_close(exported[0][name], value, rtol=1e-3, atol=2e-5, msg=name)


def assert_equal_runs(found: Path, expected: Path) -> None:
    """Equal to the bit."""
    assert losses(found) == losses(expected)
    one, two = weights(found), weights(expected)
    assert one.keys() == two.keys()
    assert [name for name in one if not one[name].equal(two[name])] == []


def assert_same_curve(found: Path, expected: Path) -> None:
    """Losses within ``RELATIVE``, weights nearly the same."""
    assert [step for step, _ in losses(found)] == [step for step, _ in losses(expected)]
    for kind in ("train", "held_out"):
        got, wanted = (
            {e["step"]: e["loss"] for e in entries(run, kind)} for run in (found, expected)
        )
        steps = sorted(got)  # without held-out data there is nothing to compare
        assert [got[step] for step in steps] == pytest.approx(
            [wanted[step] for step in steps], rel=RELATIVE
        ), kind
    norms = [[e["grad_norm"] for e in entries(run)] for run in (found, expected)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-3, abs=1e-6)
    one = weights(found)
    for name, value in weights(expected).items():
        assert_close(one[name], value, rtol=1e-3, atol=2e-5, msg=name)
