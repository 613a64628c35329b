"""What the papers' models pay for an image, and what a tiling cannot be asked for."""

from typing import Any

import pytest

from triptych.errors import RecipeError
from triptych.images import (
    AnyresTiling,
    GridTiling,
    TileLayout,
    TilingSpec,
    image_tokens,
    padding_mask,
    plan_tiles,
)
from triptych.images.arrange import check_layout
from triptych.spec import validate

SPHINX = TileLayout(rows=16, columns=16, prefix=1)
LATENTS = TileLayout(rows=0, columns=0, prefix=128)
SIGLIP = TileLayout(rows=27, columns=27)


@pytest.mark.parametrize(
    ("size", "skip", "tokens"),
    [
        ((700, 700), "bare", 1295),
        ((800, 400), "bare", 3 * 259 + 2),
        ((800, 400), "tagged", 3 * 259 + 2 * 3),
        ((400, 800), "bare", 779),
        ((2001, 1000), "bare", 779),
        ((800, 400), "none", 1295),
    ],
)
def test_sphinx_x_at_two_by_two(size: tuple[int, int], skip: Any, tokens: int) -> None:
    plan = plan_tiles(*size, 224, GridTiling(tile_tags=True, skip=skip))
    assert plan.grid == (2, 2)
    assert image_tokens(plan, SPHINX) == tokens


@pytest.mark.parametrize(
    ("side", "anchor", "size", "skipped"),
    [
        (2, "corner", (200, 101), 0),
        (2, "corner", (200, 100), 2),
        (3, "corner", (300, 200), 3),
        (3, "corner", (300, 100), 6),
        (2, "centre", (4000, 20), 0),
        (3, "centre", (300, 101), 0),
        (3, "centre", (300, 100), 6),
    ],
)
def test_which_shapes_leave_whole_tiles_of_padding(
    side: int, anchor: Any, size: tuple[int, int], skipped: int
) -> None:
    """Centred padding leaves none at 2 x 2; so the published example must have used the corner."""
    plan = plan_tiles(*size, 200, GridTiling(side=side, anchor=anchor))
    assert plan.skipped == skipped
    assert plan.tiles == 1 + side * side - skipped


@pytest.mark.parametrize(
    ("size", "changes", "grid", "tokens"),
    [
        ((384, 384), {}, (2, 1), 384),
        ((384, 384), {"one_tile": True}, (1, 1), 128),
        ((384, 384), {"one_tile": True, "one_tile_overview": True}, (1, 1), 256),
        ((100, 100), {"one_tile": True}, (1, 1), 128),
        ((768, 384), {}, (1, 2), 384),
        ((900, 900), {}, (2, 2), 640),
        ((3000, 100), {}, (1, 3), 512),
        ((1536, 1152), {"max_tiles": 12}, (3, 4), 1664),
        ((1152, 1536), {"max_tiles": 12}, (4, 3), 1664),
    ],
)
def test_xgen_mm_pays_128_for_each_tile(
    size: tuple[int, int], changes: dict[str, Any], grid: tuple[int, int], tokens: int
) -> None:
    plan = plan_tiles(*size, 384, AnyresTiling(**changes))
    assert plan.grid == grid
    assert image_tokens(plan, LATENTS) == tokens


@pytest.mark.parametrize(
    ("size", "keys"), [((800, 421), [378, 378, 378, 378]), ((3000, 100), [81, 81, 81])]
)
def test_every_crop_of_xgen_mm_has_its_share_of_the_image(
    size: tuple[int, int], keys: list[int]
) -> None:
    """The published code gave 27, 729, 729, 27 and 0, 243, 0 keys: strips in place of crops."""
    plan = plan_tiles(*size, 384, AnyresTiling())
    assert padding_mask(plan, SIGLIP).sum(1).tolist() == [729, *keys]


def test_llava_next_pays_for_its_rows() -> None:
    spec = AnyresTiling(unpad=True, order="rows", row_separator=True, skip="none")
    plan = plan_tiles(672, 336, 336, spec)
    assert image_tokens(plan, TileLayout(24, 24)) == 576 + 24 * (48 + 1)
    plan = plan_tiles(1000, 100, 336, spec)
    assert image_tokens(plan, TileLayout(24, 24)) == 576 + 8 * (72 + 1)


def test_a_whole_image_costs_the_same_whatever_its_tiles() -> None:
    layout = TileLayout(0, 0, 128, whole_image=True)
    costs = {image_tokens(plan_tiles(w, 300, 384, GridTiling()), layout) for w in (9, 300, 4000)}
    assert costs == {128}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"kind": "anyres", "grids": [[1, 2]], "max_tiles": 4},
            "give grids or max_tiles, not both",
        ),
        ({"kind": "grid", "skip": "tagged"}, "skip 'tagged' needs tile_tags"),
        ({"kind": "grid", "order": "rows"}, "a skip token has no place; set skip: none"),
        ({"kind": "fixed", "order": "rows", "tile_tags": True}, "tile_tags have no place"),
        ({"kind": "anyres", "grids": [[0, 2]]}, "greater than 0"),
        ({"kind": "anyres", "max_tile": 4}, "did you mean 'max_tiles'"),
    ],
)
def test_contradictions_are_explained(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        validate(TilingSpec, fields, "recipe")


@pytest.mark.parametrize(
    ("fields", "layout", "message"),
    [
        ({"order": "rows", "skip": "none"}, SPHINX, "needs a grid of visual tokens"),
        ({"unpad": True}, LATENTS, "have no place in the image"),
        ({"tile_tags": True}, TileLayout(0, 0, 9, True), "tile_tags and row_separator have no"),
        ({"skip": "none"}, LATENTS, "would leave it nothing to see; set skip: bare"),
    ],
)
def test_tilings_must_fit_the_visual_tokens(
    fields: dict[str, Any], layout: TileLayout, message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        check_layout(GridTiling(**fields), layout, masks_padding=True)
    check_layout(GridTiling(fit="stretch", skip="none"), LATENTS, masks_padding=True)
