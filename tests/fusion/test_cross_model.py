"""Cross fusion inside a model: every language-model family, caches, padding, generation."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.model.checks import (
    LONG,
    SETTINGS,
    SHORT,
    TEXT,
    Pair,
    check_batch,
    check_cached_generation,
    check_checkpointing,
    check_generation,
    check_packed,
    check_saved,
    check_text_alone_trains,
    close,
    inputs,
    training_batch,
)
from tests.model.tiny import FAMILIES, TEXTS, tiny_spec
from tests.oracles.cross import run
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache

from triptych.errors import RecipeError, SpanError
from triptych.fusion import CrossFusion
from triptych.model import TriptychForConditionalGeneration
from triptych.model.build import initialise
from triptych.model.spec import ModelSpec


def make(family: str = "llama", *, gates: float = 0.7, **fields: Any) -> Pair:
    """A model whose gates are open, so that everything in it matters."""
    fusion = CrossFusion(**{"every": 1, "heads": 4, "head_width": 8, **fields})
    spec = tiny_spec(family).model_copy(update={"fusion": fusion})
    model, processor = initialise(spec, texts=TEXTS)
    assert model.cross_layers is not None
    with torch.no_grad():
        for name, parameter in model.cross_layers.named_parameters():
            if name.endswith("gate"):
                parameter.fill_(gates)
    return model.eval(), processor


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def pair(request: pytest.FixtureRequest) -> Pair:
    return make(request.param)


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("fields", [{}, {"images": "all"}, {"start": 1}])
def test_logits_equal_the_oracle(fields: dict[str, Any], side: str) -> None:
    model, processor = make(**fields)
    batch = inputs(processor, LONG, TEXT, SHORT, side=side)
    found = model(**batch).logits
    visual = list(model.get_image_features(batch["pixel_values"]))
    images = [visual[:3], [], visual[3:]]
    for row, kept in enumerate(batch["attention_mask"].bool()):
        which = fields.get("images", "latest")
        wanted = run(model, batch["input_ids"][row][kept], images[row], which, heads=4)
        close(found[row][kept], wanted)


@torch.no_grad()
def test_an_image_costs_one_token(pair: Pair) -> None:
    model, processor = pair
    assert processor.count(20, 16) == 1
    assert model.layout.tokens == 4
    ids = inputs(processor, LONG)["input_ids"]
    assert int((ids == model.config.image_token_id).sum()) == 3


@torch.no_grad()
def test_closed_gates_are_the_language_model_bit_for_bit() -> None:
    model, processor = make(gates=0.0)
    batch = inputs(processor, LONG, SHORT)
    embeddings = model.new_tokens.embed(batch["input_ids"], model.get_input_embeddings())
    mask = batch["attention_mask"]
    base = AutoModelForCausalLM.from_config(model.language_model.config).eval()
    base.load_state_dict(model.language_model.state_dict())
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    wanted = base(inputs_embeds=embeddings, attention_mask=mask, position_ids=positions).logits
    new = model.new_tokens.first
    assert torch.equal(model(**batch).logits[..., :new], wanted[..., :new])


@torch.no_grad()
def test_text_alone_is_the_language_model_bit_for_bit(pair: Pair) -> None:
    """Open gates do not matter before the first image."""
    model, processor = pair
    batch = inputs(processor, TEXT)
    base = model.language_model(batch["input_ids"]).logits
    new = model.new_tokens.first
    assert torch.equal(model(**batch).logits[..., :new], base[..., :new])


@torch.no_grad()
def test_the_images_of_other_samples_do_not_matter() -> None:
    model, processor = make()
    both = inputs(processor, TEXT, SHORT)
    seen = model(**both).logits
    both["pixel_values"] = 255 - both["pixel_values"]
    other = model(**both).logits
    assert torch.equal(seen[0], other[0])
    assert not torch.equal(seen[1], other[1])


@torch.no_grad()
def test_a_later_image_leaves_earlier_logits_bit_equal() -> None:
    model, processor = make()
    batch = inputs(processor, LONG)
    before = model(**batch).logits
    last = int((batch["input_ids"] == model.config.image_token_id)[0].nonzero()[-1, 0])
    batch["pixel_values"][-1] = 0
    after = model(**batch).logits
    assert torch.equal(before[:, :last], after[:, :last])
    assert not torch.equal(before[:, last], after[:, last])


def test_batch_equals_one_by_one(pair: Pair) -> None:
    check_batch(pair, LONG, SHORT, TEXT)


@torch.no_grad()
@pytest.mark.parametrize("images", ["latest", "all"])
def test_chunks_equal_the_whole(images: str) -> None:
    """Each chunk brings the images whose placeholders are in it; text comes one by one at last."""
    model, processor = make(images=images)
    batch = inputs(processor, LONG)
    ids = torch.cat([batch["input_ids"], torch.tensor([[10, 11]])], 1)
    whole = model(ids, pixel_values=batch["pixel_values"]).logits
    first = ids == model.config.image_token_id
    places = first[0].nonzero().flatten().tolist()
    cache, start, found = model.make_cache(), 0, []
    for stop in (places[0], places[1], places[1] + 2, ids.shape[1] - 1, ids.shape[1]):
        own = [number for number, place in enumerate(places) if start <= place < stop]
        given = {"pixel_values": batch["pixel_values"][own]} if own else {}
        out = model(ids[:, start:stop], past_key_values=cache, use_cache=True, **given)
        found.append(out.logits)
        start = stop
    close(torch.cat(found, 1), whole)


def test_generation_in_a_batch_equals_alone(pair: Pair) -> None:
    check_generation(pair, LONG, TEXT)


@pytest.mark.parametrize("change", [{"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}])
def test_beams_in_a_batch_equal_alone(change: dict[str, int]) -> None:
    check_generation(make(), LONG, SHORT, TEXT, **change)


@pytest.mark.parametrize("change", [{"do_sample": False}, {"do_sample": True, "temperature": 2.0}])
def test_generation_with_a_cache_equals_that_without(change: dict[str, Any]) -> None:
    check_cached_generation(make(), **change)


@torch.no_grad()
def test_the_cache_follows_its_rows_and_tokens() -> None:
    model, processor = make()
    batch = inputs(processor, SHORT, LONG)
    token = torch.tensor([[7], [7]])
    cache = model.make_cache()
    model(**batch, past_key_values=cache, use_cache=True)
    mask = torch.cat([batch["attention_mask"], torch.ones(2, 1, dtype=torch.long)], 1)

    def step(cache: Any, rows: list[int]) -> Tensor:
        places = (mask[rows].sum(-1) - 1)[:, None]
        return model(
            token[: len(rows)], attention_mask=mask[rows], position_ids=places,
            past_key_values=cache, use_cache=True,
        ).logits  # fmt: skip

    wanted = step(copy.deepcopy(cache), [0, 1])
    swapped = copy.deepcopy(cache)
    swapped.batch_select_indices(torch.tensor([1]))
    close(step(swapped, [1]), wanted[1:])
    repeated = copy.deepcopy(cache)
    repeated.batch_repeat_interleave(2)
    repeated.reorder_cache(torch.tensor([3, 1]))
    close(step(repeated, [1, 0]), wanted.flip(0))


@torch.no_grad()
def test_an_image_leaves_the_cache_with_its_placeholder() -> None:
    model, processor = make()
    ids, pixels = (inputs(processor, LONG)[name] for name in ("input_ids", "pixel_values"))
    places = (ids == model.config.image_token_id)[0].nonzero().flatten().tolist()
    cache = model.make_cache()
    model(ids, pixel_values=pixels, past_key_values=cache, use_cache=True)
    cache.crop(places[1] - ids.shape[1])
    assert cache.places is not None
    assert cache.places.tolist() == [[places[0]] * 4]
    token = torch.tensor([[7]])
    out = model(token, past_key_values=cache, use_cache=True).logits
    fresh = torch.cat([ids[:, : places[1]], token], 1)
    close(out[:, -1], model(fresh, pixel_values=pixels[:1]).logits[:, -1])
    cache.reset()
    assert cache.places is None


@pytest.mark.parametrize("images", ["latest", "all"])
def test_packed_documents_equal_single_ones(images: str) -> None:
    check_packed(make(images=images), LONG, TEXT, SHORT)


def test_gradients_reach_every_part_and_checkpointing_changes_nothing(pair: Pair) -> None:
    model, processor = pair
    check_checkpointing(model, training_batch(processor))
    parts = [model.towers, model.connector, model.cross_layers, model.new_tokens]
    assert all(p.grad.abs().sum() > 0 for part in parts for p in part.parameters())


def test_text_alone_trains_with_a_gradient_of_zero_for_everything_visual() -> None:
    pair = model, _ = make()
    check_text_alone_trains(pair, model.towers, model.connector, model.cross_layers)


def test_the_fusion_is_part_of_the_checkpoint(tmp_path: Path) -> None:
    pair = model, _ = make(images="all", start=1)
    check_saved(pair, tmp_path)
    names = {name for name in model.state_dict() if "language_model" in name}
    base = AutoModelForCausalLM.from_config(model.language_model.config)
    assert {f"language_model.{name}" for name in base.state_dict()} == names


@torch.no_grad()
def test_a_copy_has_gated_layers_of_its_own() -> None:
    model, processor = make()
    batch = inputs(processor, SHORT)
    wanted = model(**batch).logits
    copied = copy.deepcopy(model)
    for parameter in model.cross_layers.parameters():
        parameter.zero_()
    assert torch.equal(copied(**batch).logits, wanted)
    assert not torch.equal(model(**batch).logits, wanted)


def test_wrong_counts_name_sample_and_image() -> None:
    model, processor = make()
    batch = inputs(processor, LONG, SHORT)
    wrong = {**batch, "images_per_sample": torch.tensor([2, 2])}
    with pytest.raises(SpanError, match=r"sample 0: expected 2 placeholders for 2.*found 3"):
        model(**wrong)
    ids = batch["input_ids"].masked_fill(batch["input_ids"] == model.config.image_token_id, 7)
    with pytest.raises(SpanError, match=r"sample 0, image 1: expected 1 placeholder.*found 0"):
        model(**{**batch, "input_ids": ids})
    embeddings = model.get_input_embeddings()(batch.pop("input_ids").clamp(max=200))
    with pytest.raises(SpanError, match="give input_ids, not inputs_embeds"):
        model(inputs_embeds=embeddings, **batch)


def test_what_cannot_work_is_refused() -> None:
    plain = tiny_spec().model_dump(mode="json")
    fusion = {"kind": "cross"}
    with pytest.raises(ValueError, match="attention 'mmca' would find none to treat apart"):
        ModelSpec.model_validate({**plain, "fusion": fusion, "attention": "mmca"})
    with pytest.raises(RecipeError, match=r"model.fusion.start is 9.*has 2 decoder layers"):
        make(start=9)
    model, processor = make()
    model.config.attention = "mmca"
    with pytest.raises(RecipeError, match=r"config.json: fusion 'cross'.*'mmca'"):
        TriptychForConditionalGeneration(model.config)
    batch = inputs(processor, SHORT)
    with pytest.raises(RecipeError, match="found DynamicCache; use"):
        model(**batch, past_key_values=DynamicCache())
    with pytest.raises(RecipeError, match="cache_implementation 'static', leave it out"):
        model.generate(**batch, **SETTINGS, cache_implementation="static")


def test_a_language_model_that_drops_the_argument_is_found_out() -> None:
    """Falcon takes any argument and passes none on: its images would silently not be seen."""
    config = {"model_type": "falcon", "hidden_size": 32, "num_hidden_layers": 2}
    spec = tiny_spec()
    language = spec.language.model_copy(update={"config": {**config, "num_attention_heads": 4}})
    changed = {"language": language, "fusion": CrossFusion(every=1)}
    model, processor = initialise(spec.model_copy(update=changed), texts=TEXTS)
    model.eval()
    model(**inputs(processor, TEXT))
    with pytest.raises(RecipeError, match=r"'falcon' does not pass arguments on to .* \[0, 1\]"):
        model(**inputs(processor, SHORT))
