"""What deepstack and channels say of themselves, and what is refused when a recipe is read."""

from typing import Any

import pytest
import torch
from tests.fusion.deep import make_spec
from tests.model.tiny import TEXTS

from triptych.errors import RecipeError
from triptych.fusion import ChannelFusion, DeepStackFusion
from triptych.fusion.deepstack import AddGroup, StackInputs
from triptych.images import FixedTiling, Zoom, plan_tiles
from triptych.model.build import initialise

ALL = ((1, 2), (1, 3), (1, 4), (2, 1), (2, 2), (3, 1), (4, 1))


def test_defaults_are_those_of_the_release() -> None:
    fusion = DeepStackFusion()
    assert fusion.places == (1, 2, 3, 4)
    assert fusion.zoom == Zoom(of="overview", grids=ALL, fit="stretch")
    assert ChannelFusion().finer() == fusion.zoom
    assert DeepStackFusion.model_validate({"producer": {"kind": "repeat"}}).zoom is None


@pytest.mark.parametrize(
    ("fields", "places"),
    [
        ({"start": 0}, (0, 1, 2, 3)),
        ({"start": 2, "interval": 3, "count": 2}, (2, 5)),
        ({"layers": [0, 7, 9]}, (0, 7, 9)),
    ],
)
def test_layers_of_the_groups(fields: dict[str, Any], places: tuple[int, ...]) -> None:
    assert DeepStackFusion.model_validate(fields).places == places


def test_every_tile_is_cut_in_the_largest_square_that_has_layers() -> None:
    hd = {"kind": "mosaic", "of": "tiles"}
    for count, side in ((4, 2), (8, 2), (9, 3), (1, 1)):
        zoom = DeepStackFusion.model_validate({"count": count, "producer": hd}).zoom
        assert zoom is not None
        assert zoom.grids == ((side, side),)


@pytest.mark.parametrize(
    ("size", "grid"),
    [((1344, 672), (1, 2)), ((672, 1344), (2, 1)), ((2000, 2000), (2, 2)), ((3000, 300), (1, 4)),
     ((1000, 336), (1, 3)), ((100, 100), (1, 2))],
)  # fmt: skip
def test_the_grid_is_chosen_by_the_effective_resolution(
    size: tuple[int, int], grid: tuple[int, int]
) -> None:
    plan = plan_tiles(*size, 336, FixedTiling(), DeepStackFusion().zoom)
    assert plan.zooms[0].grid == grid
    assert plan.tiles == 1 + grid[0] * grid[1]
    assert plan.zooms[0].scaled == (336 * grid[1], 336 * grid[0])


def test_padding_keeps_the_shape_of_the_image() -> None:
    zoom = Zoom(of="overview", grids=((2, 2), (1, 4)), fit="pad")
    view = plan_tiles(900, 600, 300, FixedTiling(), zoom).zooms[0]
    assert (view.grid, view.scaled, view.left, view.top) == ((2, 2), (600, 400), 0, 100)
    plan = plan_tiles(9000, 90, 300, FixedTiling(), Zoom(of="overview", grids=((3, 3),), fit="pad"))
    assert plan.zooms[0].skipped == {0, 1, 2, 6, 7, 8}
    assert plan.tiles == 1 + 3


def test_a_padded_overview_is_magnified_with_its_padding() -> None:
    zoom = Zoom(of="overview", grids=((2, 2),), fit="stretch")
    plan = plan_tiles(800, 200, 100, FixedTiling(fit="pad"), zoom)
    assert (plan.views[0].scaled, plan.views[0].top) == ((100, 25), 37)
    assert (plan.zooms[0].scaled, plan.zooms[0].top) == ((200, 50), 74)


def test_a_group_is_added_where_it_stands() -> None:
    stacks = torch.arange(24.0).view(1, 2, 3, 4)
    inputs = StackInputs(stacks.unbind(1))
    hidden = torch.ones(1, 3, 4)
    assert torch.equal(AddGroup(1)(hidden, inputs, 5), 1 + stacks[:, 1])
    assert torch.equal(hidden, torch.ones(1, 3, 4)), "not in place"


def mosaic(**fields: Any) -> dict[str, Any]:
    return {"kind": "deepstack", "producer": {"kind": "mosaic", **fields}}


REFUSED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"kind": "deepstack", "layers": [2, 1]}, {}, r"layers \[2, 1\] have to rise"),
    ({"kind": "deepstack", "layers": [1, 1]}, {}, "have to rise"),
    ({"kind": "deepstack", "start": 4}, {}, r"before decoder layer 7, but .* has 5 .*0 to 4"),
    (mosaic(grids=[[2, 3]]), {}, "2 x 3 tiles makes 6 groups, more than the 4 that have a layer"),
    ({"kind": "channels", "count": 3, "grids": [[2, 2]]}, {}, "makes 4 groups, more than the 3"),
    ({"kind": "deepstack", "count": 1}, {}, r"give grids: \[\[1, 1\]\]"),
    (mosaic(of="tiles", grids=[[1, 2], [2, 1]]), {}, "give one grid and fit: stretch"),
    (mosaic(of="tiles", fit="pad"), {}, "give one grid and fit: stretch"),
    (mosaic(fit="pad"), {"tiling": {"kind": "fixed", "fit": "crop"}}, "leaves its sides out"),
    (mosaic(), {"tiling": {"kind": "anyres", "overview": "none"}}, "tiling.overview is 'none'"),
    (mosaic(), {"connector": {"kind": "perceiver"}}, "sampler '2d' joins .* set sampler: grid"),
    (mosaic(sampler="1d"), {"connector": {"kind": "qformer"}}, "sampler '1d' joins"),
    (mosaic(sampler="grid"), {"connector": {"kind": "perceiver", "sampling": "whole_image"}},
     "samples whole images.* set model.connector.sampling: per_tile"),
    ({"kind": "channels"}, {"tiling": {"kind": "grid", "overview": "none"}},
     "model.fusion: of 'overview' zooms"),
]  # fmt: skip


@pytest.mark.parametrize(("fusion", "changes", "message"), REFUSED)
def test_what_cannot_work_is_refused_when_the_recipe_is_read(
    fusion: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_spec(fusion, **changes)


def test_layers_that_only_the_language_model_knows_are_checked_when_it_is_built() -> None:
    spec = make_spec({"kind": "deepstack"})
    config = {k: v for k, v in (spec.language.config or {}).items() if k != "num_hidden_layers"}
    language = spec.language.model_copy(update={"config": config | {"num_hidden_layers": 3}})
    with pytest.raises(RecipeError, match=r"before decoder layer 4, but .* has 3 decoder layers"):
        initialise(spec.model_copy(update={"language": language}), texts=TEXTS)
