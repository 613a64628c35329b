"""Qwen3-VL of transformers with the same weights: its vision encoder and its text model."""

from typing import Any

import pytest
import torch
from tests.towers.families import TINY
from torch import Tensor
from transformers import AutoConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionModel

from triptych.fusion.levels import LevelMerger
from triptych.images import TileLayout
from triptych.towers import BlockTower, TransformersTower

CONFIG = TINY["qwen3_vl_vision"]
SIDE, PATCH, OUT = 24, CONFIG["patch_size"], CONFIG["out_hidden_size"]
GRID = SIDE // PATCH


def vision(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    model = Qwen3VLVisionModel(AutoConfig.for_model(**CONFIG)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def their_patches(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Patches in the order of their processor: 2 x 2 blocks row by row, two equal frames."""
    rows = []
    for tile in pixels:
        for top in range(0, GRID, 2):
            for left in range(0, GRID, 2):
                for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
                    y, x = (top + row) * PATCH, (left + column) * PATCH
                    patch = tile[:, y : y + PATCH, x : x + PATCH]
                    rows.append(torch.stack([patch, patch], 1).flatten())
    return torch.stack(rows), torch.tensor([[1, GRID, GRID]] * len(pixels))


def in_rows(tokens: Tensor) -> Tensor:
    """Their tokens, block by block, to (T, P, D) row by row."""
    tiles = tokens.unflatten(0, (-1, GRID // 2, GRID // 2, 2, 2))
    return tiles.transpose(2, 3).flatten(1, 4)


def our_tower(theirs: Any, layer: int = -1) -> BlockTower:
    tower = TransformersTower(config=CONFIG, layer=layer).resolve().build().eval()
    assert isinstance(tower, BlockTower)
    weights = theirs.state_dict()
    tower.encoder.load_state_dict({key: weights[key] for key in tower.encoder.state_dict()})
    return tower


def our_mergers(theirs: Any) -> list[LevelMerger]:
    mergers = []
    for merger in theirs.deepstack_merger_list:
        own = LevelMerger(TileLayout(GRID, GRID), 2, CONFIG["hidden_size"], OUT)
        names = {"norm": "1", "linear_fc1": "2", "linear_fc2": "4"}
        given = merger.state_dict().items()
        own.load_state_dict({f"{names[k.split('.')[0]]}.{k.split('.')[1]}": v for k, v in given})
        mergers.append(own)
    return mergers


@torch.no_grad()
def test_the_tower_gives_their_tokens() -> None:
    theirs = vision()
    pixels = torch.randn(3, 3, SIDE, SIDE)
    expected = in_rows(theirs(*their_patches(pixels)).last_hidden_state)
    found = our_tower(theirs).encode(pixels)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


@torch.no_grad()
@pytest.mark.parametrize("layer", [-2, 1])
def test_a_tapped_layer_is_their_hidden_state(layer: int) -> None:
    theirs = vision()
    pixels = torch.randn(2, 3, SIDE, SIDE)
    states = theirs(*their_patches(pixels), output_hidden_states=True).hidden_states
    found = our_tower(theirs, layer).encode(pixels)
    torch.testing.assert_close(found, in_rows(states[layer]), rtol=0, atol=2e-5)


@torch.no_grad()
def test_merged_levels_are_their_deepstack_features() -> None:
    theirs = vision()
    tower = our_tower(theirs)
    tiles = torch.randint(0, 256, (3, 3, SIDE, SIDE), dtype=torch.uint8)
    patches, grids = their_patches(tower.normalise(tiles))
    expected = theirs(patches, grids).deepstack_features
    blocks = CONFIG["deepstack_visual_indexes"]
    _, *levels = tower.levels(tiles, blocks).split(tower.width, dim=-1)
    assert len(levels) == len(expected) == 2
    for level, merger, features in zip(levels, our_mergers(theirs), expected, strict=True):
        torch.testing.assert_close(merger(level).flatten(0, 1), features, rtol=0, atol=2e-5)
