"""Qwen3-VL of transformers with the same weights: its vision encoder and its text model."""

from typing import Any

import pytest
import torch
from tests.towers.families import TINY
from torch import Tensor
from transformers import AutoConfig
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLTextConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextModel, Qwen3VLVisionModel

from triptych.fusion.levels import LevelMerger
from triptych.images import TileLayout
from triptych.model import TriptychConfig, TriptychForConditionalGeneration
from triptych.model.vision import Images
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


TEXT: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": OUT,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
    "rms_norm_eps": 1e-6,
}
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
IMAGE, BLOCKS = 60, CONFIG["deepstack_visual_indexes"]


def their_text() -> Any:
    torch.manual_seed(1)
    mrope = {**ROPE, "mrope_section": [2, 1, 1], "mrope_interleaved": True}
    return Qwen3VLTextModel(Qwen3VLTextConfig(**TEXT, rope_parameters=mrope)).eval()


def our_model(visual: Any, text: Any) -> TriptychForConditionalGeneration:
    """The same weights; the connector, which theirs does not have in this form, is random."""
    tower = TransformersTower(config=CONFIG).resolve()
    producer = {"kind": "levels", "blocks": BLOCKS}
    config = TriptychConfig(
        panels={
            "towers": [tower.model_dump(mode="json")],
            "connector": {"kind": "pixel_shuffle", "factor": 2},
            "fusion": {"kind": "deepstack", "producer": producer},
        },
        text_config={"model_type": "qwen3", **TEXT, "rope_parameters": ROPE},
        image_token_id=IMAGE,
    )
    model = TriptychForConditionalGeneration(config).eval()
    weights = model.state_dict()
    renamed = {"language_model.model.": text, "towers.0.encoder.": visual}
    for prefix, theirs in renamed.items():
        for key, value in theirs.state_dict().items():
            if f"{prefix}{key}" in weights:
                weights[f"{prefix}{key}"] = value
    for number, merger in enumerate(our_mergers(visual)):
        for key, value in merger.state_dict().items():
            weights[f"stack_producer.mergers.{number}.{key}"] = value
    model.load_state_dict(weights)
    return model


def our_batch() -> dict[str, Tensor]:
    """Two images, one and none in three rows of different length; nine visual tokens each."""
    generator = torch.Generator().manual_seed(2)
    rows = []
    for images in (2, 1, 0):
        parts = [torch.randint(0, IMAGE, (3,), generator=generator)]
        for _ in range(images):
            parts += [torch.full((9,), IMAGE), torch.randint(0, IMAGE, (2,), generator=generator)]
        rows.append(torch.cat(parts))
    longest = max(map(len, rows))
    lack = [longest - len(row) for row in rows]
    ids = [torch.cat([torch.zeros(n).long(), row]) for n, row in zip(lack, rows, strict=True)]
    return {
        "input_ids": torch.stack(ids),
        "attention_mask": torch.stack([torch.arange(longest) >= n for n in lack]).long(),
        "pixel_values": torch.randint(0, 256, (3, 3, SIDE, SIDE), dtype=torch.uint8),
        "images_per_sample": torch.tensor([2, 1, 0]),
    }


@torch.no_grad()
def test_the_language_model_is_theirs_with_the_same_stacks() -> None:
    visual, text = vision(), their_text()
    model, batch = our_model(visual, text), our_batch()
    images = Images(batch["pixel_values"], None, None, batch["images_per_sample"])
    embeddings, stacks = model.embed_stacked(batch["input_ids"], images)
    assert stacks is not None
    mask, seen = batch["attention_mask"], batch["input_ids"] == IMAGE
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    given = {"inputs_embeds": embeddings, "attention_mask": mask, "position_ids": positions}
    levels = [group[seen] for group in stacks.transpose(0, 1)]
    expected = text(**given, visual_pos_masks=seen, deepstack_visual_embeds=levels)
    plain = text(**given).last_hidden_state
    found = model(**batch, output_hidden_states=True).hidden_states[-1]
    kept = mask.bool()
    torch.testing.assert_close(found[kept], expected.last_hidden_state[kept], rtol=1e-4, atol=2e-5)
    assert not torch.allclose(plain[kept], expected.last_hidden_state[kept], atol=1e-2)


@torch.no_grad()
def test_the_stacks_are_their_deepstack_features() -> None:
    visual, text = vision(), their_text()
    model, batch = our_model(visual, text), our_batch()
    images = Images(batch["pixel_values"], None, None, batch["images_per_sample"])
    _, stacks = model.embed_stacked(batch["input_ids"], images)
    assert stacks is not None
    pixels = model.towers[0].normalise(batch["pixel_values"])
    expected = visual(*their_patches(pixels)).deepstack_features
    seen = batch["input_ids"] == IMAGE
    for group, features in zip(stacks.transpose(0, 1), expected, strict=True):
        torch.testing.assert_close(group[seen], features, rtol=0, atol=2e-5)
        assert not bool(group[~seen].any())
