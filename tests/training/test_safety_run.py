"""Safety tuning end to end: cards that may not be talked about, before and after."""

import json
from pathlib import Path
from typing import Any

from tests.training.test_resume import run_recipe
from tests.training.tiny import model_spec, stage

from triptych.cli.main import main
from triptych.data.readers import open_reader
from triptych.data.spec import BatchSpec, DataSpec, SourceSpec
from triptych.evaluation.refusals import count_refusals
from triptych.evaluation.runner import evaluate_records
from triptych.evaluation.spec import EvalSpec
from triptych.inference.engine import load_engine
from triptych.recipe import Recipe
from triptych.synth import safety
from triptych.towers.small import SmallTower
from triptych.training.stages import RunSpec


def rates(model: Path, data: Path) -> tuple[float, float]:
    reader = open_reader(data, "vlguard")
    records = [reader[index] for index in range(len(reader))]
    done = evaluate_records(load_engine(model), records, EvalSpec(blind=False, max_new_tokens=16))
    found = count_refusals(done.outcomes)
    assert found is not None
    return found["refusal_rate"], found["over_refusal_rate"]


def test_the_held_out_cards_are_the_same_for_every_seed(tmp_path: Path) -> None:
    plan = safety.Plan(train=9, test=9, side=32)
    made = safety.build(tmp_path / "a", plan)
    assert made == {"train.json": 15, "test.json": 15}
    assert main(["data", "build", "safety", "--out", str(tmp_path / "b"), "--seed", "1",
                 "--train", "9", "--test", "9", "--side", "32"]) == 0  # fmt: skip
    texts = [
        [(tmp_path / one / f"{split}.json").read_text() for one in "ab"]
        for split in ("train", "test")
    ]
    assert texts[0][0] != texts[0][1]
    assert texts[1][0] == texts[1][1]
    entries = json.loads(texts[0][0])
    assert {len(one["instr-resp"]) for one in entries if one["safe"]} == {2}
    assert sum(not one["safe"] for one in entries) == 3


def test_safety_tuning_is_seen_from_both_sides(tmp_path: Path) -> None:
    """From the same weights a model learns to refuse; one this small and short-lived refuses
    everything, which the refusal rate praises and the over-refusal rate betrays."""
    safety.build(tmp_path / "cards", safety.Plan(train=150, test=45, side=32))
    path = tmp_path / "cards" / "train.json"
    reader = open_reader(path, "vlguard")
    lines = [reader[index] for index in range(len(reader))]
    plain = tmp_path / "cards" / "plain.jsonl"
    answered = [one for one in lines if one.messages[1].category == "safe"]
    plain.write_text("".join(json.dumps(one.to_json()) + "\n" for one in answered))
    tower = SmallTower(size=32, patch=8, hidden=32, depth=1, heads=2)
    model = model_spec().model_copy(update={"towers": (tower,)})
    sources: dict[str, Any] = {
        "plain": SourceSpec(path=plain),
        "safety": SourceSpec(path=path, reader="vlguard"),
    }
    data = DataSpec(
        sources=sources, max_tokens=128, batch=BatchSpec(tokens=1024, tiles=64), keep_tokens=True
    )
    train = {"towers": True, "language": "full"}
    first = Recipe(
        model=model,
        data=data,
        stages=(stage("answers", steps=20, train=train, data={"plain": 1}),),
        run=RunSpec(folder=tmp_path / "1", tensorboard=False),
    )
    before = run_recipe(first)
    tuned = first.model_copy(
        update={
            "stages": (
                stage("safety", steps=120, train=train, learning_rate=5e-3, data={"safety": 1}),
            ),
            "run": first.run.model_copy(update={"folder": tmp_path / "2", "start": before}),
        }
    )
    after = run_recipe(tuned)
    test = tmp_path / "cards" / "test.json"
    assert rates(before, test) == (0, 0)
    refused, over = rates(after, test)
    assert refused > 0.8
    assert over > 0.5
