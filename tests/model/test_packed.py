"""A packed row equals its samples one by one: loss, gradients, and nothing seen across them.

Tolerance: 1e-5 of the largest entry of each tensor, in float32.
"""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from tests.model.tiny import TEXTS, answer, picture, tiny_spec, turn
from torch import Tensor

from triptych.errors import RecipeError
from triptych.model import TriptychForConditionalGeneration, TriptychProcessor
from triptych.model.attention import restart_positions
from triptych.model.build import initialise
from triptych.model.prompt import Prompt

CONVERSATIONS = [
    [turn("what color is the shape in image 2?", picture(0), picture(1)), answer("yes")],
    [turn("is there a circle?"), answer("no"), turn("no?", picture(2)), answer("yes yes")],
    [{"role": "document", "content": "is there a shape in image 2"}],
    [turn("is there?", picture(3)), answer("no no no")],
]
MODELS = ["llama", "gemma3_text", "gemma", "mmca"]


def make(name: str) -> tuple[TriptychForConditionalGeneration, TriptychProcessor]:
    family = "llama" if name == "mmca" else name
    spec = tiny_spec(family)
    if name == "mmca":
        spec = spec.model_copy(update={"attention": "mmca"})
    if name == "gemma3_text":
        language = spec.language.model_dump()
        language["config"] |= {"sliding_window": 4}
        spec = spec.model_copy(update={"language": type(spec.language)(**language)})
    model, processor = initialise(spec, seed=0, texts=TEXTS)
    return model.eval(), processor


def encode(processor: TriptychProcessor) -> tuple[list[Prompt], list[list[Any]]]:
    prompts, tiles = [], []
    for talk in CONVERSATIONS:
        content = [m["content"] for m in talk if isinstance(m["content"], list)]
        pictures = [p["image"] for parts in content for p in parts if p["type"] == "image"]
        prompts.append(processor.encode(talk, [one.size for one in pictures]))
        tiles.append([processor.tiles(one) for one in pictures])
    return prompts, tiles


def gradients(
    model: TriptychForConditionalGeneration, batches: Sequence[dict[str, Tensor]]
) -> tuple[float, dict[str, Tensor]]:
    """Loss over all batches together, and the gradient of every parameter."""
    model.zero_grad()
    total = sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in batches)
    loss = 0.0
    for batch in batches:
        part = model(**batch, num_items_in_batch=total).loss
        part.backward()
        loss += part.item()
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return loss, found


@pytest.mark.parametrize("by_document", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_packed_equals_unpacked_in_loss_and_gradients(name: str, by_document: bool) -> None:
    model, processor = make(name)
    prompts, tiles = encode(processor)
    single = [
        processor.collate([one], [images], labels=True)
        for one, images in zip(prompts, tiles, strict=True)
    ]
    wanted_loss, wanted = gradients(model, single)
    if by_document:
        assert model.attend_by_document() == (name != "gemma3_text")
    packed = processor.collate(prompts, tiles, labels=True, packed=True)
    assert packed["input_ids"].shape == (1, sum(map(len, prompts)))
    loss, found = gradients(model, [packed])
    assert loss == pytest.approx(wanted_loss, rel=1e-5)
    assert found.keys() == wanted.keys()
    for key, gradient in wanted.items():
        atol = 1e-5 * float(gradient.abs().max()) + 1e-9
        torch.testing.assert_close(found[key], gradient, rtol=0, atol=atol, msg=key)
    del packed["document_ids"]
    assert gradients(model, [packed])[0] != pytest.approx(wanted_loss, rel=1e-4)


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_no_sample_sees_another(name: str) -> None:
    model, processor = make(name)
    prompts, tiles = encode(processor)
    packed = processor.collate(prompts, tiles, packed=True)
    before = model(**packed).logits
    start, stop = len(prompts[0]), len(prompts[0]) + len(prompts[1])
    text = packed["input_ids"] != processor.image_token_id
    own = (torch.arange(before.shape[1]) >= start) & (torch.arange(before.shape[1]) < stop)
    packed["input_ids"] = torch.where(text & ~own, 7, packed["input_ids"])
    after = model(**packed).logits
    torch.testing.assert_close(after[:, start:stop], before[:, start:stop], rtol=0, atol=2e-5)
    assert not torch.allclose(after[:, stop:], before[:, stop:], atol=1e-2)


def test_a_packed_row_is_refused_where_it_could_not_be_kept_apart() -> None:
    model, processor = make("llama")
    model.language_model.config.layer_types = ["full_attention", "linear_attention"]
    packed = processor.collate(*encode(processor), packed=True)
    with pytest.raises(RecipeError, match="in a model with linear_attention layers"):
        model(**packed)


def test_positions_begin_anew_with_each_document() -> None:
    documents = torch.tensor([[1, 1, 1, 2, 3, 3], [5, 5, 0, 0, 0, 0]])
    wanted = torch.tensor([[0, 1, 2, 0, 0, 1], [0, 1, 0, 1, 2, 3]])
    assert torch.equal(restart_positions(documents), wanted)
