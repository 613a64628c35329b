import pytest

from triptych.errors import RecipeError
from triptych.spec import validate
from triptych.training.stages import PartSpec, StageSpec
from triptych.training.tuning import LoraScope, TunedPartSpec


def test_shorthands_mean_the_long_form() -> None:
    train = {"towers": 1e-5, "connector": False, "language": "lora"}
    stage = validate(StageSpec, {"name": "s", "steps": 1, "train": train}, "test")
    assert stage.train.towers == TunedPartSpec(mode="full", learning_rate=1e-5)
    assert stage.train.connector == PartSpec(train=False)
    assert stage.train.language == TunedPartSpec(mode="lora")


def test_towers_may_differ() -> None:
    train = {"towers": [False, 1e-5, {"train": True}]}
    stage = validate(StageSpec, {"name": "s", "steps": 1, "train": train}, "test")
    full = TunedPartSpec(mode="full")
    expected = (TunedPartSpec(), full.model_copy(update={"learning_rate": 1e-5}), full)
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


def test_parts_of_earlier_recipes_still_read() -> None:
    earlier = {"towers": {"train": True, "learning_rate": 2e-6}, "language": {"mode": "full"}}
    train = validate(StageSpec, {"name": "s", "steps": 1, "train": earlier}, "test").train
    assert train.towers == TunedPartSpec(mode="full", learning_rate=2e-6)
    assert train.language == TunedPartSpec(mode="full")


def test_scopes_have_settings_of_their_own() -> None:
    lora = {"mode": "lora", "dora": True, "targets": {"self_attn": {"rank": 4}, "mlp": {}}}
    stage = validate(StageSpec, {"name": "s", "steps": 1, "train": {"towers": lora}}, "test")
    assert isinstance(stage.train.towers, TunedPartSpec)
    assert stage.train.towers.targets == {"self_attn": LoraScope(rank=4), "mlp": LoraScope()}
    assert validate(StageSpec, stage.model_dump(mode="json"), "test") == stage
    assert stage.train.trains_towers
    wrong = {"language": {"mode": "lora", "targets": {"mlp": {"ranks": 4}}}}
    with pytest.raises(RecipeError, match=r"unknown key 'train.language.targets.mlp.ranks'"):
        validate(StageSpec, {"name": "s", "steps": 1, "train": wrong}, "test")


def test_targets_have_short_forms() -> None:
    every = TunedPartSpec().targets
    assert every == TunedPartSpec(targets="all-linear").targets == {"all-linear": LoraScope()}  # type: ignore[arg-type]
    named = TunedPartSpec(targets=["q_proj", "mlp"])  # type: ignore[arg-type]
    assert list(named.targets) == ["q_proj", "mlp"]
    assert list(TunedPartSpec(targets="mlp").targets) == ["mlp"]  # type: ignore[arg-type]
