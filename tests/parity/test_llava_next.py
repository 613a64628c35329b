"""With the same weights and any-resolution tiles our model is transformers' LLaVA-NeXT."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.parity.llava import IMAGE, normalise, our_model, their_configs
from transformers import LlavaNextConfig, LlavaNextForConditionalGeneration
from transformers.models.llava_next.image_processing_pil_llava_next import (
    LlavaNextImageProcessorPil,
)

from triptych.images import AnyresTiling, TileLayout, TilePlan, crop_tiles, image_tokens, plan_tiles
from triptych.model import TriptychForConditionalGeneration

SIDE = 42
GRIDS = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))
PINPOINTS = [[rows * SIDE, columns * SIDE] for rows, columns in GRIDS]
TILING = AnyresTiling(
    grids=GRIDS, fill=(0, 0, 0), unpad=True, order="rows", row_separator=True, skip="none"
)
LAYOUT = TileLayout(3, 3)
SIZES = [(100, 40), (37, 90), (64, 64), (300, 31), (84, 84), (85, 83)]


def plan(size: tuple[int, int]) -> TilePlan:
    return plan_tiles(*size, SIDE, TILING)


def picture(seed: int, size: tuple[int, int]) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def theirs() -> LlavaNextForConditionalGeneration:
    torch.manual_seed(0)
    config = LlavaNextConfig(**their_configs(SIDE), image_grid_pinpoints=PINPOINTS)
    return LlavaNextForConditionalGeneration(config).eval()


@pytest.fixture(scope="module")
def ours(theirs: LlavaNextForConditionalGeneration) -> TriptychForConditionalGeneration:
    separator = {"tile_tokens.weight": theirs.model.image_newline[None]}
    return our_model(theirs, separator, tiling=TILING.model_dump(mode="json"))


def batch(rows: list[list[tuple[int, int]]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same batch for both models: in each row images of these sizes with text between them."""
    generator = torch.Generator().manual_seed(1)
    ids, tiles, sizes = [], [], [size for row in rows for size in row]
    for row in rows:
        parts = [torch.randint(0, 80, (3,), generator=generator)]
        for size in row:
            parts.append(torch.full((image_tokens(plan(size), LAYOUT),), IMAGE))
            parts.append(torch.randint(0, 80, (4,), generator=generator))
            tiles.append(torch.from_numpy(crop_tiles(picture(len(tiles), size), plan(size))))
        ids.append(torch.cat(parts))
    longest = max(map(len, ids))
    padded = torch.stack([torch.cat([torch.zeros(longest - len(i)).long(), i]) for i in ids])
    mask = torch.stack([torch.arange(longest) >= longest - len(i) for i in ids]).long()
    shared = {"input_ids": padded, "attention_mask": mask}
    most = max(map(len, tiles))
    normalised = [normalise(one) for one in tiles]
    filled = [torch.cat([one, torch.zeros(most - len(one), 3, SIDE, SIDE)]) for one in normalised]
    heights_first = torch.tensor(sizes).flip(1)
    mine = {
        "pixel_values": torch.cat(tiles),
        "tiles_per_image": torch.tensor([len(one) for one in tiles]),
        "images_per_sample": torch.tensor([len(row) for row in rows]),
        "image_sizes": torch.tensor(sizes),
    }
    their = {"pixel_values": torch.stack(filled), "image_sizes": heights_first}
    return {**shared, **their}, {**shared, **mine}


def test_crops_are_equal() -> None:
    theirs = LlavaNextImageProcessorPil(
        image_grid_pinpoints=PINPOINTS,
        size={"height": SIDE, "width": SIDE},
        crop_size={"height": SIDE, "width": SIDE},
        do_rescale=False,
        do_normalize=False,
        do_pad=False,
    )
    for number, size in enumerate(SIZES):
        image = picture(number, size)
        expected = np.asarray(theirs(image)["pixel_values"][0])
        assert np.array_equal(crop_tiles(image, plan(size)), expected.astype(np.uint8)), size


@torch.no_grad()
@pytest.mark.parametrize("rows", [[[s] for s in SIZES], [SIZES[:3], SIZES[3:5]]])
def test_logits_are_equal(theirs: Any, ours: Any, rows: list[list[tuple[int, int]]]) -> None:
    their_batch, our_batch = batch(rows)
    expected = theirs(**their_batch).logits
    found = ours(**our_batch).logits
    kept = their_batch["attention_mask"].bool()
    assert torch.allclose(found[kept], expected[kept], atol=1e-5, rtol=0)


@torch.no_grad()
def test_generation_is_equal(theirs: Any, ours: Any) -> None:
    their_batch, our_batch = batch([SIZES[:2], SIZES[2:3]])
    settings: dict[str, Any] = {"do_sample": False, "max_new_tokens": 6}
    settings |= {"eos_token_id": None, "pad_token_id": 0, "suppress_tokens": [IMAGE]}
    expected = theirs.generate(**their_batch, **settings)
    assert ours.generate(**our_batch, **settings).tolist() == expected.tolist()


def test_the_row_separator_has_the_same_gradient(theirs: Any, ours: Any) -> None:
    their_batch, our_batch = batch([[SIZES[0]], [SIZES[3]]])
    labels = their_batch["input_ids"].masked_fill(their_batch["input_ids"] == IMAGE, -100)
    labels = labels.masked_fill(their_batch["attention_mask"] == 0, -100)
    theirs(**their_batch, labels=labels).loss.backward()
    ours(**our_batch, labels=labels).loss.backward()
    reference = theirs.model.image_newline.grad
    assert reference.abs().max() > 1e-4
    assert torch.allclose(ours.tile_tokens.weight.grad[0], reference, atol=1e-6)
    ours.zero_grad()
    theirs.zero_grad()
