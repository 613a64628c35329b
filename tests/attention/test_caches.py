"""Attention rules over caches: images that touch, static caches, and what is refused."""

from typing import Any

import pytest
import torch
from tests.model.tiny import TEXTS, answer, picture, tiny_spec, turn
from torch import Tensor
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from triptych.errors import RecipeError, SpanError
from triptych.model import TriptychForConditionalGeneration, TriptychProcessor
from triptych.model.attention import RuleArguments
from triptych.model.build import initialise
from triptych.model.spec import ModelSpec, TemplateSpec

Pair = tuple[TriptychForConditionalGeneration, TriptychProcessor]
Inputs = dict[str, Tensor]
RULES = [("mmca", "self"), ("mmca", "image"), ("mmca_as_coded", "self"), ("mmca_as_coded", "image")]
TWO = [turn("what color?", picture(0)), answer("yes"), turn("and here", picture(1), picture(2))]
ONE = [turn("is there a circle?", picture(3))]


def spec_of(family: str, rule: tuple[str, str], **config: Any) -> ModelSpec:
    """Images stand side by side: no number and no tag is between them."""
    spec = tiny_spec(family, template=TemplateSpec(family="compact"))
    language = spec.language.model_copy(update={"config": {**spec.language.config, **config}})
    change = {"attention": rule[0], "image_scope": rule[1], "language": language}
    return spec.model_copy(update=change)


def make(rule: tuple[str, str], family: str = "llama", **config: Any) -> Pair:
    model, processor = initialise(spec_of(family, rule, **config), texts=TEXTS)
    return model.eval(), processor


def inputs(processor: TriptychProcessor, *conversations: Any) -> Inputs:
    batch = processor.apply_chat_template(
        list(conversations), tokenize=True, add_generation_prompt=True
    )
    return dict(batch)


def part(batch: Inputs, tokens: slice, images: slice) -> Inputs:
    """Some tokens of a sample with the images among them, one tile each."""
    tiles = batch["tiles_per_image"][images]
    return {
        "input_ids": batch["input_ids"][:, tokens],
        "pixel_values": batch["pixel_values"][images],
        "tiles_per_image": tiles,
        "images_per_sample": torch.tensor([len(tiles)]),
    }


@torch.no_grad()
@pytest.mark.parametrize("cached", [1, 2])
@pytest.mark.parametrize("rule", RULES)
def test_images_that_touch_are_told_apart_behind_a_cache(
    rule: tuple[str, str], cached: int
) -> None:
    """Also where the cache ends between the two."""
    model, processor = make(rule)
    batch = inputs(processor, TWO)
    places = (batch["input_ids"] == model.config.image_token_id)[0].nonzero().flatten().tolist()
    size = len(places) // 3
    assert places[-1] - places[size] == 2 * size - 1, "the last two images touch"
    whole, cut = model(**batch).logits, places[cached * size]
    kinds, cache = model.find_token_kinds(batch["input_ids"]), DynamicCache()
    first = part(batch, slice(cut), slice(cached))
    begun = model(**first, past_key_values=cache, use_cache=True).logits
    rest = part(batch, slice(cut, None), slice(cached, None))
    ended = model(**rest, past_key_values=cache, use_cache=True, token_kinds=kinds).logits
    found = torch.cat([begun, ended], 1)
    torch.testing.assert_close(found.exp(), whole.exp(), atol=2e-5, rtol=2e-4)


def test_kinds_that_disagree_with_the_images_are_refused() -> None:
    model, processor = make(("mmca", "image"))
    batch = inputs(processor, ONE)
    with pytest.raises(SpanError, match=r"token_kinds mark 0 visual tokens .* images have 4"):
        model(**batch, token_kinds=torch.ones_like(batch["input_ids"]))


@torch.no_grad()
@pytest.mark.parametrize("rule", [("causal", "self"), *RULES])
def test_a_static_cache_generates_what_a_growing_one_does(rule: tuple[str, str]) -> None:
    model, processor = make(rule)
    batch = inputs(processor, TWO, ONE)
    settings: Any = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None}
    growing = model.generate(**batch, **settings)
    static = model.generate(**batch, **settings, cache_implementation="static")
    assert torch.equal(growing, static)


@pytest.mark.parametrize("family", ["mistral", "gemma3_text"])
def test_a_sliding_window_is_refused_once_it_would_hide_something(family: str) -> None:
    model, processor = make(("mmca", "self"), family, sliding_window=8)
    with pytest.raises(RecipeError, match=r"sliding window of 8 tokens .* in a sequence of \d+"):
        model(**inputs(processor, ONE))


def test_language_models_with_other_layers_are_refused() -> None:
    """They would run, and silently compute another attention."""
    config = {"model_type": "bloom", "hidden_size": 32, "n_layer": 1, "n_head": 2}
    spec = spec_of("llama", ("mmca", "self"))
    language = spec.language.model_copy(update={"config": config})
    with pytest.raises(RecipeError, match="type 'bloom', which has attention of its own"):
        initialise(spec.model_copy(update={"language": language}), texts=TEXTS)
    hybrid = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
            num_attention_heads=1, layer_types=["linear_attention"],
        )
    )  # fmt: skip
    with pytest.raises(RecipeError, match="has layers of kind linear_attention"):
        RuleArguments("mmca", "self").check(hybrid)
    RuleArguments("causal", "self").check(hybrid)
