"""Conversations for tiny models, and what holds under every attention rule and every fusion."""

from pathlib import Path
from typing import Any

import torch
from tests.model.tiny import answer, picture, turn
from torch import Tensor, nn, testing

from triptych.model import TriptychForConditionalGeneration, TriptychProcessor
from triptych.model.build import load_pretrained
from triptych.model.processing import image_sources

Pair = tuple[TriptychForConditionalGeneration, TriptychProcessor]
Inputs = dict[str, Tensor]

WIDE, TALL = (60, 20), (10, 90)
LONG = [
    turn("what color?", picture(0)),
    answer("yes"),
    turn("and here", picture(1, WIDE), picture(2, TALL)),
]
SHORT = [turn("is there a circle?", picture(3))]
TEXT = [turn("no image at all")]
SETTINGS: Any = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None}


def inputs(processor: TriptychProcessor, *conversations: Any, side: Any = "left") -> Inputs:
    batch = processor.apply_chat_template(
        list(conversations), tokenize=True, add_generation_prompt=True, padding_side=side
    )
    return dict(batch)


def training_batch(processor: TriptychProcessor, *, images: bool = True) -> Inputs:
    """An answer about an image and one about none, or the latter alone."""
    conversations = [([*SHORT, answer("b")], 1), ([*TEXT, answer("b")], 0)][not images :]
    prompts = [processor.encode(talk, [(20, 16)] * n) for talk, n in conversations]
    tiles = [[processor.tiles(picture(0))] * n for _, n in conversations]
    return processor.collate(prompts, tiles, labels=True)


def close(found: Tensor, wanted: Tensor) -> None:
    testing.assert_close(found.exp(), wanted.exp(), atol=2e-5, rtol=2e-4)


@torch.no_grad()
def check_batch(pair: Pair, *conversations: Any, side: str = "left") -> Tensor:
    """Rows of a batch have the logits that they have alone; returns those of the batch."""
    model, processor = pair
    batch = inputs(processor, *conversations, side=side)
    together: Tensor = model(**batch).logits
    for row, kept, talk in zip(
        together, batch["attention_mask"].bool(), conversations, strict=True
    ):
        close(row[kept], model(**inputs(processor, talk)).logits[0])
    return together


@torch.no_grad()
def check_packed(pair: Pair, *conversations: Any) -> None:
    """Documents in one row have the logits that they have alone."""
    model, processor = pair
    pictures = [image_sources(talk) for talk in conversations]
    prompts = [
        processor.encode(talk, [one.size for one in row], add_generation_prompt=True)
        for talk, row in zip(conversations, pictures, strict=True)
    ]
    tiles = [[processor.tiles(one) for one in row] for row in pictures]
    packed = model(**processor.collate(prompts, tiles, packed=True), use_cache=False).logits
    close(packed, torch.cat([model(**inputs(processor, talk)).logits for talk in conversations], 1))


@torch.no_grad()
def check_generation(pair: Pair, *conversations: Any, **changes: Any) -> None:
    """Rows of a batch generate what they generate alone."""
    model, processor = pair
    settings = {**SETTINGS, **changes}
    together = model.generate(**inputs(processor, *conversations), **settings)[:, -5:]
    copies = changes.get("num_return_sequences", 1)
    for rows, talk in zip(together.split(copies), conversations, strict=True):
        alone = model.generate(**inputs(processor, talk), **settings)[:, -5:]
        assert rows.tolist() == alone.tolist()


@torch.no_grad()
def check_cached_generation(pair: Pair, **changes: Any) -> None:
    """What is generated with a cache is generated without."""
    model, processor = pair
    batch = inputs(processor, LONG, SHORT, TEXT)
    answers = []
    for use_cache in (True, False):
        torch.manual_seed(3)
        settings = {**SETTINGS, **changes, "use_cache": use_cache}
        answers.append(model.generate(**batch, **settings))
    assert torch.equal(*answers)


def check_checkpointing(model: TriptychForConditionalGeneration, batch: Inputs) -> None:
    """Gradients are those without gradient checkpointing; the last ones stay in the model."""
    model.train()
    found = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable()
        assert model.is_gradient_checkpointing == checkpointing
        model.zero_grad()
        model(**batch).loss.backward()
        found.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    model.gradient_checkpointing_disable()
    model.eval()
    assert found[0].keys() == found[1].keys()
    assert all(torch.allclose(found[0][name], found[1][name]) for name in found[0])


def check_text_alone_trains(pair: Pair, *visual: nn.Module) -> None:
    """With a loss equal to that of evaluation, and gradients of zero for all that is visual."""
    model, processor = pair
    batch = training_batch(processor, images=False)
    wanted = model(**batch).loss
    found = model.train()(**batch).loss
    found.backward()
    assert torch.equal(found, wanted)
    for part in visual:
        assert all(p.grad is not None and not p.grad.any() for p in part.parameters())


@torch.no_grad()
def check_saved(pair: Pair, folder: Path) -> TriptychForConditionalGeneration:
    """A saved and loaded model is the same to the bit; returns it."""
    model, processor = pair
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    loaded, reread = load_pretrained(folder)
    assert loaded.config.parse_panels() == model.config.parse_panels()
    wanted = model(**inputs(processor, LONG)).logits
    assert torch.equal(loaded(**inputs(reread, LONG)).logits, wanted)
    return loaded
