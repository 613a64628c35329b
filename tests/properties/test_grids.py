"""Any-resolution and square grids agree with slow oracles for every size of image."""

from typing import Any

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.oracles.crop import crop_slowly
from tests.oracles.tiling import (
    best_grid,
    canvas,
    empty_tiles,
    rows_by_llava,
    tokens_in_words,
    tokens_with_pixels,
)

from triptych.images import (
    AnyresTiling,
    GridTiling,
    Learned,
    TileLayout,
    TilePlan,
    TilingSpec,
    arrange,
    crop_tiles,
    image_tokens,
    padding_mask,
    plan_tiles,
)
from triptych.images.arrange import learned_tokens, shown, token_sources

SIDES = st.integers(1, 4000) | st.integers(1, 30)
TILE = st.sampled_from([1, 7, 64, 224, 336, 384])
GRIDS = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=6)


@st.composite
def specs(draw: st.DrawFn, **fixed: Any) -> TilingSpec:
    chosen: dict[str, Any] = {
        "fit": draw(st.sampled_from(["pad", "pad", "stretch"])),
        "anchor": draw(st.sampled_from(["centre", "corner"])),
        "overview": draw(st.sampled_from(["squash", "pad", "none"])),
        "edge": draw(st.sampled_from(["half", "any"])),
        "row_separator": draw(st.booleans()),
        "tile_tags": draw(st.booleans()),
        "unpad": draw(st.booleans()),
    } | fixed
    chosen["skip"] = fixed.get("skip") or draw(
        st.sampled_from(["none", "bare", "tagged"] if chosen["tile_tags"] else ["none", "bare"])
    )
    if not chosen["tile_tags"] and "order" not in fixed and draw(st.booleans()):
        chosen |= {"order": "rows", "skip": "none"}
    if draw(st.booleans()):
        return GridTiling(side=draw(st.integers(1, 4)), **chosen)
    more: dict[str, Any] = {"one_tile": draw(st.booleans())}
    more |= {"max_tiles": draw(st.integers(2, 12))} if draw(st.booleans()) else {}
    more |= {} if "max_tiles" in more else {"grids": tuple(draw(GRIDS))}
    return AnyresTiling(one_tile_overview=draw(st.booleans()), **more, **chosen)


@given(SIDES, SIDES, TILE, GRIDS, st.booleans())
@example(4000, 1, 384, [(1, 3), (3, 1)], False)
def test_the_grid_is_the_best_candidate(
    width: int, height: int, size: int, grids: list[tuple[int, int]], one: bool
) -> None:
    spec = AnyresTiling(grids=tuple(grids), one_tile=one)
    candidates = [(1, 1)] * one + grids
    assert plan_tiles(width, height, size, spec).grid == best_grid(width, height, size, candidates)


@given(SIDES, SIDES, st.sampled_from([1, 7, 16, 64]), specs())
@example(1, 4000, 16, GridTiling())
@example(2, 1, 16, GridTiling(side=4, skip="none"))
def test_skipped_tiles_are_those_without_a_pixel(
    width: int, height: int, size: int, spec: TilingSpec
) -> None:
    plan = plan_tiles(width, height, size, spec)
    empty = empty_tiles(plan)
    encoded = plan.grid[0] * plan.grid[1] - len(plan.views[-1].skipped)
    assert plan.tiles == encoded + (plan.overview is not None)
    if spec.skips != "none" or spec.unpad:
        assert plan.views[-1].skipped == empty
    else:
        assert not plan.views[-1].skipped
    assert canvas(plan, 0).any(), "the first view always shows something"
    if spec.fit == "stretch":
        assert not empty


@given(SIDES, SIDES, TILE, specs(), st.integers(1, 9), st.integers(0, 2))
def test_the_count_is_the_length_of_what_the_model_copies(
    width: int, height: int, size: int, spec: TilingSpec, side: int, prefix: int
) -> None:
    layout = TileLayout(side, side, 0 if spec.order == "rows" else prefix)
    plan = plan_tiles(width, height, size, spec)
    learned = learned_tokens(spec, layout)
    sources = token_sources(arrange(plan, layout), layout, learned, first_tile=2, tiles=90)
    assert image_tokens(plan, layout) == len(sources) > 0
    own = sources[sources < 90 * layout.tokens]
    assert len(set(own.tolist())) == len(own), "a token is copied once"
    assert own.min() >= 2 * layout.tokens
    assert own.max() < (2 + plan.tiles) * layout.tokens
    assert sources.max() < 90 * layout.tokens + len(learned)
    if not spec.unpad:
        assert len(own) == plan.tiles * layout.tokens


@given(SIDES, SIDES, TILE, specs(unpad=False), st.integers(1, 3))
def test_tokens_stand_in_the_order_of_the_definition(
    width: int, height: int, size: int, spec: TilingSpec, side: int
) -> None:
    layout = TileLayout(side, side, 0 if spec.order == "rows" else 1)
    plan = plan_tiles(width, height, size, spec)
    words = []
    for run in arrange(plan, layout):
        if run.tile is None:
            words.append(Learned(run.start).name.lower())
        else:
            words += [f"{run.tile}.{token}" for token in range(run.start, run.stop)]
    assert words == tokens_in_words(plan, layout, spec)


@given(SIDES, SIDES, st.sampled_from([7, 16, 64]), specs(edge="any"), st.integers(1, 7))
def test_the_mask_is_true_where_a_pixel_lies(
    width: int, height: int, size: int, spec: TilingSpec, side: int
) -> None:
    layout = TileLayout(side, side)
    plan = plan_tiles(width, height, size, spec)
    mask = padding_mask(plan, layout)
    tile = 0
    for number, view in enumerate(plan.views):
        expected = tokens_with_pixels(plan, layout, number)
        for row in range(view.grid[0]):
            for column in range(view.grid[1]):
                if row * view.grid[1] + column not in view.skipped:
                    part = expected[row * side : (row + 1) * side, column * side :][:, :side]
                    assert (mask[tile].reshape(side, side) == part).all()
                    tile += 1
    assert tile == plan.tiles


@given(SIDES, SIDES, TILE, specs(edge="half"), st.integers(1, 24))
def test_no_encoded_tile_is_masked_wholly(
    width: int, height: int, size: int, spec: TilingSpec, side: int
) -> None:
    plan = plan_tiles(width, height, size, spec)
    seen = padding_mask(plan, TileLayout(side, side)).any(1)
    encoded_anyway = spec.skips == "none" and not spec.unpad and spec.fit == "pad"
    assert seen.all() or encoded_anyway
    assert seen[0] or (plan.overview is None and encoded_anyway)


@given(SIDES, SIDES, st.sampled_from([168, 336]), GRIDS)
def test_centred_unpadding_is_that_of_llava_next(
    width: int, height: int, size: int, grids: list[tuple[int, int]]
) -> None:
    spec = AnyresTiling(grids=tuple(grids), unpad=True)
    layout = TileLayout(24, 24)
    plan = plan_tiles(width, height, size, spec)
    extent = shown(plan, plan.views[-1], layout, "half")
    down, across = plan.grid[0] * 24, plan.grid[1] * 24
    rows, columns = rows_by_llava(width, height, across, down)
    # Where nothing would be left, ours keeps what the image touches.
    assert extent.bottom - extent.top == (rows or extent.bottom - extent.top)
    assert extent.right - extent.left == (columns or extent.right - extent.left)
    assert not extent.empty


def _rebuild(tiles: np.ndarray, plan: TilePlan) -> np.ndarray:
    """The canvas of the grid from its tiles; skipped ones stay fill."""
    view, side = plan.views[-1], plan.size
    whole = np.empty((view.grid[0] * side, view.grid[1] * side, 3), dtype=np.uint8)
    whole[:] = plan.spec.fill
    tile = int(plan.overview is not None)
    for cell in range(view.grid[0] * view.grid[1]):
        if cell not in view.skipped:
            top, left = cell // view.grid[1] * side, cell % view.grid[1] * side
            whole[top : top + side, left : left + side] = tiles[tile].transpose(1, 2, 0)
            tile += 1
    assert tile == len(tiles)
    return whole


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 9), specs(), st.integers(0, 99))
def test_tiles_in_row_major_order_make_up_the_image(
    width: int, height: int, size: int, spec: TilingSpec, seed: int
) -> None:
    """xGen-MM's crops were raster strips that mixed columns."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    plan = plan_tiles(width, height, size, spec)
    tiles = crop_tiles(image, plan)
    assert tiles.shape == (plan.tiles, 3, size, size)
    view = plan.views[-1]
    expected = Image.new("RGB", (view.grid[1] * size, view.grid[0] * size), spec.fill)
    scaled = image.resize(view.scaled, Image.Resampling.BICUBIC)
    expected.paste(scaled, (view.left, view.top))
    np.testing.assert_array_equal(_rebuild(tiles, plan), np.asarray(expected))
    np.testing.assert_array_equal(tiles, crop_slowly(image, plan))
