"""The recipes of stages and of safety tuning say what they are meant to."""

from pathlib import Path

from triptych.evaluation.study.spec import load_study, plan_runs
from triptych.recipe import load_recipe
from triptych.training.objectives.spec import DpoObjective

RECIPES = Path(__file__).parents[2] / "recipes"


def test_the_study_of_stages() -> None:
    study = load_study(RECIPES / "studies" / "stages", ["folder=runs/other", "seeds=[0,3]"])
    runs = {(run.arm, run.seed): run.recipe for run in plan_runs(study)}
    assert list(runs)[:3] == [("two-stage", 0), ("one-stage", 0), ("dpo", 0)]
    steps = {
        arm: sum(stage.steps or 0 for stage in runs[arm, 3].stages)
        for arm in ("two-stage", "one-stage")
    }
    assert steps["two-stage"] == steps["one-stage"]
    tuned = runs["dpo", 3]
    assert tuned.run.start == runs["two-stage", 3].run.folder == Path("runs/other/two-stage/seed-3")
    assert isinstance(tuned.stages[0].objective, DpoObjective)
    assert set(tuned.data.sources) == {"pairs"}


def test_the_safety_recipe_starts_from_the_demo() -> None:
    safety, demo = load_recipe(RECIPES / "safety.yaml"), load_recipe(RECIPES / "quickstart.yaml")
    assert safety.run.start == demo.run.folder
    assert safety.model == demo.model
    assert safety.stages[0].train.language.mode == "lora"
    assert safety.stages[0].epochs == 3
