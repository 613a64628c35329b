"""The verb that shows tilings, on the published recipes."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from triptych.cli.main import main

PUBLISHED = Path(__file__).parents[2] / "recipes" / "published"


@pytest.fixture
def photos(tmp_path: Path) -> list[str]:
    names = []
    for width, height in ((800, 400), (384, 384), (100, 300)):
        path = tmp_path / f"{width}x{height}.png"
        Image.new("RGB", (width, height), (20, 120, 220)).save(path)
        names.append(str(path))
    return names


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ("sphinx-x-tiny", [([2, 2], 3, 2, 779), ([2, 2], 5, 0, 1295), ([2, 2], 3, 2, 779)]),
        ("xgen-mm-4b", [([1, 2], 3, 0, 384), ([2, 1], 3, 0, 384), ([2, 1], 3, 0, 384)]),
        ("visualchat-7b", [([1, 1], 1, 0, 256)] * 3),
        ("visualchat-7b-clip", [([1, 1], 1, 0, 257)] * 3),
    ],
)
def test_json_needs_no_weights(
    recipe: str,
    expected: list[tuple[list[int], int, int, int]],
    photos: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["tiles", *photos, "--recipe", str(PUBLISHED / f"{recipe}.yaml"), "--json"]
    assert main(command) == 0
    entries = json.loads(capsys.readouterr().out)
    keys = ["path", "width", "height", "grid", "tiles", "skipped", "tokens"]
    assert [list(entry) for entry in entries] == [keys] * 3
    assert [entry["path"] for entry in entries] == photos
    assert (entries[0]["width"], entries[0]["height"]) == (800, 400)
    assert [tuple(entry[key] for key in keys[3:]) for entry in entries] == expected


def test_text_and_picture(
    photos: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "pictures" / "plan.png"
    recipe = str(PUBLISHED / "sphinx-x-tiny.yaml")
    assert main(["tiles", *photos, "--recipe", recipe, "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "800x400 pixels, 2 x 2 tiles of 512 and an overview, 2 skipped" in text
    assert "3 tiles encoded; visual tokens 779 = 3 x 257 + 3 start + 3 end + 2 skip" in text
    drawn = np.asarray(Image.open(out).convert("RGB"))
    assert (drawn == (20, 120, 220)).all(-1).mean() > 0.1, "the image itself is seen"
    assert (drawn == (122, 116, 104)).all(-1).mean() > 0.02, "and its padding"


DEEP = """
model:
  towers: [{kind: small, size: 64, patch: 16}]
  fusion: {kind: deepstack}
  language:
    kind: transformers
    config: {model_type: llama}
    tokenizer: {kind: train}
data: {sources: {a: {path: a.jsonl}}}
stages: [{name: one, steps: 1}]
run: {folder: runs/x}
"""


def test_finer_tiles_are_shown_and_cost_no_tokens(
    photos: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, out = tmp_path / "deep.yaml", tmp_path / "plan.png"
    recipe.write_text(DEEP)
    assert main(["tiles", *photos, "--recipe", str(recipe), "--json", "--out", str(out)]) == 0
    entries = json.loads(capsys.readouterr().out)
    found = [[one[key] for key in ("tiles", "in_sequence", "finer", "tokens")] for one in entries]
    assert found == [[3, 1, [[1, 2]], 16], [5, 1, [[2, 2]], 16], [4, 1, [[3, 1]], 16]]
    width = Image.open(out).width
    assert main(["tiles", photos[0], "--recipe", str(recipe)]) == 0
    text = capsys.readouterr().out
    assert "1 x 1 tiles of 64, looked at again in 1 x 2 tiles" in text
    assert "3 tiles encoded, 1 of them in the sequence; visual tokens 16 = 1 x 16" in text
    plain = tmp_path / "plain.yaml"
    plain.write_text(DEEP.replace("deepstack", "splice"))
    assert main(["tiles", *photos, "--recipe", str(plain), "--out", str(out)]) == 0
    assert Image.open(out).width < width, "the finer look is drawn beside the tile"


def test_mistakes_are_explained(
    photos: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = str(PUBLISHED / "sphinx-x-tiny.yaml")
    assert main(["tiles", str(tmp_path / "no.png"), "--recipe", recipe]) == 2
    assert "no.png: no such image file" in capsys.readouterr().err
    assert main(["tiles", photos[0], "--recipe", recipe, "--out", "plan.jpg"]) == 2
    assert "give a name that ends with .png" in capsys.readouterr().err
