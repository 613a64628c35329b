import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.training.tiny import entries, model_spec, recipe, stage

from triptych.cli.main import main
from triptych.data.spec import SourceSpec
from triptych.errors import CheckpointError, RecipeError
from triptych.inference.engine import load_engine
from triptych.inference.sampling import SamplingSpec
from triptych.model.spec import ModelSpec
from triptych.recipe import Recipe, load_recipe, save_recipe
from triptych.towers import SmallTower
from triptych.training.run import check_new, train


def run_recipe(recipe: Recipe) -> Path:
    return train(recipe.model, recipe.data, recipe.stages, recipe.parallel, recipe.run)


def test_a_run_folder_holds_what_it_should(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stages = (
        stage("align", steps=2),
        stage("all", steps=None, epochs=0.5, train={"language": "lora"}),
    )
    settings = {"evaluate_every": 2, "sample_every": 2, "samples": 2, "log_every": 2}
    made = recipe(tmp_path, stages, run={**settings, "tensorboard": True})
    model = run_recipe(made)
    run = made.run.folder
    assert model == run / "model"
    question = [{"role": "user", "content": "Say yes."}]
    assert len(load_engine(run).answer([question], SamplingSpec(max_new_tokens=4))) == 1
    assert (run / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert list((run / "tensorboard").iterdir())
    train_entries = entries(run)
    assert train_entries[0]["stage"] == "align"
    expected = {"loss", "learning_rate", "grad_norm", "tokens_per_second", "images_per_second"}
    assert expected | {"supervised_per_second", "eta_seconds", "memory_gib"} < set(train_entries[0])
    held_out = entries(run, "held_out")
    assert {e["set"] for e in held_out} == {"test"}
    assert held_out[-1]["step"] == train_entries[-1]["step"]
    samples = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    assert {"question", "expected", "answer", "where"} < set(samples[0])
    assert len([s for s in samples if s["step"] == 2]) == 2
    printed = capsys.readouterr().out
    assert "stage 'align': 2 steps" in printed
    assert "held-out test: loss" in printed


def test_epochs_become_steps(tmp_path: Path) -> None:
    made = recipe(tmp_path, (stage(steps=None, epochs=2, data={"a": 1, "b": 0.5}),))
    run_recipe(made)
    state = json.loads(
        next((made.run.folder / "checkpoints").glob("step-*/state.json")).read_text()
    )
    assert state["step"] == state["loader"]["step"] == entries(made.run.folder)[-1]["step"]
    assert state["loader"]["epoch"] in (1, 2)


def two_towers() -> ModelSpec:
    """The tiny model, with a second tower of another size, grid and width."""
    spec = model_spec()
    second = SmallTower(size=12, patch=4, hidden=8, depth=1, heads=2)
    return spec.model_copy(update={"towers": (*spec.towers, second)})


def test_cached_features_train_to_the_same_loss(tmp_path: Path) -> None:
    plain, cached = (
        recipe(
            tmp_path / name,
            (stage(steps=3),),
            data={"cache_features": name == "cached"},
            model=two_towers(),
        )
        for name in ("plain", "cached")
    )
    for made in (plain, cached):
        run_recipe(made)
    assert (cached.run.folder / "features").is_dir()
    expected = [entry["loss"] for entry in entries(plain.run.folder)]
    assert [e["loss"] for e in entries(cached.run.folder)] == pytest.approx(expected, rel=1e-3)


def test_features_of_towers_that_train_cannot_be_cached(tmp_path: Path) -> None:
    made = recipe(tmp_path, (stage("later", train={"towers": True}),))
    data = made.data.model_copy(update={"cache_features": True})
    with pytest.raises(RecipeError, match="stage 'later' trains the towers"):
        train(made.model, data, made.stages, made.parallel, made.run)


def test_one_tower_trains_and_the_other_stays(tmp_path: Path) -> None:
    train = {"towers": [False, 1e-3], "connector": False, "new_tokens": False}
    made = recipe(tmp_path, (stage(train=train),), model=two_towers(), run={"tower_tiles": 1})
    model = run_recipe(made)
    before = load_file(made.run.folder / "start" / "model.safetensors")
    after = load_file(model / "model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.startswith("towers.1.")}


def test_bf16_keeps_frozen_weights_to_the_bit(tmp_path: Path) -> None:
    made = recipe(
        tmp_path,
        (stage("first", train={"language": "lora"}), stage("second")),
        run={"precision": "bf16"},
    )
    model = run_recipe(made)
    before = load_file(made.run.folder / "start" / "model.safetensors")
    after = load_file(model / "model.safetensors")
    assert {value.dtype for value in after.values()} == {torch.float32}
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    layers = {name for name in before if "_proj.weight" in name and "language_model" in name}
    assert layers < changed
    assert {name.split(".")[0] for name in changed - layers} == {"connector"}


def test_a_taken_folder_is_refused_with_advice(tmp_path: Path) -> None:
    check_new(tmp_path / "not-there")
    (tmp_path / "recipe.yaml").touch()
    check_new(tmp_path)
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(CheckpointError, match=r"holds metrics.jsonl.*--resume.*run.folder="):
        check_new(tmp_path)


def test_wandb_is_asked_for_but_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(RecipeError, match="pip install wandb"):
        run_recipe(recipe(tmp_path, (stage(),), run={"wandb": True}))


def test_the_command_line_trains_resumes_and_refuses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = recipe(tmp_path, (stage(steps=2),))
    file, run = tmp_path / "recipe.yaml", made.run.folder
    save_recipe(made, file)
    assert main(["train", str(file), "run.seed=5"]) == 0
    assert load_recipe(run / "recipe.yaml").run.seed == 5
    assert main(["train", str(file)]) == 2
    assert "--resume" in capsys.readouterr().err
    assert main(["train", "--resume", str(run)]) == 0
    assert [entry["step"] for entry in entries(run)] == [1, 2]
    assert main(["train", "--resume", str(run), "parallel.timeout_minutes=5"]) == 0
    assert main(["train", "--resume", str(run), "run.seed=6"]) == 2
    assert "but those of parallel" in capsys.readouterr().err
    assert main(["train", "--resume", str(tmp_path / "nowhere")]) == 2
    assert main(["train"]) == 2
    assert main(["train", str(file), "--resume", str(run)]) == 2


def test_bad_images_are_listed_and_training_goes_on(tmp_path: Path) -> None:
    made = recipe(tmp_path, (stage(),), data={"on_error": "skip"})
    bad = tmp_path / "data" / "bad.jsonl"
    record: dict[str, Any] = json.loads((tmp_path / "data" / "a.jsonl").read_text().splitlines()[1])
    record["messages"][0]["content"][0]["image"] = "missing.png"
    bad.write_text(json.dumps(record) + "\n" + (tmp_path / "data" / "b.jsonl").read_text())
    sources = {"bad": SourceSpec(path=bad)}
    made = made.model_copy(update={"data": made.data.model_copy(update={"sources": sources})})
    run_recipe(made)
    line = json.loads((made.run.folder / "quarantine.jsonl").read_text())
    assert line["where"].endswith("bad.jsonl:1")
    assert "missing.png" in line["reason"]
