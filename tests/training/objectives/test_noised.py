from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.training.preferences import write_pairs
from tests.training.test_resume import run_recipe
from tests.training.tiny import recipe, stage

from triptych.cli.main import main
from triptych.data.readers import open_reader
from triptych.inference.engine import load_engine
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


def test_the_models_own_answers_to_noise_are_rejected(tmp_path: Path) -> None:
    run = run_recipe(recipe(tmp_path, (stage(steps=12, train={"language": "full"}),)))
    path = write_pairs(tmp_path / "data")
    reader, engine = open_reader(path), load_engine(run)
    records = [reader[index] for index in range(len(reader))]
    found = list(reject_noised(engine, records, step=900, max_new_tokens=4))
    assert 0 < len(found) <= sum(bool(one.images) for one in records)
    for one in found:
        assert one.images
        assert one.rejected not in ("", one.chosen)
        assert one.chosen == next(r for r in records if r.where == one.where).chosen
    out = tmp_path / "noised" / "pairs.jsonl"
    asked = ["--step", "900", "--max-new-tokens", "4"]
    assert main(["data", "noised", str(run), str(path), str(out), *asked]) == 0
    again = open_reader(out)
    assert [again[k].rejected for k in range(len(again))] == [one.rejected for one in found]
    stages = (stage("dpo", steps=2, objective={"kind": "dpo"}, train={"language": "full"}),)
    tuned = recipe(tmp_path / "2", stages, run={"start": run})
    source = {"noised": tuned.data.sources["a"].model_copy(update={"path": out})}
    run_recipe(tuned.model_copy(update={"data": tuned.data.model_copy(update={"sources": source})}))
