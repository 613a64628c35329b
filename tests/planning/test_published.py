"""Every published recipe, instantiated on the meta device and planned, against the papers."""

from functools import cache
from pathlib import Path

import pytest
from tests.oracles.planning import bigg_parameters, decoder_parameters

from triptych.images.count import image_tokens
from triptych.images.plan import plan_tiles
from triptych.planning.blueprint import draw
from triptych.planning.plan import Plan, plan
from triptych.planning.stage import GB, Hardware
from triptych.recipe import Recipe, load_recipe

FOLDER = Path(__file__).parents[2] / "recipes" / "published"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
SIGLIP_HEAD = 15_238_352
DECOUPLED_ROWS = 50_499


@cache
def recipe(name: str) -> Recipe:
    return load_recipe(FOLDER / f"{name}.yaml")


@cache
def planned(name: str) -> Plan:
    return plan(recipe(name), Hardware(gpus=64, memory=80 * GB))


def trained(name: str, stage: int = 0) -> int:
    return sum(planned(name).stages[stage].trains.values())


@pytest.mark.parametrize("name", NAMES)
def test_runs_on_80_gb(name: str) -> None:
    made = planned(name)
    assert made.fits, made.advice
    assert made.advice is None
    assert [stage.spec.name for stage in made.stages] == [s.name for s in recipe(name).stages]
    for stage in made.stages:
        assert stage.flops_per_sample > stage.workload.tokens * made.parts["language"]
        assert stage.largest_batch("fsdp2", 64, 80 * GB) >= stage.rows
        fewest = stage.fewest_gpus("fsdp2", 80 * GB)
        assert fewest is not None
        assert 1 <= fewest <= 64
        assert stage.memory("fsdp2", fewest).total <= 80 * GB


@pytest.mark.parametrize("name", NAMES)
def test_language_models_have_the_size_of_their_configs(name: str) -> None:
    parts = planned(name).parts
    language = parts["language"] + parts.get("embeddings", 0)
    assert language == decoder_parameters(draw(recipe(name).model).text)


@pytest.mark.parametrize(("size", "millions"), [("7b", 148), ("13b", 185), ("70b", 296)])
def test_visualchat_trains_projection_and_embeddings(size: str, millions: int) -> None:
    made = planned(f"visualchat-{size}")
    assert round(trained(f"visualchat-{size}") / 1e6) == millions
    assert set(made.stages[0].trains) == {"connector", "new_tokens", "embeddings"}
    assert made.parts["towers"] == bigg_parameters() == 1_917_784_832


def test_xgen_mm_has_the_published_counts() -> None:
    parts = planned("xgen-mm-4b").parts
    assert parts["connector"] == 109_901_568
    assert parts["towers"] == 428_225_600 - SIGLIP_HEAD
    assert parts["language"] == 3_821_130_051 - DECOUPLED_ROWS
    extra = parts["new_tokens"] + parts["tile_tokens"]
    assert trained("xgen-mm-4b", 2) == 3_931_031_619 - DECOUPLED_ROWS + extra


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("sphinx-x")])
def test_sphinx_x_joins_the_channels_of_two_towers(name: str) -> None:
    width = draw(recipe(name).model).text["hidden_size"]
    parts = planned(name).parts
    assert parts["connector"] == 4608 * width + 3 * width
    assert parts["tile_tokens"] == 3 * width
    assert 0.84e9 < parts["towers.0"] < 0.85e9
    assert 1.13e9 < parts["towers.1"] < 1.14e9


@pytest.mark.parametrize(
    ("name", "size", "tokens"),
    [
        ("visualchat-7b", (640, 480), 256),
        ("visualchat-70b", (100, 900), 256),
        ("visualchat-7b-clip", (640, 480), 257),
        ("xgen-mm-4b", (900, 900), 640),
        ("xgen-mm-4b", (768, 384), 384),
        ("sphinx-x-tiny", (700, 700), 1295),
        ("sphinx-x-intern2", (800, 400), 779),
        ("sphinx-x-moe", (800, 400), 779),
        ("deepstack-l-7b", (640, 640), 576),
        ("deepstack-l-13b", (100, 900), 576),
        ("deepstack-v-13b", (640, 480), 576),
        ("deepstack-l-hd-7b", (672, 672), 576 + 48 * 49),
        ("deepstack-l-hd-13b", (336, 1344), 576 + 96 * 25),
    ],
)
def test_images_cost_what_the_papers_say(name: str, size: tuple[int, int], tokens: int) -> None:
    panels = draw(recipe(name).model).panels
    tiles = plan_tiles(*size, panels.tile_size, panels.tiling, panels.zoom)
    assert image_tokens(tiles, panels.layout) == tokens


@pytest.mark.parametrize(
    ("name", "size", "passes"),
    [
        ("deepstack-l-7b", (672, 672), 5),
        ("deepstack-l-7b", (672, 336), 3),
        ("deepstack-l-7b", (1008, 336), 4),
        ("deepstack-l-hd-7b", (672, 672), 25),
        ("deepstack-v-7b", (672, 672), 5),
    ],
)
def test_deepstack_looks_again_as_often_as_published(
    name: str, size: tuple[int, int], passes: int
) -> None:
    panels = draw(recipe(name).model).panels
    assert plan_tiles(*size, panels.tile_size, panels.tiling, panels.zoom).tiles == passes


@pytest.mark.parametrize(("size", "width"), [("7b", 4096), ("13b", 5120)])
def test_deepstack_adds_no_parameters(size: str, width: int) -> None:
    parts = planned(f"deepstack-l-{size}").parts
    assert parts["connector"] == 1024 * width + width + width * width + width
    assert set(parts) == {"towers", "connector", "new_tokens", "language"}


def test_a_mixture_computes_with_two_of_its_eight_experts() -> None:
    dense, mixture = planned("sphinx-x-intern2"), planned("sphinx-x-moe")
    assert mixture.parts["language"] > 5 * dense.parts["language"]
    ratio = mixture.stages[0].flops_per_sample / dense.stages[0].flops_per_sample
    assert 1.2 < ratio < 2.2
