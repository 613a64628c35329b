"""With the same weights our model is transformers' LLaVA: logits and generation."""

from typing import Any

import pytest
import torch
from tests.parity.llava import IMAGE, normalise, our_model, their_configs
from transformers import LlavaConfig, LlavaForConditionalGeneration

from triptych.model import TriptychForConditionalGeneration

SIDE = 28


@pytest.fixture(scope="module")
def theirs() -> LlavaForConditionalGeneration:
    torch.manual_seed(0)
    return LlavaForConditionalGeneration(LlavaConfig(**their_configs(SIDE))).eval()


@pytest.fixture(scope="module")
def ours(theirs: LlavaForConditionalGeneration) -> TriptychForConditionalGeneration:
    return our_model(theirs)


def batch(images: list[list[int]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same batch for both models; ``images`` lists the places of images in each row."""
    generator = torch.Generator().manual_seed(1)
    rows = []
    for places in images:
        row = torch.randint(0, 80, (30,), generator=generator)
        for place in places:
            row[place : place + 4] = IMAGE
        rows.append(row)
    count = sum(map(len, images))
    tiles = torch.randint(0, 256, (count, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
    shared = {"input_ids": torch.stack(rows), "attention_mask": torch.ones(len(rows), 30).long()}
    mine = {"images_per_sample": torch.tensor([len(places) for places in images])}
    return {**shared, "pixel_values": normalise(tiles)}, {**shared, **mine, "pixel_values": tiles}


@torch.no_grad()
@pytest.mark.parametrize("images", [[[3]], [[3, 7, 20]], [[3, 12], [0, 26]]])
def test_logits_are_equal(theirs: Any, ours: Any, images: list[list[int]]) -> None:
    """Largest difference seen: 0.0 (the same operations in the same order)."""
    their_batch, our_batch = batch(images)
    expected = theirs(**their_batch).logits
    assert torch.allclose(ours(**our_batch).logits, expected, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize(("images", "beams"), [([[3]], 1), ([[3, 7, 20]], 1), ([[3]], 3)])
def test_generation_is_equal(theirs: Any, ours: Any, images: list[list[int]], beams: int) -> None:
    """Beams over several images are left out: theirs repeats image by image and mixes them up."""
    their_batch, our_batch = batch(images)
    settings: dict[str, Any] = {"num_beams": beams, "do_sample": False, "max_new_tokens": 8}
    settings |= {"eos_token_id": None, "pad_token_id": 0}
    expected = theirs.generate(**their_batch, **settings)
    assert ours.generate(**our_batch, **settings).tolist() == expected.tolist()


def test_loss_and_gradients_are_equal(theirs: Any, ours: Any) -> None:
    their_batch, our_batch = batch([[3, 12], [0, 26]])
    labels = their_batch["input_ids"].masked_fill(their_batch["input_ids"] == IMAGE, -100)
    expected = theirs(**their_batch, labels=labels).loss
    found = ours(**our_batch, labels=labels).loss
    assert torch.allclose(found, expected, atol=1e-6)
    expected.backward()
    found.backward()
    reference = theirs.model.multi_modal_projector.linear_1.weight.grad
    assert torch.allclose(ours.connector[0].weight.grad, reference, atol=1e-6)
    ours.zero_grad()
    theirs.zero_grad()
