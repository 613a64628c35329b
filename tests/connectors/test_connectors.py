import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.oracles.connectors import pool
from tests.oracles.splice import fold_blocks
from torch import nn

from triptych.connectors import LinearConnector, MlpConnector, PixelShuffleConnector
from triptych.connectors.pixel_shuffle import PixelShuffle
from triptych.connectors.pool import Pooling, pool_blocks
from triptych.errors import RecipeError
from triptych.images.layout import TileLayout


@pytest.mark.parametrize(
    "spec",
    [LinearConnector(), LinearConnector(norm=False), MlpConnector(layers=3, input_norm=True)],
)
def test_token_wise_connectors_keep_the_layout(spec: LinearConnector | MlpConnector) -> None:
    tile = TileLayout(2, 3, prefix=1)
    assert spec.layout(tile) == tile
    assert spec.build(tile, 5, 8)(torch.randn(4, tile.tokens, 5)).shape == (4, tile.tokens, 8)


def test_mlp_has_the_asked_number_of_layers_with_gelu_between() -> None:
    modules = list(MlpConnector(layers=3).build(TileLayout(1, 1), 4, 6))
    assert [type(m) for m in modules] == [nn.Linear, nn.GELU, nn.Linear, nn.GELU, nn.Linear]


def test_linear_ends_in_a_layer_norm() -> None:
    out = LinearConnector().build(TileLayout(1, 1), 4, 6)(torch.randn(2, 1, 4))
    assert torch.allclose(out.mean(-1), torch.zeros(2, 1), atol=1e-6)


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))
def test_pixel_shuffle_equals_the_oracle(rows: int, columns: int, factor: int) -> None:
    features = torch.randn(2, rows * columns * factor**2, 3)
    found = PixelShuffle(rows * factor, columns * factor, factor)(features)
    assert torch.equal(found, fold_blocks(features, rows * factor, columns * factor, factor))


def test_pixel_shuffle_layout_is_what_it_makes() -> None:
    tile, spec = TileLayout(4, 6), PixelShuffleConnector(factor=2, input_norm=True)
    out = spec.build(tile, 5, 7)(torch.randn(3, tile.tokens, 5))
    assert out.shape == (3, spec.layout(tile).tokens, 7)


@pytest.mark.parametrize(
    ("tile", "said"),
    [(TileLayout(3, 4), "does not divide"), (TileLayout(4, 4, prefix=1), "cls: drop")],
)
def test_pixel_shuffle_refuses_grids_that_do_not_fit(tile: TileLayout, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        PixelShuffleConnector(factor=2).layout(tile)


@given(
    st.integers(1, 5), st.integers(1, 5), st.integers(0, 1), st.integers(1, 3),
    st.sampled_from(["mean", "max"]), st.booleans(), st.integers(0, 2**16),
)  # fmt: skip
def test_pooling_equals_the_oracle(
    rows: int, columns: int, prefix: int, side: int, how: Pooling, masked: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    tile = TileLayout(rows, columns, prefix)
    features = torch.randn(2, tile.tokens, 3, generator=generator)
    mask = torch.rand(2, tile.tokens, generator=generator) < 0.5
    found = pool_blocks(features, mask if masked else None, tile, side, how)
    layout = MlpConnector(pool=side).layout(tile)
    assert found.shape == (2, layout.tokens, 3)
    for number in range(2):
        kept = mask[number].tolist() if masked else [True] * tile.tokens
        expected = pool(
            features[number], kept, rows=rows, columns=columns, prefix=prefix, side=side, how=how
        )
        assert torch.allclose(found[number], expected, atol=1e-6)


def test_pooled_mlp_makes_fewer_tokens_and_odd_grids_round_up() -> None:
    tile, spec = TileLayout(3, 4, prefix=1), MlpConnector(pool=2, pooling="max")
    assert spec.layout(tile) == TileLayout(2, 2, prefix=1)
    assert spec.layout(TileLayout(27, 27)).tokens == 196
    module = spec.build(tile, 5, 7)
    features = torch.randn(3, tile.tokens, 5)
    pooled = pool_blocks(features, None, tile, 2, "max")
    assert torch.equal(module(features), module.mlp(pooled))
