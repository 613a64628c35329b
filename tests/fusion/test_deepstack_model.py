"""DeepStack fusion inside a model: the oracle, padding, caches, generation, compilation."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.fusion.deep import PRODUCERS, images_of, make, make_producer, make_spec
from tests.model.checks import (
    LONG,
    SETTINGS,
    SHORT,
    TEXT,
    Inputs,
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
from tests.model.tiny import FAMILIES, TEXTS, picture, turn
from tests.oracles.deepstack import groups_of, look, run
from torch import Tensor

from triptych.errors import RecipeError, SpanError
from triptych.model.build import initialise
from triptych.model.processing import image_sources

TWO = {"kind": "deepstack", "layers": [0, 1], "producer": {"kind": "mosaic"}}
SAMPLERS = ["2d", "1d", "grid"]


def stacked(sampler: str, **fusion: Any) -> dict[str, Any]:
    return {"kind": "deepstack", "producer": {"kind": "mosaic", "sampler": sampler}, **fusion}


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(
    "fusion", [{}, {"start": 0, "interval": 2, "count": 2}, {"layers": [3, 4]}]
)
def test_logits_equal_the_oracle(sampler: str, fusion: dict[str, Any], side: str) -> None:
    """Images of three shapes: grids of 1 x 2, 1 x 3 or 1 x 2, and 4 x 1 or 2 x 1."""
    model, processor = make(stacked(sampler, **fusion))
    places = list(model.config.parse_panels().fusion.places)
    batch = inputs(processor, LONG, TEXT, SHORT, side=side)
    logits = model(**batch).logits
    for row, conversation in enumerate((LONG, TEXT, SHORT)):
        images = []
        for image in image_sources(conversation):
            grid = processor.plan(*image.size).zooms[0].grid
            overview, mosaic = look(model, image, *grid)
            images.append((overview, groups_of(mosaic, *grid, sampler)))
        kept = batch["attention_mask"][row].bool()
        wanted = run(model, batch["input_ids"][row][kept], images, places)
        close(logits[row][kept], wanted)
        if places[0] > 0:
            behind = run(model, batch["input_ids"][row][kept], images, places, after=True)
            close(behind, wanted)


@torch.no_grad()
def test_every_group_counts() -> None:
    """Leaving out the additions of any single layer changes the logits."""
    model, processor = make(
        {"kind": "deepstack", "producer": {"kind": "mosaic", "grids": [[2, 2]]}}
    )
    batch = inputs(processor, SHORT)
    embeddings, stacks = model.embed_stacked(batch["input_ids"], images_of(batch))
    assert stacks is not None
    assert stacks.shape[:3] == (1, 4, batch["input_ids"].shape[1])
    wanted = model(**batch).logits
    assert torch.equal(model(inputs_embeds=embeddings, stacks=stacks).logits, wanted)
    for group in range(4):
        less = stacks.clone()
        less[:, group] = 0
        found = model(inputs_embeds=embeddings, stacks=less).logits
        assert not torch.allclose(found, wanted, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_batch_equals_one_by_one_in_every_family(family: str) -> None:
    pair = model, processor = make(TWO, family=family, layers=2)
    check_batch(pair, LONG, SHORT, TEXT)
    batch = inputs(processor, LONG, SHORT, TEXT)
    _, stacks = model.embed_stacked(batch["input_ids"], images_of(batch))
    assert stacks is not None
    visual = batch["input_ids"] == model.config.image_token_id
    assert not stacks[~visual[:, None].expand(stacks.shape[:3])].any()


@torch.no_grad()
def test_the_sequence_is_as_long_as_without_groups() -> None:
    plain, deep = make({"kind": "splice"})[1], make()[1]
    for conversation in (LONG, SHORT, TEXT):
        ids = [inputs(one, conversation)["input_ids"] for one in (plain, deep)]
        assert torch.equal(*ids)
    assert deep.plan(60, 20).tiles == 4
    assert deep.plan(60, 20).in_sequence == 1


@torch.no_grad()
def test_text_alone_is_the_plain_model_bit_for_bit() -> None:
    model, processor = make()
    batch = inputs(processor, TEXT)
    base = model.language_model(batch["input_ids"]).logits
    new = model.new_tokens.first
    assert torch.equal(model(**batch).logits[..., :new], base[..., :new])


@torch.no_grad()
@pytest.mark.parametrize("producer", PRODUCERS)
def test_chunks_cut_anywhere_equal_the_whole(producer: str) -> None:
    """Also through the middle of an image: the stacks are cut where the embeddings are."""
    model, processor = make_producer(producer)
    batch = inputs(processor, LONG)
    whole = model(**batch).logits
    embeddings, stacks = model.embed_stacked(batch["input_ids"], images_of(batch))
    assert (stacks is None) == (producer == "tower")
    first = int((batch["input_ids"] == model.config.image_token_id)[0].nonzero()[0, 0])
    cache, found, start = model.make_cache(), [], 0
    for stop in (first + 1, first + 3, first + 7, whole.shape[1] - 1, whole.shape[1]):
        out = model(
            inputs_embeds=embeddings[:, start:stop],
            stacks=None if stacks is None else stacks[:, :, start:stop],
            past_key_values=cache,
            use_cache=True,
        )
        found.append(out.logits)
        start = stop
    close(torch.cat(found, 1), whole)


@pytest.mark.parametrize("change", [{}, {"do_sample": True, "temperature": 2.0}, {"num_beams": 3}])
def test_generation_with_a_cache_equals_that_without(change: dict[str, Any]) -> None:
    check_cached_generation(make(), **change)


@pytest.mark.parametrize("change", [{}, {"num_beams": 3}])
def test_generation_in_a_batch_equals_alone(change: dict[str, int]) -> None:
    check_generation(make(), LONG, SHORT, TEXT, **change)


@torch.no_grad()
@pytest.mark.parametrize("beams", [1, 2])
def test_generation_from_embeddings_takes_the_stacks_along(beams: int) -> None:
    model, processor = make()
    batch = inputs(processor, LONG, SHORT)
    wanted = model.generate(**batch, **SETTINGS, num_beams=beams)[:, -5:]
    embeddings, stacks = model.embed_stacked(batch["input_ids"], images_of(batch))
    found = model.generate(
        inputs_embeds=embeddings, stacks=stacks, attention_mask=batch["attention_mask"],
        **SETTINGS, num_beams=beams,
    )  # fmt: skip
    assert torch.equal(found, wanted)


@torch.no_grad()
def test_a_static_cache_changes_nothing() -> None:
    model, processor = make()
    batch = inputs(processor, LONG, SHORT, TEXT)
    wanted = model.generate(**batch, **SETTINGS)
    assert torch.equal(model.generate(**batch, **SETTINGS, cache_implementation="static"), wanted)


@torch.no_grad()
@pytest.mark.parametrize("producer", PRODUCERS)
def test_interleaved_generations_do_not_disturb_each_other(producer: str) -> None:
    """Two generations at once, step by step: nothing of either is kept in the model."""
    model, processor = make_producer(producer)
    batches = [inputs(processor, LONG), inputs(processor, SHORT)]
    alone = [model.generate(**batch, **SETTINGS)[0, -5:].tolist() for batch in batches]
    caches = [model.make_cache() for _ in batches]
    steps: list[Inputs] = [dict(batch) for batch in batches]
    found: list[list[int]] = [[], []]
    for _ in range(5):
        for number, cache in enumerate(caches):
            out = model(**steps[number], past_key_values=cache, use_cache=True)
            found[number].append(int(out.logits[0, -1].argmax()))
            steps[number] = {"input_ids": torch.tensor([found[number][-1:]])}
    assert found == alone


def test_packed_documents_equal_single_ones() -> None:
    check_packed(make(attention="mmca"), LONG, TEXT, SHORT)


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "mixtral"])
def test_gradients_reach_every_part_and_checkpointing_changes_nothing(family: str) -> None:
    model, processor = make(TWO, family=family, layers=2)
    check_checkpointing(model, training_batch(processor))
    parts = [model.towers, model.connector]
    assert all(p.grad.abs().sum() > 0 for part in parts for p in part.parameters())


def test_gradients_come_through_the_groups() -> None:
    """With zeros in the sequence the groups are all that the loss can reach the towers by."""
    fusion = {**TWO, "sequence": "zeros"}
    model, processor = make(fusion, layers=2)
    model.train()(**training_batch(processor)).loss.backward()
    assert all(p.grad.abs().sum() > 0 for p in model.towers.parameters())


def test_text_alone_trains_with_a_gradient_of_zero_for_everything_visual() -> None:
    for fusion in (None, {"kind": "channels"}):
        pair = model, _ = make(fusion)
        check_text_alone_trains(pair, model.towers, model.connector)


@torch.no_grad()
def test_compiled_layers_add_the_groups() -> None:
    """Compiled on text alone first, so that a graph without additions could be taken again."""
    model, processor = make(TWO, layers=2)
    text, image = inputs(processor, TEXT), inputs(processor, LONG)
    wanted = [model(**one, use_cache=False).logits for one in (text, image)]
    embeddings, stacks = model.embed_stacked(image["input_ids"], images_of(image))
    assert stacks is not None
    torch.compiler.reset()
    compiled = copy.deepcopy(model)
    compiled.language_model.get_decoder().compile(backend="eager", dynamic=True)
    close(compiled(**text, use_cache=False).logits, wanted[0])
    close(compiled(**image, use_cache=False).logits, wanted[1])
    without = compiled(inputs_embeds=embeddings, stacks=0 * stacks, use_cache=False).logits
    assert not torch.allclose(without, wanted[1], atol=1e-3)


def test_the_fusion_is_part_of_the_checkpoint(tmp_path: Path) -> None:
    check_saved(make(stacked("1d", layers=[1, 3, 4])), tmp_path)


@torch.no_grad()
def test_a_copy_has_additions_of_its_own() -> None:
    model, processor = make()
    batch = inputs(processor, SHORT)
    wanted: Tensor = model(**batch).logits
    copied = copy.deepcopy(model)
    del model
    assert torch.equal(copied(**batch).logits, wanted)


@torch.no_grad()
def test_embeddings_without_stacks_are_refused() -> None:
    """What images add would be lost without a word."""
    model, processor = make()
    batch = inputs(processor, SHORT)
    embeddings, stacks = model.embed_stacked(batch["input_ids"], images_of(batch))
    assert stacks is not None
    with pytest.raises(SpanError, match="needs stacks beside inputs_embeds"):
        model(inputs_embeds=embeddings)
    with pytest.raises(SpanError, match=r"stacks come with inputs_embeds; leave them out"):
        model(**batch, stacks=stacks)
    with pytest.raises(SpanError, match=r"but the tokens given need \(1, 4, 3, 32\)"):
        model(inputs_embeds=embeddings[:, :3], stacks=stacks)
    plain, _ = make({"kind": "splice"})
    with pytest.raises(SpanError, match="stacks belong to fusion 'deepstack'"):
        plain(inputs_embeds=embeddings, stacks=stacks)
    sizes = batch.pop("image_sizes")
    with pytest.raises(SpanError, match="tiling 'fixed', zoomed, needs image_sizes"):
        model(**batch)
    fewer = {**batch, "pixel_values": batch["pixel_values"][:2], "image_sizes": sizes.flip(1)}
    with pytest.raises(SpanError, match=r"\(16x20\): expected 3 tiles, found 2"):
        model(**{**fewer, "tiles_per_image": torch.tensor([2])})


def test_a_language_model_that_drops_the_argument_is_found_out() -> None:
    """Falcon takes any argument and passes none on: its groups would silently not be added."""
    config = {"model_type": "falcon", "hidden_size": 32, "num_hidden_layers": 2}
    spec = make_spec(TWO, layers=2)
    language = spec.language.model_copy(update={"config": {**config, "num_attention_heads": 4}})
    model, processor = initialise(spec.model_copy(update={"language": language}), texts=TEXTS)
    with pytest.raises(RecipeError, match=r"'falcon' does not pass arguments on to .* \[0, 1\]"):
        model.eval()(**inputs(processor, [turn("a", picture(1))]))
