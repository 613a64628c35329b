"""Groups of finer tiles: parted without loss, aligned with the tokens in the sequence."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.oracles.crop import crop_slowly
from tests.oracles.deepstack import groups_of
from tests.oracles.tiling import tokens_with_pixels
from tests.properties.test_grids import specs

from triptych.images import (
    FixedTiling,
    TileLayout,
    TilePlan,
    TilingSpec,
    Zoom,
    arrange,
    crop_tiles,
    image_tokens,
    padding_mask,
    plan_tiles,
)
from triptych.images.groups import NOTHING, Sampler, arrange_groups, sample_mosaic, tile_groups

FACTOR = st.tuples(st.integers(1, 4), st.integers(1, 4))
SIDES = st.integers(1, 4000) | st.integers(1, 30)
SAMPLERS: list[Sampler] = ["2d", "1d", "grid"]


@st.composite
def zooms(draw: st.DrawFn) -> Zoom:
    of = draw(st.sampled_from(["overview", "tiles"]))
    few = 1 if of == "tiles" else 4
    grids = draw(st.lists(FACTOR, min_size=1, max_size=few))
    fit = "stretch" if of == "tiles" else draw(st.sampled_from(["stretch", "pad"]))
    return Zoom(of=of, grids=tuple(grids), fit=fit)


@st.composite
def tilings(draw: st.DrawFn) -> TilingSpec:
    if draw(st.booleans()):
        return draw(specs())
    fit: Any = draw(st.sampled_from(["stretch", "pad", "crop"]))
    return FixedTiling(fit=fit, unpad=draw(st.booleans()))


def mosaic_of(factor: tuple[int, int], layout: TileLayout) -> torch.Tensor:
    """Every cell is the number of its token, tile by tile: (down * R, across * C, 1)."""
    numbers = torch.arange(factor[0] * factor[1] * layout.tokens).view(*factor, layout.tokens)
    grids = numbers[..., layout.prefix :].unflatten(-1, (layout.rows, layout.columns))
    return torch.cat([torch.cat(list(line), 1) for line in grids], 0)[..., None]


@given(FACTOR, st.integers(1, 5), st.integers(1, 5), st.integers(0, 2))
def test_samplers_equal_their_definition_and_can_be_undone(
    factor: tuple[int, int], rows: int, columns: int, prefix: int
) -> None:
    layout = TileLayout(rows, columns, prefix)
    mosaic = mosaic_of(factor, layout)
    for sampler in SAMPLERS:
        found = sample_mosaic(factor, layout, sampler)
        own = found[:, prefix:]
        wanted = [group.flatten().tolist() for group in groups_of(mosaic, *factor, sampler)]
        assert own.tolist() == wanted
        back = np.full(own.size + factor[0] * factor[1] * prefix, NOTHING)
        back[own.flatten()] = np.arange(own.size)
        assert (np.sort(back[back >= 0]) == np.arange(own.size)).all(), "every token once"
        if sampler == "grid":
            assert (found == np.arange(found.size).reshape(found.shape)).all()
        else:
            assert (found[:, :prefix] == NOTHING).all()


@given(FACTOR, st.integers(1, 6), st.integers(1, 6))
def test_two_dimensional_sampling_is_the_published_view_and_permutation(
    factor: tuple[int, int], rows: int, columns: int
) -> None:
    down, across = factor
    mosaic = mosaic_of(factor, TileLayout(rows, columns))
    parts = mosaic.view(rows, down, columns, across, 1).permute(1, 3, 0, 2, 4)
    found = sample_mosaic(factor, TileLayout(rows, columns), "2d")
    assert found.tolist() == parts.reshape(down * across, -1).tolist()


def places(plan: TilePlan, side: int) -> list[tuple[int, int, int]]:
    """For each token of each encoded tile: its view, and its row and column in that view."""
    found = []
    for number, view in enumerate(plan.all_views):
        rows, columns = view.grid
        for cell in range(rows * columns):
            if cell not in view.skipped:
                top, left = cell // columns * side, cell % columns * side
                found += [(number, top + r, left + c) for r in range(side) for c in range(side)]
    return found


@given(SIDES, SIDES, st.sampled_from([7, 64, 336]), tilings(), zooms(), st.integers(1, 5))
def test_two_dimensional_groups_show_what_their_token_shows(
    width: int, height: int, size: int, spec: TilingSpec, zoom: Zoom, side: int
) -> None:
    layout = TileLayout(side, side)
    plan = plan_tiles(width, height, size, spec, zoom)
    most = max(rows * columns for rows, columns in zoom.grids)
    groups = tile_groups(plan, layout, "2d", most + 1)
    where, seen = places(plan, side), []
    zoomed = [number for number, one in enumerate(plan.zooms) if one is not None]
    for tile, own in enumerate(groups):
        for group, row in enumerate(own):
            for token, place in enumerate(row):
                if place == NOTHING:
                    continue
                seen.append(place)
                view, top, left = where[tile * side * side + token]
                finer, below, right = where[place]
                one = plan.zooms[view]
                assert one is not None
                assert finer == len(plan.views) + zoomed.index(view)
                down, across = (
                    a // b for a, b in zip(one.grid, plan.views[view].grid, strict=True)
                )
                assert (below // down, right // across) == (top, left)
                assert (below % down) * across + right % across == group
    assert len(set(seen)) == len(seen), "a finer token is added once"
    if not any(view.skipped for view in plan.views):
        tokens = side * side
        assert sorted(seen) == list(range(plan.in_sequence * tokens, plan.tiles * tokens))
    assert (groups[:, most:] == NOTHING).all()


@given(SIDES, SIDES, st.sampled_from([7, 64, 336]), tilings(), zooms(), st.integers(1, 5))
def test_a_zoom_changes_nothing_in_the_sequence(
    width: int, height: int, size: int, spec: TilingSpec, zoom: Zoom, side: int
) -> None:
    layout = TileLayout(side, side)
    plain, plan = plan_tiles(width, height, size, spec), plan_tiles(width, height, size, spec, zoom)
    assert image_tokens(plan, layout) == image_tokens(plain, layout)
    assert plan.in_sequence == plain.tiles == plain.in_sequence
    assert plan.windows[: plain.tiles] == plain.windows
    assert (padding_mask(plan, layout)[: plain.tiles] == padding_mask(plain, layout)).all()
    runs = arrange(plan, layout)
    arranged = arrange_groups(runs, tile_groups(plan, layout, "1d", 16))
    assert arranged.shape == (16, image_tokens(plan, layout))
    learned = [run.tile is None for run in runs for _ in range(run.start, run.stop)]
    assert (arranged[:, learned] == NOTHING).all()


@given(SIDES, SIDES, st.sampled_from([7, 64, 336]), tilings(), zooms(), st.integers(1, 7))
def test_the_mask_of_finer_tiles_is_true_where_the_image_lies(
    width: int, height: int, size: int, spec: TilingSpec, zoom: Zoom, side: int
) -> None:
    layout = TileLayout(side, side)
    plan = plan_tiles(width, height, size, spec, zoom)
    mask = padding_mask(plan, layout)
    assert mask[plan.in_sequence :].any(1).all(), "what is all padding is not encoded"
    if spec.edge != "any":
        return
    flat = replace(plan, views=plan.all_views, zooms=())
    canvases = [tokens_with_pixels(flat, layout, n) for n in range(len(flat.views))]
    for token, (view, row, column) in enumerate(places(plan, side)):
        assert mask.flatten()[token] == canvases[view][row, column]


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(2, 6), tilings(), zooms())
def test_finer_tiles_are_cut_out_of_the_image_itself(
    width: int, height: int, size: int, spec: TilingSpec, zoom: Zoom
) -> None:
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    plan = plan_tiles(width, height, size, spec, zoom)
    tiles = crop_tiles(image, plan)
    assert len(tiles) == plan.tiles
    np.testing.assert_array_equal(tiles, crop_slowly(image, plan))
