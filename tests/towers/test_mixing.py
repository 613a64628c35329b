"""Towers of different grids, brought to one."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.oracles.connectors import align_grid

from triptych.connectors import LinearConnector
from triptych.errors import RecipeError
from triptych.images.layout import TileLayout
from triptych.model.configuration import Panels
from triptych.towers import TowerGrid, TransformersTower, align, common_layout

SIDES = st.integers(1, 6)


@given(SIDES, SIDES, SIDES, SIDES)
def test_alignment_equals_the_oracle(
    rows: int, columns: int, to_rows: int, to_columns: int
) -> None:
    tokens = torch.randn(2, rows * columns, 3)
    found = align(tokens, TileLayout(rows, columns), TileLayout(to_rows, to_columns))
    for tile in range(2):
        expected = align_grid(tokens[tile], rows, columns, to_rows, to_columns)
        assert torch.allclose(found[tile], expected, atol=1e-6)


def test_whole_ratios_repeat_and_average() -> None:
    """SPHINX repeats an 8 x 8 map to 16 x 16."""
    maps = torch.randn(1, 4, 5)
    larger = align(maps, TileLayout(2, 2), TileLayout(4, 4))
    repeated = maps.view(1, 2, 2, 5).repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert torch.equal(larger, repeated.flatten(1, 2))
    assert torch.allclose(align(larger, TileLayout(4, 4), TileLayout(2, 2)), maps)


def test_the_mean_stands_in_for_a_missing_cls() -> None:
    tokens = torch.randn(2, 4, 3)
    found = align(tokens, TileLayout(2, 2), TileLayout(4, 4, prefix=1))
    assert torch.allclose(found[:, 0], tokens.mean(1))
    assert torch.equal(found[:, 1:], align(tokens, TileLayout(2, 2), TileLayout(4, 4)))
    own = torch.randn(2, 5, 3)
    kept = align(own, TileLayout(2, 2, prefix=1), TileLayout(4, 4, prefix=1))
    assert torch.equal(kept[:, 0], own[:, 0])


@pytest.mark.parametrize(
    ("grid", "expected"), [("largest", (3, 3)), ("smallest", (1, 2)), (5, (5, 5))]
)
def test_the_common_grid(grid: TowerGrid, expected: tuple[int, int]) -> None:
    layouts = [TileLayout(2, 2, prefix=1), TileLayout(3, 3), TileLayout(1, 2)]
    assert common_layout(layouts, grid) == TileLayout(*expected, prefix=1)


def test_unequal_prefixes_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"\[1, 2\] prefix tokens"):
        common_layout([TileLayout(2, 2, prefix=1), TileLayout(2, 2, prefix=2)], "largest")


def test_sphinx_x_sees_257_tokens_of_4608_channels() -> None:
    """DINOv2-g/14 at 224 px and the trunk of CLIP ConvNeXt-XXL at 512 px, 16 x 16 each."""
    dino = {
        "model_type": "dinov2", "hidden_size": 1536, "num_hidden_layers": 40,
        "num_attention_heads": 24, "image_size": 518, "patch_size": 14, "use_swiglu_ffn": True,
    }  # fmt: skip
    convnext = {
        "model_type": "convnext", "hidden_sizes": [384, 768, 1536, 3072], "depths": [3, 4, 30, 3],
    }  # fmt: skip
    panels = Panels(
        towers=(
            TransformersTower(config=convnext, size=512).resolve(),
            TransformersTower(config=dino, size=224, cls="keep").resolve(),
        ),
        connector=LinearConnector(),
    )
    assert panels.tower_layout == TileLayout(16, 16, prefix=1)
    assert (panels.layout.tokens, panels.tower_width, panels.tile_size) == (257, 4608, 512)
    with torch.device("meta"):
        connector = panels.connector.build(panels.tower_layout, panels.tower_width, 2048)
    assert sum(p.numel() for p in connector.parameters()) == 4608 * 2048 + 2048 + 2 * 2048
