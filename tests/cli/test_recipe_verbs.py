import json
from pathlib import Path

import pytest

from triptych.cli.main import main
from triptych.recipe import load_recipe

TEXT = """
model:
  towers: [{kind: small}]
  language:
    config: {model_type: llama}
    kind: transformers
    tokenizer: {kind: train}
data: {sources: {pictures: {path: nowhere.jsonl}}}
stages: [{name: align, steps: 5}]
run: {folder: runs/x}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(TEXT)
    return path


def test_show_prints_what_load_would_read(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recipe", "show", str(recipe), "run.seed=3"]) == 0
    shown = tmp_path / "shown.yaml"
    shown.write_text(capsys.readouterr().out)
    assert load_recipe(shown) == load_recipe(recipe, ["run.seed=3"])
    assert load_recipe(shown).run.seed == 3


def test_check_says_what_is_there(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipe", "check", str(recipe)]) == 0
    out = capsys.readouterr().out
    assert "valid" in out
    assert "data.sources.pictures is not there yet: nowhere.jsonl" in out


def test_check_refuses_with_2(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipe", "check", str(recipe), "stages.0.stps=3"]) == 2
    assert "did you mean 'steps'?" in capsys.readouterr().err


def test_schema_is_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipe", "schema"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert main(["recipe", "schema", "--out", str(tmp_path / "s.json")]) == 0
    assert json.loads((tmp_path / "s.json").read_text()) == printed
    assert printed["properties"]["stages"]["description"]
