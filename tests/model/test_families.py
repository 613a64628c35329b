"""Every language-model family: batch equals one by one, cache equals full forward, loss trains."""

from typing import Any

import pytest
import torch
from tests.model.tiny import FAMILIES, answer, picture, tiny_model, turn
from tests.oracles.splice import summed_loss

from triptych.model import TriptychForConditionalGeneration, TriptychProcessor

Pair = tuple[TriptychForConditionalGeneration, TriptychProcessor]

LONG = [turn("what color?", picture(0)), answer("yes"), turn("and here", picture(1), picture(2))]
SHORT = [turn("is there a circle?", picture(3))]
TEXT = [turn("no image at all")]


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def pair(request: pytest.FixtureRequest) -> Pair:
    model, processor = tiny_model(request.param)
    return model.eval(), processor


def inputs(processor: TriptychProcessor, *conversations: Any, side: Any = "left") -> Any:
    return processor.apply_chat_template(
        list(conversations), tokenize=True, add_generation_prompt=True, padding_side=side
    )


@torch.no_grad()
def test_batch_equals_one_by_one_on_either_padding_side(pair: Pair) -> None:
    model, processor = pair
    for side in ("left", "right"):
        batch = inputs(processor, LONG, SHORT, TEXT, side=side)
        together = model(**batch).logits
        for row, conversation in enumerate((LONG, SHORT, TEXT)):
            alone = model(**inputs(processor, conversation)).logits[0]
            kept = batch["attention_mask"][row].bool()
            found = together[row][kept]
            assert torch.allclose(found.exp(), alone.exp(), atol=2e-5, rtol=2e-4), side


@torch.no_grad()
def test_generation_in_a_batch_equals_alone(pair: Pair) -> None:
    model, processor = pair
    settings = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    batch = inputs(processor, LONG, SHORT, TEXT)
    length = batch["input_ids"].shape[1]
    together = model.generate(**batch, **settings)[:, length:]
    for row, conversation in enumerate((LONG, SHORT, TEXT)):
        single = inputs(processor, conversation)
        alone = model.generate(**single, **settings)[:, single["input_ids"].shape[1] :]
        assert together[row].tolist() == alone[0].tolist()


@torch.no_grad()
def test_prefill_and_decode_equal_the_full_forward(pair: Pair) -> None:
    model, processor = pair
    prompt = inputs(processor, LONG)
    tokens = torch.tensor([[10, 11, 12]])
    full = {**prompt, "input_ids": torch.cat([prompt["input_ids"], tokens], 1)}
    full["attention_mask"] = torch.ones_like(full["input_ids"])
    expected = model(**full).logits[:, -3:]
    out = model(**prompt, use_cache=True)
    steps = []
    for token in tokens.split(1, dim=1):
        out = model(input_ids=token, past_key_values=out.past_key_values, use_cache=True)
        steps.append(out.logits)
    assert torch.allclose(torch.cat(steps, 1).exp(), expected.exp(), atol=2e-5, rtol=2e-4)


def test_loss_is_the_summed_cross_entropy_of_the_full_logits(pair: Pair) -> None:
    model, processor = pair
    conversations = [[*SHORT, answer("yes")], [*TEXT, answer("no no")]]
    prompts = [
        processor.encode(c, [(20, 16)] * n) for c, n in zip(conversations, (1, 0), strict=True)
    ]
    batch = processor.collate(prompts, [[processor.tiles(picture(3))], []], labels=True)
    out = model(**batch, num_items_in_batch=10)
    labels = batch.pop("labels")
    logits = model(**batch).logits.detach()
    total, count = summed_loss(logits, labels)
    assert out.logits.shape[0] == count
    assert out.loss.item() == pytest.approx(total / 10, rel=1e-4)
    out.loss.backward()
    assert all(p.grad is not None for p in model.connector.parameters())
    model.zero_grad()
