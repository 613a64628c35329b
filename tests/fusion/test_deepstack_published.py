"""What DeepStack-V of the paper pays for an image: 576 tokens, whatever it looks at."""

from pathlib import Path

import pytest

from triptych.errors import RecipeError
from triptych.images import image_tokens, plan_tiles
from triptych.model.configuration import Panels
from triptych.recipe import load_recipe
from triptych.training.tuning import TunedPartSpec

PUBLISHED = Path(__file__).parents[2] / "recipes" / "published"


@pytest.fixture(scope="module")
def panels() -> Panels:
    model = load_recipe(PUBLISHED / "deepstack-v-7b.yaml").model
    towers = tuple(tower.model_copy(update={"source": None}).resolve() for tower in model.towers)
    return Panels(
        towers=towers, connector=model.connector, tiling=model.tiling, fusion=model.fusion
    )


@pytest.mark.parametrize(
    ("size", "grid", "effective"),
    [
        ((672, 672), (2, 2), 2880),
        ((1000, 1000), (2, 2), 2880),
        ((672, 336), (1, 2), 1728),
        ((1008, 336), (1, 3), 2304),
        ((336, 1008), (3, 1), 2304),
        ((1344, 336), (1, 4), 2880),
    ],
)
def test_context_effective_tokens_and_passes(
    panels: Panels, size: tuple[int, int], grid: tuple[int, int], effective: int
) -> None:
    plan = plan_tiles(*size, panels.tile_size, panels.tiling, panels.zoom)
    assert plan.zooms[0] is not None
    assert plan.zooms[0].grid == grid
    assert image_tokens(plan, panels.layout) == 576
    assert plan.tiles == 1 + grid[0] * grid[1]
    assert plan.tiles * panels.layout.tokens == effective


def test_four_groups_arrive_before_the_tapped_layer(panels: Panels) -> None:
    (tower,) = panels.towers
    assert tower.enterable == 23
    later = {"layers": [20, 21, 22, 23], "producer": {"kind": "tower"}, "kind": "deepstack"}
    with pytest.raises(RecipeError, match=r"before block 23 .* has 23 blocks, 0 to 22"):
        _ = Panels.model_validate(panels.model_dump(mode="json") | {"fusion": later}).layout


def test_the_tower_has_its_published_rate() -> None:
    captions, instructions = load_recipe(PUBLISHED / "deepstack-v-7b.yaml").stages
    assert captions.train.towers == TunedPartSpec(mode="frozen")
    assert instructions.train.towers == TunedPartSpec(mode="full", learning_rate=2e-6)
    assert instructions.learning_rate == 2e-5
