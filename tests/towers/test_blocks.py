"""Towers whose blocks run apart, and whose inner states are tapped."""

import pytest
import torch
from tests.towers.families import BLOCKS, MAPS, TINY
from torch import Tensor

from triptych.towers import BlockTower, SmallTower, TowerSpecBase, TransformersTower

SMALL = SmallTower(size=16, patch=4, hidden=16, heads=2, depth=3)


def spec_of(name: str, **options: object) -> TowerSpecBase:
    if name == "small":
        return SMALL
    return TransformersTower.model_validate({"config": TINY[name], **options}).resolve()


def tower_of(name: str, **options: object) -> BlockTower:
    torch.manual_seed(0)
    tower = spec_of(name, **options).build().eval()
    assert isinstance(tower, BlockTower)
    return tower


def tiles_of(tower: BlockTower, count: int = 2) -> Tensor:
    return torch.randint(0, 256, (count, 3, tower.size, tower.size), dtype=torch.uint8)


@torch.no_grad()
@pytest.mark.parametrize("name", [*BLOCKS, "small"])
def test_a_pass_in_two_parts_is_the_pass(name: str) -> None:
    tower = tower_of(name)
    tiles = tiles_of(tower)
    whole = tower(tiles)
    assert tower.depth == 3
    for block in range(tower.depth + 1):
        states = tower.enter(tiles, block)
        assert states.shape[0] == 2
        torch.testing.assert_close(tower.leave(states, block), whole, rtol=0, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("name", [*BLOCKS, "small"])
def test_blocks_take_any_number_of_tiles(name: str) -> None:
    """What is left out in the middle of the tower does not change the others."""
    tower = tower_of(name)
    tiles = tiles_of(tower, 3)
    whole = tower(tiles)
    kept = torch.tensor([2, 0])
    found = tower.leave(tower.enter(tiles, 1)[kept], 1)
    torch.testing.assert_close(found, whole[kept], rtol=0, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("name", [*BLOCKS, "small"])
@pytest.mark.parametrize("blocks", [(0, 2), (1,), (2, 0)])
def test_taps_are_the_states_between_the_parts(name: str, blocks: tuple[int, ...]) -> None:
    tower = tower_of(name)
    tiles = tiles_of(tower)
    found = tower.levels(tiles, blocks).split(tower.width, dim=-1)
    torch.testing.assert_close(found[0], tower(tiles), rtol=0, atol=1e-6)
    for block, level in zip(blocks, found[1:], strict=True):
        expected = tower.pick(tower.enter(tiles, block + 1))
        assert expected.shape[1] == tower.layout.tokens
        torch.testing.assert_close(level, expected, rtol=0, atol=1e-6)


@torch.no_grad()
def test_taps_keep_the_cls_token_with_the_others() -> None:
    tower = tower_of("clip_vision_model", cls="keep")
    assert tower.levels(tiles_of(tower), (0,)).shape == (2, 17, 64)


def test_a_tower_says_how_many_blocks_it_has() -> None:
    assert [spec_of(name).enterable for name in ("clip_vision_model", "vit", "small")] == [3, 3, 3]
    assert spec_of("clip_vision_model", layer=-2).enterable == 2
    assert spec_of("clip_vision_model", layer=-2).tappable == 2
    assert [spec_of(name).tappable for name in MAPS] == [None, None, None]
    assert [spec_of(name).enterable for name in MAPS] == [None, None, None]


def test_dinov3_can_be_tapped_but_not_cut() -> None:
    assert spec_of("dinov3_vit").tappable == 3
    assert spec_of("dinov3_vit").enterable is None


def test_gradients_reach_every_parameter_through_the_parts() -> None:
    tower = tower_of("siglip_vision_model").train()
    tower.leave(tower.enter(tiles_of(tower), 1), 1).square().sum().backward()
    assert not [key for key, value in tower.named_parameters() if value.grad is None]
