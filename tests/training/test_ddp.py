"""Two processes that the console command starts: the losses of one process, and its messages."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.training.preferences import TRAIN, with_pairs
from tests.training.tiny import data_spec, entries, losses, recipe, stage

from triptych.cli.main import main
from triptych.data.loader import Loader
from triptych.data.spec import BatchSpec
from triptych.errors import RecipeError
from triptych.model.build import load_processor
from triptych.recipe import Recipe, save_recipe
from triptych.training.engines import make_engine
from triptych.training.launch import launch as start_processes
from triptych.training.run import train
from triptych.training.stages import ParallelSpec

Launch = Callable[[Recipe, Path], int]

OPTIMIZER = {"eps": 1e-4, "weight_decay": 0.1}
PLAIN = {"a": 1, "b": 1}
PAIRS: dict[str, Any] = {
    "data": {"pairs": 1},
    "batch": BatchSpec(tokens=128, tiles=16, samples=2, per_step=2),
    "optimizer": {"eps": 1e-4},
}
DPO = {"kind": "dpo", "beta": 0.5}
ANSWERS = (
    stage("align", steps=3, data=PLAIN, optimizer=OPTIMIZER),
    stage(
        "full",
        steps=6,
        data=PLAIN,
        train={"towers": True, "language": "full"},
        optimizer=OPTIMIZER,
        learning_rate=1e-3,
    ),
)
PREFERENCES = (
    stage("off", steps=2, train=TRAIN, objective={**DPO, "reference": "adapter_off"}, **PAIRS),
    stage(
        "stored",
        steps=3,
        train={"towers": 1e-3, "language": "full"},
        objective={**DPO, "reference": "stored"},
        learning_rate=1e-3,
        **PAIRS,
    ),
)


@pytest.fixture
def launch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Launch]:
    """Runs a recipe in two processes by the console command, in this process: it starts sooner."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))

    def start(made: Recipe, file: Path) -> int:
        save_recipe(made, file)
        return main(["train", str(file), "--processes", "2"])

    with own_signals():
        yield start


@contextmanager
def own_signals() -> Iterator[None]:
    """The launcher takes signals over, and does not give them back."""
    taken = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    handlers = {one: signal.getsignal(one) for one in taken}
    try:
        yield
    finally:
        for one, handler in handlers.items():
            signal.signal(one, handler)


def test_two_processes_train_to_the_same_loss_as_one(
    tmp_path: Path, launch: Launch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Micro-batches of one record, so that often one rank has an image and the other has none."""
    sources = {**data_spec(tmp_path / "data").sources, **with_pairs(tmp_path / "pairs")}
    batch = BatchSpec(tokens=64, tiles=4, samples=1, per_step=4)
    data: dict[str, Any] = {"sources": sources, "batch": batch}
    settings = {"evaluate_every": 4, "sample_every": 5, "checkpoint_every": 4}
    stages = (*ANSWERS, *PREFERENCES)
    single = recipe(tmp_path / "1", stages, data=data, run=settings)
    double = recipe(tmp_path / "2", stages, data=data, run=settings, parallel={"engine": "ddp"})
    train(single.model, single.data, single.stages, single.parallel, single.run)
    capfd.readouterr()
    code = launch(double, tmp_path / "recipe.yaml")
    output = capfd.readouterr()
    assert code == 0, output.err[-4000:]
    assert "accelerator" not in output.out + output.err  # DeepSpeed's, where it is installed

    one, two = single.run.folder, double.run.folder
    assert output.out.count("stage 'full'") == 1
    assert some_rank_has_no_image(single, load_processor(one / "start"))
    assert [step for step, _ in losses(two)] == list(range(1, 15))
    for kind in ("train", "held_out"):
        assert_close(one, two, kind, "loss", range(1, 10), rel=1e-5)
    for kept in ("loss", "reward_margin", "logp_chosen"):
        assert_close(one, two, "train", kept, range(10, 15), rel=1e-4)
    assert_same_reference(one, two)
    weights = load_file(two / "model" / "model.safetensors")
    for name, value in load_file(one / "model" / "model.safetensors").items():
        torch.testing.assert_close(weights[name], value, rtol=1e-3, atol=1e-5, msg=name)


def assert_close(one: Path, two: Path, kind: str, kept: str, steps: range, rel: float) -> None:
    found, expected = (
        {e["step"]: e[kept] for e in entries(run, kind) if e["step"] in steps} for run in (two, one)
    )
    assert found
    assert found == pytest.approx(expected, rel=rel, abs=1e-6), (kind, kept)


def assert_same_reference(one: Path, two: Path) -> None:
    """The log-probabilities that are stored before the last stage."""
    tables = [load_file(run / "reference" / "stage-3.safetensors") for run in (two, one)]
    found, expected = (
        dict(zip(t["keys"].tolist(), t["logprobs"][:, 0].tolist(), strict=True)) for t in tables
    )
    assert len(found) > 6
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)


def some_rank_has_no_image(recipe: Recipe, processor: Any) -> bool:
    """Whether in some step the last micro-batch has images on one of two ranks only."""
    given: dict[str, Any] = {"seed": recipe.run.seed, "world": 2, "names": set(PLAIN)}
    ranks = [Loader.open(processor, recipe.data, rank=rank, **given).steps() for rank in range(2)]
    for _ in range(3):
        last = ["tiles_per_image" in next(steps)[-1] for steps in ranks]
        if last[0] != last[1]:
            return True
    return False


def test_what_a_user_can_mend_ends_several_processes_without_a_traceback(
    tmp_path: Path, launch: Launch, capfd: pytest.CaptureFixture[str]
) -> None:
    made = recipe(tmp_path / "run", (stage("align", steps=1),))
    source = next(iter(made.data.sources.values()))
    source.path.write_text('{"messages": 3}\n')
    code, errors = launch(made, tmp_path / "recipe.yaml"), capfd.readouterr().err
    assert code == 2, errors[-4000:]
    assert f"{source.path}:1" in errors
    assert "Traceback" not in errors


def test_processes_are_not_started_by_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(RecipeError, match="leave it out under torchrun"):
        start_processes([], 2)


def test_ddp_without_torchrun_says_how_to_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(RecipeError, match="--processes N"):
        make_engine(ParallelSpec(engine="ddp"))
