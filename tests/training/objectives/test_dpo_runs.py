"""DPO in whole runs: resumed at every step, and its stored reference."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.training.preferences import TRAIN, write_pairs
from tests.training.test_resume import assert_same_run, run_recipe
from tests.training.tiny import data_spec, entries, losses, model_spec, recipe, stage

from triptych.data.spec import BatchSpec, SourceSpec
from triptych.errors import CheckpointError, DataError
from triptych.recipe import Recipe
from triptych.training.reporter import Reporter

OFF = {"kind": "dpo", "reference": "adapter_off", "beta": 0.5}
STORED = {"kind": "dpo", "reference": "stored", "beta": 0.5}
LORA = {**TRAIN, "language": {"mode": "lora", "dropout": 0.2}}
FULL = {"towers": 1e-3, "language": "full"}
STAGES = (
    stage("align", steps=1, data={"a": 1}),
    stage("off", steps=2, train=LORA, objective=OFF, data={"pairs": 1}),
    stage("stored", steps=3, train=FULL, objective=STORED, data={"pairs": 1}, learning_rate=1e-3),
)


def with_pairs(folder: Path, **fields: Any) -> Recipe:
    plain = data_spec(folder / "data")
    sources = {**plain.sources, "pairs": SourceSpec(path=write_pairs(folder / "data"))}
    batch = BatchSpec(tokens=256, tiles=16, per_step=2, window=16)
    data = {"sources": sources, "batch": batch, **fields.pop("data", {})}
    stages = fields.pop("stages", STAGES)
    return recipe(folder, stages, model=model_spec(dropout=0.1), data=data, **fields)


def stop_after(monkeypatch: pytest.MonkeyPatch, made: Recipe, stop: int) -> None:
    def show_step(self: Reporter, step: int, _: str) -> None:
        if step == stop + 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Reporter, "show_step", show_step)
        with pytest.raises(KeyboardInterrupt):
            run_recipe(made)


def test_resumed_at_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"checkpoint_every": 1, "keep": 1}
    whole = run_recipe(with_pairs(tmp_path / "whole", run=settings))
    shared = {"sources": with_pairs(tmp_path / "whole").data.sources}
    for stop in (2, 3, 5):
        made = with_pairs(tmp_path / f"{stop}", run=settings, data=shared)
        stop_after(monkeypatch, made, stop)
        run_recipe(made, resume=made.run.folder)
        assert_same_run(made.run.folder, whole)
        for kept in ("reward_chosen", "reward_margin", "preferred", "logp_rejected"):
            both = [[e.get(kept) for e in entries(run)] for run in (made.run.folder, whole)]
            assert both[0] == both[1]
    assert entries(whole)[0].get("reward_margin") is None


def test_a_stored_reference_is_used_again_only_for_the_same_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped before the first checkpoint, a run begins the stage anew."""
    stages = STAGES[2:]
    made = with_pairs(tmp_path, stages=stages)
    stop_after(monkeypatch, made, 1)
    path = made.run.folder / "reference" / "stage-0.safetensors"
    first = path.stat().st_mtime_ns
    run_recipe(made, resume=made.run.folder)
    assert path.stat().st_mtime_ns == first
    other = made.model_copy(update={"run": made.run.model_copy(update={"seed": 1})})
    for name in ("checkpoints", "start", "model", "metrics.jsonl"):
        (made.run.folder / name).rename(tmp_path / name)
    run_recipe(other, resume=made.run.folder)
    assert path.stat().st_mtime_ns > first
    assert losses(made.run.folder)[0][1] == pytest.approx(0.6931, abs=0.05)  # dropout is on


def test_without_its_reference_a_stage_does_not_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = with_pairs(tmp_path, stages=STAGES[2:], run={"checkpoint_every": 1})
    stop_after(monkeypatch, made, 1)
    source = made.data.sources["pairs"]
    records = [json.loads(line) for line in source.path.read_text().splitlines()]
    changed = [{**one, "rejected": "a lie"} for one in records]
    source.path.write_text("".join(json.dumps(one) + "\n" for one in changed))
    with pytest.raises(DataError, match="data were changed since the stage began"):
        run_recipe(made, resume=made.run.folder)
    (made.run.folder / "reference" / "stage-0.safetensors").unlink()
    with pytest.raises(CheckpointError, match="log-probabilities of the reference are gone"):
        run_recipe(made, resume=made.run.folder)
