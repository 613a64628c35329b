"""Stages that cut images in different ways, with contexts and budgets of their own."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tests.training.objectives.test_dpo_runs import stop_after
from tests.training.test_resume import assert_same_run, run_recipe, sources
from tests.training.tiny import build, data_spec, entries, model_spec, recipe, stage

from triptych.data.spec import SourceSpec
from triptych.errors import DataError, RecipeError
from triptych.images.tiling import AnyresTiling, FixedTiling, GridTiling
from triptych.inference.engine import load_engine
from triptych.inference.sampling import SamplingSpec
from triptych.model.build import load_pretrained, load_processor
from triptych.model.spec import ModelSpec
from triptych.model.tilings import learn_tilings, use_tiling, with_tiling
from triptych.recipe import Recipe

GRID = {"kind": "grid", "side": 2, "row_separator": True, "overview": "squash", "skip": "bare"}
WIDE = {"tokens": 1024, "tiles": 64, "per_step": 2}
STAGES = (
    stage("base", steps=2),
    stage("high", steps=3, tiling=GRID, max_tokens=256, batch=WIDE, train={"language": "full"}),
)


def two_tilings(folder: Path, **fields: Any) -> Recipe:
    return recipe(folder, fields.pop("stages", STAGES), model=model_spec(), **fields)


def test_each_stage_sees_its_own_tiles(tmp_path: Path) -> None:
    run = run_recipe(two_tilings(tmp_path, run={"evaluate_every": 1, "samples": 2}))
    processor, start = load_processor(run / "model"), load_processor(run / "start")
    assert start.settings.tiling == FixedTiling()
    assert processor.settings.tiling == GridTiling(**{**GRID, "kind": "grid"})
    before, after = start.count(16, 16), processor.count(16, 16)
    assert (before, after) == (4, 4 + 4 * 4 + 2)  # overview, four tiles, two separators
    low, high = ([e for e in entries(run) if e["stage"] == name] for name in ("base", "high"))
    per_image = [
        sum(e["tokens_per_second"] for e in some) / sum(e["images_per_second"] for e in some)
        for some in (low, high)
    ]
    assert per_image[1] > per_image[0] + 10
    assert all(
        e["tokens"] == entries(run, "held_out")[0]["tokens"] for e in entries(run, "held_out")
    )

    model, _ = load_pretrained(run / "model")
    assert model.config.parse_panels().tiling == processor.settings.tiling
    first = load_file(run / "start" / "model.safetensors")["tile_tokens.weight"]
    assert model.tile_tokens.weight is not None
    assert not torch.equal(model.tile_tokens.weight, first)
    question = [
        {"role": "user", "content": [{"type": "image", "image": Image.new("RGB", (40, 9))}]}
    ]
    (said,) = load_engine(run).respond([question], SamplingSpec(max_new_tokens=2))
    assert said.prompt_tokens > processor.count(40, 9)


def test_a_run_over_two_tilings_is_resumed_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"checkpoint_every": 1, "keep": 1}
    whole = run_recipe(two_tilings(tmp_path / "whole", run=settings))
    shared = {"sources": sources(tmp_path / "whole")}
    for stop in (1, 3):
        made = two_tilings(tmp_path / f"{stop}", run=settings, data=shared)
        stop_after(monkeypatch, made, stop)
        run_recipe(made, resume=made.run.folder)
        assert_same_run(made.run.folder, whole)


def test_cached_features_are_kept_for_each_tiling(tmp_path: Path) -> None:
    plain = run_recipe(two_tilings(tmp_path / "plain"))
    cached = run_recipe(two_tilings(tmp_path / "cached", data={"cache_features": True}))
    assert len(list(cached.glob("features*/index.json"))) == 2
    found, expected = ([e["loss"] for e in entries(run)] for run in (cached, plain))
    assert found == pytest.approx(expected, rel=1e-3)  # features are kept in 16 bits


def test_a_stage_measures_only_its_own_sources(tmp_path: Path) -> None:
    """A source that is too long for one stage is no error if another one reads it."""
    plain = data_spec(tmp_path / "data")
    long = SourceSpec(path=plain.sources["b"].path)
    stages = (
        stage("short", steps=1, data={"a": 1}),
        stage("long", steps=1, data={"a": 0, "long": 1}, max_tokens=128),
    )
    made = two_tilings(
        tmp_path,
        stages=stages,
        data={"sources": {"a": plain.sources["a"], "long": long}, "max_tokens": 60},
    )
    lines = long.path.read_text().splitlines()
    long.path.write_text("\n".join(line.replace("Colour?", "Colour? " * 10) for line in lines))
    run_recipe(made)
    both = tuple(one.model_copy(update={"data": None}) for one in stages)
    made = made.model_copy(update={"stages": both})
    with pytest.raises(DataError, match="more than max_tokens 60"):
        run_recipe(
            made.model_copy(update={"run": made.run.model_copy(update={"folder": tmp_path / "x"})})
        )


def test_learning_tilings_keeps_what_the_model_knows(tmp_path: Path) -> None:
    model, processor, _ = build(tmp_path)
    tags = AnyresTiling(tile_tags=True, skip="none", one_tile=True)
    first, second = GridTiling(row_separator=True), tags
    learn_tilings(model, [first], seed=1)
    assert model.tile_tokens.weight is not None
    kept = {t: model.tile_tokens.weight[k].clone() for k, t in enumerate(model.tile_tokens.learned)}
    learn_tilings(model, [second, first], seed=2)
    learn_tilings(model, [second], seed=3)
    assert len(model.tile_tokens.learned) == 4
    for token, row in kept.items():
        place = model.tile_tokens.learned.index(token)
        assert torch.equal(model.tile_tokens.weight[place], row)
    for tiling in (first, second, FixedTiling()):
        use_tiling(model, tiling)
        cut = with_tiling(processor, tiling)
        text = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "hm"}]}]
        batch = cut.collate(
            [cut.encode(text, [(40, 16)])], [[cut.tiles(Image.new("RGB", (40, 16)))]]
        )
        assert model(**batch).logits.shape[1] > cut.count(40, 16)
        model.save_pretrained(tmp_path / "saved")
        cut.save_pretrained(tmp_path / "saved")
        again, same = load_pretrained(tmp_path / "saved")
        assert torch.equal(again(**batch).logits, model(**batch).logits)
        assert same.settings.tiling == tiling
    with pytest.raises(RecipeError, match="does not know the tiling"):
        use_tiling(model, GridTiling(side=3))


def test_a_run_starts_from_the_model_of_another(tmp_path: Path) -> None:
    first = run_recipe(recipe(tmp_path / "1", (stage(steps=2),)))
    second = recipe(tmp_path / "2", (stage(steps=1),), run={"start": first})
    tiled = second.model.model_copy(
        update={"tiling": AnyresTiling(row_separator=True, grids=((1, 1), (1, 2)))}
    )
    run_recipe(second.model_copy(update={"model": tiled}))
    trained = load_file(first / "model" / "model.safetensors")
    began = load_file(second.run.folder / "start" / "model.safetensors")
    added = began.keys() - trained.keys()
    assert added == {"tile_tokens.weight"}
    assert all(torch.equal(trained[name], began[name]) for name in trained)
    other = ModelSpec.model_validate({**second.model.model_dump(), "connector": {"kind": "linear"}})
    run = second.run.model_copy(update={"folder": tmp_path / "3"})
    with pytest.raises(RecipeError, match="has connector"):
        run_recipe(second.model_copy(update={"model": other, "run": run}))
