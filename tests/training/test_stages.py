import pytest

from triptych.errors import RecipeError
from triptych.spec import validate
from triptych.training.stages import LanguagePartSpec, PartSpec, StageSpec


def test_shorthands_mean_the_long_form() -> None:
    train = {"towers": 1e-5, "connector": False, "language": "lora"}
    stage = validate(StageSpec, {"name": "s", "steps": 1, "train": train}, "test")
    assert stage.train.towers == PartSpec(train=True, learning_rate=1e-5)
    assert stage.train.connector == PartSpec(train=False)
    assert stage.train.language == LanguagePartSpec(mode="lora")


def test_towers_may_differ() -> None:
    train = {"towers": [False, 1e-5, {"train": True}]}
    stage = validate(StageSpec, {"name": "s", "steps": 1, "train": train}, "test")
    expected = (PartSpec(train=False), PartSpec(learning_rate=1e-5), PartSpec())
    assert stage.train.towers == expected
    assert validate(StageSpec, stage.model_dump(mode="json"), "test") == stage
    assert stage.train.trains_towers
    assert not validate(StageSpec, {"name": "s", "steps": 1}, "test").train.trains_towers


def test_a_resolved_stage_reads_back_as_itself() -> None:
    stage = StageSpec(name="s", epochs=0.5, train={"language": {"mode": "lora", "rank": 4}})  # type: ignore[arg-type]
    assert validate(StageSpec, stage.model_dump(mode="json"), "test") == stage


@pytest.mark.parametrize("length", [{}, {"steps": 3, "epochs": 1}])
def test_length_is_steps_or_epochs(length: dict[str, int]) -> None:
    with pytest.raises(RecipeError, match="either steps or epochs"):
        validate(StageSpec, {"name": "s", **length}, "test")


def test_unknown_part_names_the_nearest() -> None:
    with pytest.raises(RecipeError, match="towers"):
        validate(StageSpec, {"name": "s", "steps": 1, "train": {"tower": True}}, "test")
