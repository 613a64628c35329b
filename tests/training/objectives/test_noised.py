from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.training.preferences import write_pairs
from tests.training.test_resume import run_recipe
from tests.training.tiny import recipe, stage

from triptych.cli.main import main
from triptych.data.readers import open_reader
from triptych.images.decode import open_image
from triptych.training.objectives.noised import kept_signal, noise_image, reject_noised


def test_noise_grows_with_the_step() -> None:
    image = Image.new("RGB", (64, 64), (200, 100, 50))
    original = np.asarray(image, dtype=float)
    far = [
        np.abs(np.asarray(noise_image(image, step, 0)) - original).mean() for step in (1, 500, 999)
    ]
    assert far[0] < 2
    assert far[0] < far[1] < far[2]
    assert kept_signal(500) == pytest.approx(0.7467, abs=1e-4)
    assert kept_signal(1000) == pytest.approx(0.0812, abs=1e-4)
    assert np.array_equal(noise_image(image, 500, 3), noise_image(image, 500, 3))
    assert not np.array_equal(noise_image(image, 500, 3), noise_image(image, 500, 4))


class Says:
    """An engine that gives the same answers in turn, and keeps what it was asked."""

    def __init__(self, *answers: str) -> None:
        self.answers, self.prompts = answers, []  # type: ignore[var-annotated]

    def answer(self, prompts: list[Any], _: Any) -> list[str]:
        self.prompts += prompts
        return [self.answers[k % len(self.answers)] for k in range(len(prompts))]


def test_the_models_own_answers_to_noise_are_rejected(tmp_path: Path) -> None:
    path = write_pairs(tmp_path / "data")
    reader = open_reader(path)
    records = [reader[index] for index in range(len(reader))]
    engine = Says("red", " mauve ", "")
    found = list(reject_noised(engine, records, step=900))  # type: ignore[arg-type]
    asked = [one for one in records if one.images]
    assert len(engine.prompts) == len(asked) < len(records)
    expected = [
        (one.where, one.chosen, ("red", "mauve", "")[k % 3])
        for k, one in enumerate(asked)
        if ("red", "mauve", "")[k % 3] not in ("", one.chosen)
    ]
    assert [(one.where, one.chosen, one.rejected) for one in found] == expected
    shown = engine.prompts[0][0]["content"][0]["image"]
    clean = open_image(asked[0].images[0].location)
    assert np.abs(np.asarray(shown, dtype=float) - np.asarray(clean, dtype=float)).mean() > 40
    assert engine.prompts[0][-1]["content"][1]["text"] == asked[0].messages[-1].text


def test_a_model_without_answers_leaves_no_preference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """After so few steps the model says nothing at all."""
    run = run_recipe(recipe(tmp_path, (stage(steps=12, train={"language": "full"}),)))
    path, out = write_pairs(tmp_path / "data"), tmp_path / "noised" / "pairs.jsonl"
    assert main(["data", "noised", str(run), str(path), str(out), "--max-new-tokens", "4"]) == 2
    assert "no preference is left" in capsys.readouterr().err
    assert not out.exists()
