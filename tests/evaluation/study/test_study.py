"""A study from its YAML file to its tables, on tiny data."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.training.tiny import entries, recipe, stage, write_records

from triptych.cli.main import main
from triptych.errors import RecipeError
from triptych.evaluation.study import Failure, load_study, plan_runs, write_study
from triptych.evaluation.study.report import spread
from triptych.recipe import save_recipe

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a study of two arms and one seed, 2 steps each; keywords change it."""
    made = recipe(tmp_path, (stage("one", steps=4), stage("two", steps=8)))
    save_recipe(made, tmp_path / "base.yaml")
    write_records(tmp_path / "data", "judged.jsonl", 6)

    def write(**changes: Any) -> Path:
        plain: dict[str, Any] = {
            "title": "a study",
            "base": str(tmp_path / "base.yaml"),
            "folder": str(tmp_path / "study"),
            "arms": {"causal": {}, "mmca": {"set": {"model.attention": "mmca"}}},
            "seeds": [3],
            "stages": ["one"],
            "steps": 0.5,
            "judge": {"judged": {"path": str(tmp_path / "data" / "judged.jsonl"), "limit": 4}},
            "max_new_tokens": 4,
            "metrics": ["accuracy", "anls"],
        }
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump({**plain, **changes}, sort_keys=False), encoding="utf-8")
        return path

    return write


def test_arms_seeds_stages_and_lengths_become_recipes(write: Write) -> None:
    own = {"set": {"stages.1.learning_rate": 0.5, "model.attention": "mmca"}}
    path = write(arms={"a": {}, "b": own}, seeds=[0, 7], stages=None, set={"run.log_every": 3})
    runs = plan_runs(load_study(path))
    assert [(run.arm, run.seed) for run in runs] == [("a", 0), ("b", 0), ("a", 7), ("b", 7)]
    assert [one.steps for one in runs[0].recipe.stages] == [2, 4]
    assert [run.recipe.run.seed for run in runs] == [0, 0, 7, 7]
    assert runs[3].folder.parts[-2:] == ("b", "seed-7")
    assert {run.recipe.run.log_every for run in runs} == {3}
    assert [run.recipe.model.attention for run in runs[:2]] == ["causal", "mmca"]
    assert runs[1].recipe.stages[1].learning_rate == 0.5
    kept = plan_runs(load_study(path, ["stages=[two]", "steps=0.01"]))[0].recipe.stages
    assert [(one.name, one.steps) for one in kept] == [("two", 1)]
    named = {"stages.0.data": {"a": 1}}
    alone, both = (
        plan_runs(load_study(write(set=named, stages=stages)))[0].recipe.data.sources
        for stages in (["one"], None)
    )
    assert (list(alone), list(both)) == (["a"], ["a", "b"])


def test_mistakes_are_found_before_anything_is_trained(write: Write, tmp_path: Path) -> None:
    wrong = {"x": {"set": {"model.fusion": {"kind": "cross"}, "model.attention": "mmca"}}}
    with pytest.raises(RecipeError, match=r"arm 'x': .*'mmca' would find none to treat apart"):
        plan_runs(load_study(write(arms=wrong)))
    with pytest.raises(RecipeError, match=r"no stage 'three', the recipe has one, two"):
        plan_runs(load_study(write(stages=["three"])))
    with pytest.raises(RecipeError, match=r"unknown key 'sedes' \(did you mean 'seeds'"):
        load_study(write(sedes=[1]))
    with pytest.raises(RecipeError, match=r"nothing.yaml: no such study"):
        load_study(tmp_path / "nothing.yaml")
    assert not (tmp_path / "study").exists()


def test_a_study_runs_is_skipped_when_done_and_reports(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(set={"data.cache_features": True})
    assert main(["study", str(path), "--only", "causal"]) == 0
    assert "1 run(s) are missing from these tables" in capsys.readouterr().out
    folder = tmp_path / "study"
    begun = (folder / "causal" / "seed-3" / "metrics.jsonl").stat().st_mtime_ns
    assert main(["study", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "trained already" in printed
    assert "judged already" in printed
    assert "missing" not in printed
    assert (folder / "causal" / "seed-3" / "metrics.jsonl").stat().st_mtime_ns == begun
    summary = json.loads((folder / "study.json").read_text())
    assert list(summary["arms"]) == ["causal", "mmca"]
    arm = summary["arms"]["mmca"]
    own = entries(folder / "mmca" / "seed-3")
    assert arm["steps"] == 2
    assert arm["seconds"]["mean"] == own[-1]["seconds"]
    assert 0 < arm["trained"] < arm["parameters"]
    judged = json.loads(
        (folder / "mmca" / "seed-3" / "evaluation" / "judged" / "summary.json").read_text()
    )
    assert arm["scores"]["judged"]["accuracy"]["values"] == [judged["accuracy"]]
    assert judged["blind_accuracy"] is not None
    assert judged["records"] == 4
    assert (folder / "study.png").read_bytes().startswith(b"\x89PNG")
    lines = (folder / "study.md").read_text().splitlines()
    assert lines.count("| arm | runs | judged | judged blind |") == 2
    assert sum(line.startswith("| mmca | 1 |") for line in lines) == 2
    assert [line for line in lines if line.startswith("## ")] == [
        "## Exact match",
        "## ANLS",
        "## Cost",
    ]
    assert arm["scores"]["judged"]["anls"]["values"] == [judged["anls"]]
    features = [folder / arm / "seed-3" / "features" / "features.f16" for arm in ("causal", "mmca")]
    assert features[0].samefile(features[1])


def test_runs_that_look_finer_have_features_of_their_own(write: Write, tmp_path: Path) -> None:
    fusion = {"kind": "deepstack", "layers": [1], "producer": {"kind": "mosaic", "grids": [[1, 1]]}}
    arms = {"finer": {"set": {"model.fusion": fusion}}, "plain": {}}
    path = write(set={"data.cache_features": True}, arms=arms)
    assert main(["study", str(path)]) == 0
    sizes = [
        (tmp_path / "study" / arm / "seed-3" / "features" / "features.f16").stat().st_size
        for arm in arms
    ]
    assert sizes[0] == 2 * sizes[1] > 0


def test_an_interrupted_run_goes_on(write: Write, tmp_path: Path) -> None:
    """Killed between its checkpoint and its end, it has a recipe, checkpoints and no model."""
    path = write(arms={"causal": {}}, set={"run.checkpoint_every": 1})
    assert main(["study", str(path)]) == 0
    run = tmp_path / "study" / "causal" / "seed-3"
    wanted = (run / "model" / "model.safetensors").read_bytes()
    (run / "result.json").unlink()
    (run / "model").rename(tmp_path / "gone")
    assert main(["study", str(path)]) == 0
    assert (run / "model" / "model.safetensors").read_bytes() == wanted
    assert [entry["step"] for entry in entries(run)] == sorted({1, 2})


def test_a_failed_arm_is_reported_and_the_others_finish(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = {"set": {"data.max_tokens": 3}}
    assert main(["study", str(write(arms={"broken": broken, "fine": {}}))]) == 1
    printed = capsys.readouterr().out
    assert "broken, seed 3 FAILED: " in printed
    assert "more than max_tokens 3" in printed
    assert "FAILED: broken, seed 3" in (tmp_path / "study" / "study.md").read_text()
    assert list(json.loads((tmp_path / "study" / "study.json").read_text())["arms"]) == ["fine"]


def test_a_changed_study_does_not_mix_with_old_runs(
    write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(arms={"causal": {}})
    assert main(["study", str(path)]) == 0
    assert main(["study", str(path), "set={run.log_every: 2}"]) == 1
    assert "was trained with another recipe than the study has now" in capsys.readouterr().out
    assert main(["study", str(path), "max_new_tokens=5"]) == 0
    assert "judged already" not in capsys.readouterr().out
    assert main(["study", str(path), "--only", "x"]) == 2


def test_means_and_spreads(write: Write, tmp_path: Path) -> None:
    assert spread([2.0, 4.0, 9.0])["mean"] == 5.0
    assert spread([2.0, 4.0])["std"] == pytest.approx(2**0.5)
    assert spread([2.0])["std"] is None
    study = load_study(write(seeds=[0, 1]))

    def result(arm: str, seed: int, accuracy: float) -> dict[str, Any]:
        scores = {"questions": 10, "accuracy": accuracy, "blind_accuracy": 0.25}
        scores |= {"anls": accuracy + 0.05, "blind_anls": None}
        return {
            "arm": arm, "seed": seed, "parameters": 1200, "trained": 100, "steps": 2,
            "seconds": 10.0 + seed, "tokens_per_second": 50.0,
            "scores": {"judged": {**scores, "by_category": {"colour": scores}}},
        }  # fmt: skip

    results = [result("causal", 0, 0.5), result("causal", 1, 0.7), result("mmca", 0, 0.9)]
    summary = write_study(study, results, [Failure("mmca", 1, "out of memory")])
    text = (tmp_path / "study" / "study.md").read_text()
    assert "| causal | 2 | 60.0 ± 14.1 | 25.0 ± 0.0 |" in text
    assert "| mmca | 1 | 90.0 | 25.0 |" in text
    assert "| causal | 60.0 ± 14.1 (25.0) |" in text
    assert "| causal | 2 | 65.0 ± 14.1 |" in text
    assert "| causal | 65.0 ± 14.1 |" in text
    assert "| causal | 1,200 | 100 | 2 | 10 ± 1 | 50 ± 0 |" in text
    assert "FAILED: mmca, seed 1: out of memory" in text
    assert summary["missing"] == 1
