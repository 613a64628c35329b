"""With the same weights our model is transformers' LLaVA: logits and generation."""

from typing import Any

import pytest
import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from triptych.model import TriptychConfig, TriptychForConditionalGeneration

IMAGE, VOCABULARY, SIDE = 90, 96, 28


@pytest.fixture(scope="module")
def theirs() -> LlavaForConditionalGeneration:
    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
        image_size=SIDE, patch_size=14,
    )  # fmt: skip
    text = LlamaConfig(
        hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        vocab_size=VOCABULARY, initializer_range=0.2,
    )  # fmt: skip
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE)
    return LlavaForConditionalGeneration(config).eval()


@pytest.fixture(scope="module")
def ours(theirs: LlavaForConditionalGeneration) -> TriptychForConditionalGeneration:
    tower = {
        "kind": "transformers",
        "config": theirs.config.vision_config.to_dict(),
        "layer": -2,
        "cls": "drop",
        "size": SIDE,
        "mean": [0.5] * 3,
        "std": [0.25] * 3,
    }
    panels = {"towers": [tower], "connector": {"kind": "mlp", "layers": 2}}
    config = TriptychConfig(
        panels=panels, text_config=theirs.config.text_config.to_dict(), image_token_id=IMAGE
    )
    model = TriptychForConditionalGeneration(config).eval()
    renamed = {
        "model.vision_tower.": "towers.0.encoder.",
        "model.multi_modal_projector.linear_1.": "connector.0.",
        "model.multi_modal_projector.linear_2.": "connector.2.",
        "model.language_model.": "language_model.model.",
        "lm_head.": "language_model.lm_head.",
    }
    weights = {}
    for key, value in theirs.state_dict().items():
        prefix = next(p for p in renamed if key.startswith(p))
        weights[renamed[prefix] + key.removeprefix(prefix)] = value
    needed = model.state_dict().keys()
    model.load_state_dict({key: weights[key] for key in needed})
    return model


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
    pixels = (tiles / 255 - 0.5) / 0.25
    mine = {"images_per_sample": torch.tensor([len(places) for places in images])}
    return {**shared, "pixel_values": pixels}, {**shared, **mine, "pixel_values": tiles}


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
