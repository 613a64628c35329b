"""The verb that plans."""

import json
from pathlib import Path

import pytest
from tests.planning.tiny import write_recipe

from triptych.cli.main import main

SMALL = ["--image", "40x30", "--text", "30", "--cpu"]


def test_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write_recipe(tmp_path / "recipe.yaml")
    command = ["plan", recipe, "--gpus", "2", "--gpu-memory", "1.5", *SMALL, "--json"]
    assert main(command) == 0
    made = json.loads(capsys.readouterr().out)
    assert list(made) == ["parameters", "stages", "memory_per_gpu", "fits", "advice"]
    assert list(made["parameters"]) == ["total", "trainable", "parts"]
    assert sum(made["parameters"]["parts"].values()) == made["parameters"]["total"]
    held = made["memory_per_gpu"]
    assert list(held) == ["weights", "gradients", "optimizer", "activations", "total"]
    total = held.pop("total")
    assert sum(held.values()) == pytest.approx(total)
    assert made["fits"] is True
    assert made["advice"] is None
    (stage,) = made["stages"]
    assert stage["engine"] == "ddp"
    assert stage["tokens_per_image"] == [16]
    assert stage["memory_per_gpu"]["ddp"]["total"] == pytest.approx(total)
    assert stage["memory_per_gpu"]["fsdp2"]["fewest_gpus"] == 1


def test_text_and_overrides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write_recipe(tmp_path / "recipe.yaml")
    limit = ["--gpu-memory", "0.0001"]
    assert main(["plan", recipe, "data.batch.samples=1", *limit, *SMALL]) == 0
    text = capsys.readouterr().out
    assert "an image of 40x30: 16 visual tokens from 1 tile(s)" in text
    assert "10 steps of 1 samples" in text
    assert "does not fit" in text
    assert "stage 'one' needs" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--image", "40"], "--image 40: write width and height as in 640x480"),
        (["--mfu", "40"], "--mfu 40: a share of the peak"),
        (["--text", "1"], "--text 1: a sample needs at least 2 tokens"),
    ],
)
def test_mistakes_are_explained(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", write_recipe(tmp_path / "recipe.yaml"), *options]) == 2
    assert message in capsys.readouterr().err
