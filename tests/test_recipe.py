from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from triptych.errors import RecipeError
from triptych.recipe import Recipe, load_recipe, recipe_schema, recipe_yaml, save_recipe
from triptych.spec import validate

RECIPES = Path(__file__).parents[1] / "recipes"

TEXT = """
model:
  towers:
    - {kind: small, size: 32, patch: 8}
  connector: {kind: mlp}
  language:
    kind: transformers
    config: {model_type: llama, hidden_size: 32}
    tokenizer: {kind: train, vocabulary: 300}
data:
  sources:
    pictures: {path: train.jsonl}
  held_out:
    pictures: {path: test.jsonl}
stages:
  - {name: align, steps: 5}
  - {name: tune, epochs: 2, learning_rate: 1e-3, data: {pictures: 1}}
run: {folder: runs/x}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "recipe.yaml"
    file.write_text(TEXT)
    return file


def refused(path: Path, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    return str(caught.value)


def test_reads_a_recipe(path: Path) -> None:
    recipe = load_recipe(path)
    assert [stage.name for stage in recipe.stages] == ["align", "tune"]
    assert recipe.stages[1].learning_rate == 1e-3
    assert recipe.data.sources["pictures"].path == Path("train.jsonl")


def test_parts_that_do_not_go_together_are_refused_when_read(path: Path) -> None:
    spread = ("run.tower_tiles=4", "parallel.engine=deepspeed")
    assert "does not go with ZeRO-3" in refused(path, *spread)
    load_recipe(path, [*spread, "parallel.zero=2"])
    quantised = ("model.language.quantize={kind: bnb}", "run.precision=bf16")
    assert "cannot spread quantised" in refused(path, *quantised, "parallel.engine=fsdp2")
    load_recipe(path, [*quantised, "parallel.engine=ddp"])
    cached = ("data.cache_features=true", "stages.1.train={towers: true}")
    assert "stage 'tune' trains the towers" in refused(path, *cached)


def test_overrides_apply_in_order_and_values_are_yaml(path: Path) -> None:
    recipe = load_recipe(
        path,
        [
            "run.seed=1",
            "run.seed=7",
            "stages.1.learning_rate=3e-4",
            "run.wandb=true",
            "data.sources.more={path: more.jsonl, weight: 0.5}",
            "model.connector={kind: linear}",
        ],
    )
    assert recipe.run.seed == 7
    assert recipe.stages[1].learning_rate == 3e-4
    assert recipe.run.wandb is True
    assert recipe.data.sources["more"].weight == 0.5
    assert recipe.model.connector.kind == "linear"


def test_a_value_may_contain_an_equals_sign(path: Path) -> None:
    assert load_recipe(path, ["stages.0.name=a=b"]).stages[0].name == "a=b"


def test_a_reference_copies_another_value(path: Path) -> None:
    recipe = load_recipe(path, ["stages.0.name=${run.folder}"])
    assert recipe.stages[0].name == "runs/x"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("modl.attention=causal", ["modl", "did you mean 'model'?"]),
        ("stages.0.step=3", ["stages.0.step", "did you mean 'steps'?"]),
        ("model.towers.0.pach=4", ["pach", "did you mean 'patch'?"]),
        ("model.connector.kind=mpl", ["model.connector", "mlp"]),
        ("stages.5.steps=3", ["'stages' is a list of 2", "from 0 to 1", "'5'"]),
        ("stages.first.steps=3", ["'stages' is a list of 2", "'first'"]),
        ("run.seed", ["key=value"]),
        ("run..seed=1", ["key=value"]),
        ("run.seed=[1", ["run.seed=[1", "not valid YAML"]),
        ("run.seed=many", ["run.seed", "many"]),
        ("run.seed.deep=1", ["run.seed"]),
        ("run.folder=${nowhere}", ["nowhere"]),
        ("stages=[]", ["stages"]),
        ("run.best=picture", ["run.best", "data.held_out", "did you mean 'pictures'?"]),
        ("stages.0.data={picture: 1}", ["stages.0.data", "did you mean 'pictures'?"]),
    ],
)
def test_a_wrong_override_is_explained(path: Path, override: str, words: list[str]) -> None:
    message = refused(path, override)
    for word in words:
        assert word in message


def test_a_wrong_item_does_not_make_its_list_too_short(path: Path) -> None:
    assert "at least 1 item" not in refused(path, "stages=[{name: a, steps: 1, step: 2}]")


def test_a_rule_over_several_parts_does_not_print_the_whole_recipe(path: Path) -> None:
    assert refused(path, "run.best=picture").startswith(f"{path}: run.best names 'picture'")
    assert refused(path, "stages.0.epochs=1").startswith(f"{path}: 'stages.0': stage 'align'")


def test_a_missing_part_is_named(path: Path) -> None:
    path.write_text(TEXT.replace("run: {folder: runs/x}", ""))
    assert "'run' is missing" in refused(path)


def test_a_yaml_error_names_its_line(path: Path) -> None:
    path.write_text("model:\n  towers: [\ndata: }\n")
    assert f"{path}, line 3" in refused(path)


def test_a_repeated_key_is_refused(path: Path) -> None:
    path.write_text(TEXT + "run: {folder: other}\n")
    assert "duplicate" in refused(path)


@pytest.mark.parametrize("text", ["", "- 1\n", "words\n", "\x00"])
def test_a_file_that_is_no_recipe_is_refused(path: Path, text: str) -> None:
    path.write_text(text)
    assert str(path) in refused(path)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert str(tmp_path) in refused(tmp_path)


def test_a_missing_file_suggests_its_neighbour(path: Path) -> None:
    assert "recipe.yaml'?" in refused(path.with_name("recipes.yaml"))


def test_saving_round_trips(path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(path)
    save_recipe(recipe, tmp_path / "deep" / "copy.yaml")
    assert load_recipe(tmp_path / "deep" / "copy.yaml") == recipe
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["copy.yaml"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A recipe as it is written, whose first stage gets another name."""
    path = tmp_path_factory.mktemp("plain") / "recipe.yaml"
    path.write_text(TEXT)
    return load_recipe(path).model_dump(mode="json")


@given(st.text(st.characters(codec="utf-8"), max_size=30) | st.from_regex(r"[\\${}a:. -]{1,12}"))
def test_any_text_round_trips(tmp_path: Path, plain: dict[str, Any], text: str) -> None:
    plain["stages"][0]["name"] = text
    recipe = validate(Recipe, plain, "test")
    save_recipe(recipe, tmp_path / "copy.yaml")
    assert load_recipe(tmp_path / "copy.yaml") == recipe


@pytest.mark.parametrize(
    "text",
    [
        "1e3",
        "true",
        "null",
        "~",
        "0x1f",
        "2024-01-01",
        "???",
        "${run.seed}",
        r"\${run.seed}",
        r"\\${run.seed}\\",
        r"\\${run.seed}",
        "end\\",
        r"$\${run.seed}\\",
    ],
)
def test_texts_that_look_like_other_values_round_trip(
    path: Path, plain: dict[str, Any], text: str
) -> None:
    plain["stages"][0]["name"] = text
    recipe = validate(Recipe, plain, "test")
    path.write_text(recipe_yaml(recipe))
    assert load_recipe(path).stages[0].name == text


def specs_of(kind: object, seen: set[type[BaseModel]]) -> set[type[BaseModel]]:
    """Every pydantic model that can stand somewhere inside ``kind``."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        if kind in seen:
            return seen
        seen.add(kind)
        for name, field in kind.model_fields.items():
            specs_of(field.annotation, seen)
            assert field.description, f"{kind.__name__}.{name} has no docstring"
        return seen
    for argument in get_args(kind):
        specs_of(argument, seen)
    return seen


def test_every_field_of_a_recipe_is_documented() -> None:
    specs = specs_of(Recipe, set())
    assert {"TransformersLanguage", "MlpConnector", "SmallTower", "ScheduleSpec"} <= {
        spec.__name__ for spec in specs
    }


def test_every_description_is_a_sentence_of_one_paragraph() -> None:
    for spec in specs_of(Recipe, set()):
        for name, field in spec.model_fields.items():
            text = field.description or ""
            assert text.endswith("."), f"{spec.__name__}.{name}: {text!r}"
            assert "\n\n" not in text, f"{spec.__name__}.{name}"


def test_the_schema_describes_the_fields() -> None:
    schema = recipe_schema()
    assert set(schema["properties"]) == set(Recipe.model_fields)
    assert schema["additionalProperties"] is False
    assert schema["properties"]["run"]["description"].startswith("The run folder")


@pytest.mark.parametrize("file", sorted(RECIPES.glob("*.yaml")), ids=lambda file: file.name)
def test_the_recipes_of_the_project_are_valid(file: Path) -> None:
    recipe = load_recipe(file)
    assert validate(Recipe, recipe.model_dump(mode="json"), "again") == recipe
