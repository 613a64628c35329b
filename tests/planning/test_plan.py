"""Plans of small models: against the models themselves, and what they advise."""

from pathlib import Path
from typing import Any

import pytest
from benchmarks.plan import compare
from tests.model.tiny import TEXTS, tiny_spec
from tests.planning.tiny import LLAMA, tiny_recipe

from triptych.errors import ContextError, RecipeError
from triptych.model.build import initialise
from triptych.planning.blueprint import draw
from triptych.planning.cost import PHASES, Held, StepCost
from triptych.planning.plan import Plan, plan
from triptych.planning.stage import GB, Hardware
from triptych.planning.states import EngineName, Inventory, Memory, Share, memory
from triptych.planning.workload import Sample
from triptych.recipe import Recipe
from triptych.training.parts import begin_stage

GENTLE = {"gradient_checkpointing": True, "precision": "bf16"}
SAMPLE = Sample(sizes=((40, 30),), text=30)


def planned(recipe: Recipe, limit: float = 1.0, gpus: int = 1, **fields: Any) -> Plan:
    hardware = Hardware(gpus, int(limit * GB), is_gpu=False)
    return plan(recipe, hardware, SAMPLE, **fields)


@pytest.mark.parametrize("train", [{"language": "full"}, {"language": "lora"}, {}])
def test_counts_are_those_of_the_model_itself(train: dict[str, Any]) -> None:
    spec = tiny_spec()
    stages = [{"name": "one", "steps": 1, "train": train}]
    recipe = tiny_recipe(stages=stages).model_copy(update={"model": spec})
    made = planned(recipe)
    texts = [*TEXTS, "enough words for the tokenizer to learn as many tokens as it was asked for"]
    model, _ = initialise(spec, texts=texts)
    assert sum(made.parts.values()) == sum(p.numel() for p in model.parameters())
    parts = begin_stage(model, recipe.stages[0])
    assert made.stages[0].trains == {p.name: p.training for p in parts if p.training}
    assert made.memory.weights == sum(p.nbytes for p in model.parameters())


@pytest.mark.parametrize(
    "name", ["everything but the tower", "everything, checkpointed", "mixture of experts"]
)
def test_a_step_holds_what_was_planned(name: str) -> None:
    row = compare(name, 2, "cpu")
    assert all(abs(row.off[key]) < 0.1 for key in ("weights", "gradients", "optimizer"))
    assert abs(row.off["total"]) < 0.2, row


@pytest.mark.parametrize("run", [{}, GENTLE])
@pytest.mark.parametrize("vocabulary", [500, 30000])
def test_shallow_models_say_what_deep_ones_cost(
    run: dict[str, Any], vocabulary: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the head's backward pass, the logits are the largest or, with few rows, its weights."""
    config = {**LLAMA, "vocab_size": vocabulary}
    language = {"kind": "transformers", "config": config, "tokenizer": "none"}
    data = {"batch": {"tokens": 4096, "samples": 2}}
    recipe = tiny_recipe(run=run, data=data, model={"language": language})
    quick = planned(recipe).stages[0]
    monkeypatch.setattr("triptych.planning.blueprint.Blueprint.shallow_depths", lambda _: None)
    whole = planned(recipe).stages[0]
    for one, other in zip(quick.costs, whole.costs, strict=True):
        assert one.flops == other.flops
        for phase, held in other.peaks.items():
            assert vars(one.peaks[phase]) == pytest.approx(vars(held), rel=0.02, abs=20000), phase


def test_the_largest_batch_is_the_largest() -> None:
    stage = planned(tiny_recipe()).stages[0]
    limit = 2 * stage.memory("single", 1).total
    largest = stage.largest_batch("single", 1, limit)
    assert largest > stage.rows
    assert stage.memory("single", 1, largest).total <= limit
    assert stage.memory("single", 1, largest + 1).total > limit
    again = planned(
        tiny_recipe(data={"batch": {"tokens": 2**20, "tiles": 999, "samples": largest}})
    )
    assert again.stages[0].rows == largest
    assert again.memory.total == pytest.approx(limit, rel=0.05)


def held(engine: EngineName, **fields: Any) -> Memory:
    """Memory of a model of 200 numbers in decoder layers, of 40 bytes each, and the rest."""
    stock = Inventory(Share(40, 10, 10), Share(400, 100, 100), Share(400, 100, 100), buffers=0)
    peaks = dict.fromkeys(PHASES, Held()) | {"head": Held(activations=1000, copies=50)}
    settings = {"half": True, "accumulates": False, **fields}
    return memory(stock, StepCost(peaks, flops=1), engine, 4, **settings)


@pytest.mark.parametrize(
    ("engine", "weights", "gradients", "optimizer"),
    [
        ("ddp", 800, 800, 1600),
        ("zero1", 800, 800, 600),
        ("zero2", 800, 200, 600),
        ("zero3", 200, 200, 600),
        ("fsdp2", 200, 200, 400),
        ("fsdp2+offload", 0, 0, 0),
        ("zero2+offload", 800, 0, 0),
    ],
)
def test_engines_spread_what_is_held(
    engine: EngineName, weights: int, gradients: int, optimizer: int
) -> None:
    """DeepSpeed keeps a second copy of what trains, in float32, beside the moments."""
    found = held(engine)
    assert (found.weights, found.gradients, found.optimizer) == (weights, gradients, optimizer)


def test_what_is_held_at_the_peak() -> None:
    assert held("ddp").activations == 1050 - 800, "gradients come while activations go"
    assert held("ddp", accumulates=True).activations == 1050
    assert held("fsdp2").activations == 1000 - 200, "layers are gathered in half precision"
    assert held("fsdp2").buffers == 2 * 20 + 400 + 4 * (20 + 100)
    assert held("ddp").buffers == 800
    assert held("zero3").buffers == 800 + 800


@pytest.mark.parametrize(
    ("run", "gpus", "share", "advice"),
    [
        ({}, 1, 0.95, "set run.gradient_checkpointing=true"),
        (GENTLE, 1, 0.95, "set data.batch.tokens=46 data.batch.per_step=8"),
        (GENTLE, 4, 0.8, "set parallel.engine=fsdp2"),
        ({}, 1, 0.01, "no number of GPUs is enough"),
    ],
)
def test_the_first_change_is_named(
    run: dict[str, Any], gpus: int, share: float, advice: str
) -> None:
    recipe = tiny_recipe(run=run)
    whole = planned(recipe, gpus=gpus).memory.total
    made = planned(recipe, limit=share * whole / GB, gpus=gpus)
    assert not made.fits
    assert advice in str(made.advice)


def test_quantised_weights_are_planned_as_they_are_held() -> None:
    def made(bits: int | None, limit: float = 1.0, **run: Any) -> Plan:
        quantize = None if bits is None else {"kind": "bnb", "bits": bits}
        model = {"language": {"kind": "transformers", "config": LLAMA, "tokenizer": "none"}}
        model["language"]["quantize"] = quantize
        stages = [{"name": "one", "steps": 10, "train": {"language": "lora"}}]
        run = {"precision": "bf16", **run}
        return planned(tiny_recipe(model=model, stages=stages, run=run), gpus=2, limit=limit)

    whole, eight, four = made(None), made(8), made(4, limit=0.001)
    linears = 4 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 176)
    outputs = 4 * (64 + 2 * 32 + 64 + 2 * 176 + 64)
    saved = whole.memory.weights - eight.memory.weights
    assert saved == 2 * linears - (linears + 4 * outputs), "two bytes in bfloat16, one in 8 bits"
    assert four.memory.weights < eight.memory.weights
    assert list(four.as_json()["stages"][0]["memory_per_gpu"]) == ["ddp"]
    assert four.advice is not None
    assert "fsdp2" not in four.advice
    with pytest.raises(RecipeError, match="computes in bfloat16"):
        made(4, precision="fp32")


def test_steps_and_time(tmp_path: Path) -> None:
    path = tmp_path / "some.jsonl"
    path.write_text('{"messages": []}\n' * 1000)
    stages = [{"name": "one", "epochs": 2, "data": {"some": 0.5}, "train": {"language": "full"}}]
    data = {"sources": {"some": {"path": str(path)}}, "batch": {"samples": 4, "per_step": 2}}
    stage = planned(tiny_recipe(data=data, stages=stages)).stages[0]
    assert (stage.rows, stage.per_step, stage.steps) == (4, 8, 125)
    hardware = Hardware(2, GB, flops=1e9, utilisation=0.5)
    expected = stage.flops_per_sample * 1000 / 1e9 / 3600
    assert stage.hours(hardware) == pytest.approx(expected)
    absent = {"sources": {"some": {"path": "absent.jsonl"}}}
    assert planned(tiny_recipe(data=absent, stages=stages)).stages[0].steps is None
    assert planned(tiny_recipe(data=absent, stages=stages), samples=80).stages[0].steps == 20


def test_what_cannot_be_planned_is_explained() -> None:
    with pytest.raises(ContextError, match="a sample of 1 image\\(s\\) has 46 tokens"):
        planned(tiny_recipe(data={"max_tokens": 40}))
    language = {"kind": "transformers", "source": "/nowhere/at/all"}
    with pytest.raises(RecipeError, match="write it into the recipe as"):
        draw(tiny_recipe(model={"language": language}).model)


def test_a_config_in_the_recipe_is_enough() -> None:
    language = {"kind": "transformers", "source": "/nowhere/at/all", "config": LLAMA}
    assert draw(tiny_recipe(model={"language": language}).model).layers == 4
