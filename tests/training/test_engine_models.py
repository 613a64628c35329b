"""Fusions, attention rules, experts and preferences under engines that part a model: one curve."""

from pathlib import Path
from typing import Any

import pytest
from tests.training.engine_cases import (
    OPTIMIZER,
    TIMEOUT_MINUTES,
    Job,
    assert_same_curve,
    run_alone,
    run_together,
    text_records,
)
from tests.training.engine_cases import make_case as make_stages
from tests.training.preferences import TRAIN, with_pairs
from tests.training.tiny import data_spec, entries, losses, model_spec, recipe, stage

from triptych.data.spec import BatchSpec, SourceSpec
from triptych.model.spec import ModelSpec
from triptych.recipe import Recipe

ZERO3: dict[str, Any] = {
    "engine": "deepspeed",
    "zero": 3,
    "deepspeed": {"zero_optimization": {"stage3_param_persistence_threshold": 0}},
}
WAYS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "fsdp2": ({"engine": "fsdp2"}, {}),
    "zero3": (ZERO3, {}),
    "zero3-twice": (ZERO3, {"gradient_checkpointing": True}),
}
FULL = {"towers": True, "language": "full"}
OFF = {
    "train": {**TRAIN, "fusion": False},
    "objective": {"kind": "dpo", "reference": "adapter_off", "beta": 0.5},
}
STORED = {"train": FULL, "objective": {"kind": "dpo", "reference": "stored", "beta": 0.5}}
ALIGN = {
    "train": {"towers": True, "new_tokens": False, "fusion": False},
    "objective": {"kind": "align"},
}
DEEP = {"kind": "deepstack", "start": 0, "count": 2}
LEVELS = {"kind": "deepstack", "layers": [0], "producer": {"kind": "levels", "blocks": [0]}}
INSIDE = {"kind": "deepstack", "start": 1, "count": 2, "producer": {"kind": "tower"}}
CROSS = {"kind": "cross", "every": 1, "heads": 2, "head_width": 8}
EXPERTS = {
    "model_type": "mixtral",
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "router_aux_loss_coef": 0.5,
}
PERCEIVER = {"kind": "perceiver", "depth": 1, "heads": 2, "head_width": 8, "latents": 4}
GRID = {"kind": "grid", "side": 2, "row_separator": True, "overview": "squash"}
DORA = {"train": {"language": {"mode": "lora", "dora": True}}}
# What differs from the plain model, and the last stage.
MODELS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "mmca, deepstack": ({"attention": "mmca", "fusion": DEEP}, STORED),
    "levels": ({"fusion": LEVELS}, OFF),
    "inside": ({"fusion": INSIDE, "depth": 3}, {"train": FULL}),
    "cross": ({"fusion": CROSS}, OFF),
    "experts": ({"language": EXPERTS}, STORED),
    "aligned": ({}, ALIGN),
    "features, packed": ({"connector": PERCEIVER, "tiling": GRID}, DORA),
}


def make_spec(
    *, depth: int = 1, language: dict[str, Any] | None = None, **fields: Any
) -> ModelSpec:
    plain = model_spec().model_dump(mode="json")
    plain["towers"][0]["depth"] = depth
    plain["language"]["config"] |= language or {}
    return ModelSpec.model_validate({**plain, **fields})


def make_case(folder: Path, name: str, parallel: dict[str, Any], **run: Any) -> Recipe:
    """The connector and the fusion alone; everything, often on one rank without an image; last."""
    changes, last = MODELS[name]
    cached = name.startswith("features")
    train = {"language": "full"} if cached else FULL
    full = {"train": train, "learning_rate": 1e-3, "optimizer": OPTIMIZER}
    stages = (
        stage("new", steps=1, data={"a": 1}, optimizer=OPTIMIZER),
        stage("all", steps=2, data={"a": 1, "text": 1}, **full),
        stage("last", steps=2, data={"pairs" if has_pairs(name) else "b": 1}, **{**full, **last}),
    )
    data = data_spec(folder / "data")
    text = SourceSpec(path=text_records(folder))
    return recipe(
        folder,
        stages,
        model=make_spec(**changes),
        data={
            "sources": {**data.sources, "text": text, **with_pairs(folder / "data")},
            "held_out": {},
            "batch": BatchSpec(tokens=256, tiles=16, samples=2, per_step=4, packed=cached),
            "cache_features": cached,
        },
        run=run,
        parallel={"timeout_minutes": TIMEOUT_MINUTES, **parallel},
    )


def has_pairs(name: str) -> bool:
    return MODELS[name][1] in (OFF, STORED)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", MODELS)
def test_every_part_trains_like_in_one_process(name: str, tmp_path: Path) -> None:
    pytest.importorskip("deepspeed")
    alone = run_alone(make_case(tmp_path / "alone", name, {}))
    ways = {
        way: make_case(tmp_path / way, name, parallel, **run)
        for way, (parallel, run) in WAYS.items()
    }
    run_together(tmp_path, [Job(made) for made in ways.values()])
    for made in ways.values():
        run = made.run.folder
        assert_same_curve(run, alone)
        for measured in ("router_loss", "reward_margin", "logp_chosen"):
            found, expected = ([e.get(measured, 0.0) for e in entries(r)] for r in (run, alone))
            assert found == pytest.approx(expected, rel=1e-4, abs=1e-6), measured
    last = entries(alone)[-1]
    assert ("router_loss" in last) == name.startswith("experts")
    assert ("reward_margin" in last) == has_pairs(name)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_bf16_trains_like_in_one_process(tmp_path: Path) -> None:
    """Frozen parts in bfloat16, LoRA matrices in float32 beside them, autocast."""
    pytest.importorskip("deepspeed")
    alone = run_alone(make_stages(tmp_path / "alone", {}, precision="bf16"))
    ways = [{"engine": "ddp"}, {"engine": "fsdp2"}, {"engine": "deepspeed", "zero": 1}, ZERO3]
    made = [
        make_stages(tmp_path / str(number), parallel, precision="bf16")
        for number, parallel in enumerate(ways)
    ]
    run_together(tmp_path, [Job(one) for one in made])
    expected = [loss for _, loss in losses(alone)]
    for one in made:
        found = [loss for _, loss in losses(one.run.folder)]
        assert found == pytest.approx(expected, rel=1e-3), one.parallel
