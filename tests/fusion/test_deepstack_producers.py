"""Every producer of groups with everything else that a model can be."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from tests.fusion.deep import LEVELS, PRODUCERS, SMALL, TOWER, make, make_producer, make_spec
from tests.model.checks import (
    LONG,
    SHORT,
    TEXT,
    check_batch,
    check_cached_generation,
    check_checkpointing,
    check_generation,
    check_packed,
    check_saved,
    inputs,
    training_batch,
)
from tests.model.tiny import picture
from tests.towers.families import TINY
from torch import Tensor

from triptych.errors import RecipeError
from triptych.inference.conversation import Conversation
from triptych.inference.engine import Engine
from triptych.inference.sampling import SamplingSpec
from triptych.model.configuration import Panels

BOTH = {"tower": TOWER, "levels": LEVELS}
LATENTS = {"kind": "perceiver", "depth": 1, "heads": 2, "head_width": 8, "latents": 3}

TAGGED = {"kind": "grid", "tile_tags": True, "skip": "tagged"}
FOLDED = {"kind": "pixel_shuffle", "factor": 2}

SURROUNDINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "tiles, folded": ("tiles", {"connector": FOLDED, "attention": "mmca", "image_scope": "image"}),
    "inside, anyres": ("tower", {"tiling": {"kind": "anyres"}}),
    "inside, sphinx": ("tower", {"tiling": TAGGED}),
    "inside, folded": ("tower", {"connector": FOLDED}),
    "inside, perceiver": ("tower", {"connector": LATENTS}),
    "inside, whole image": ("tower", {"connector": {**LATENTS, "sampling": "whole_image"}}),
    "inside, mmca": ("tower", {"attention": "mmca"}),
    "levels, anyres": (
        "levels",
        {"tiling": {"kind": "anyres", "unpad": True, "order": "rows", "skip": "none",
                    "row_separator": True}},
    ),
    "levels, sphinx": ("levels", {"tiling": {"kind": "grid", "tile_tags": True, "side": 3}}),
    "levels, tagged": ("levels", {"tiling": TAGGED}),
    "levels, folded": ("levels", {"connector": FOLDED}),
    "levels, vit": ("levels", {"connector": {"kind": "vit", "heads": 2}}),
    "levels, pooled": ("levels", {"connector": {"kind": "mlp", "pool": 2}}),
    "levels, mmca": ("levels", {"attention": "mmca", "image_scope": "image"}),
    "repeat, anyres": ("repeat", {"tiling": {"kind": "anyres", "unpad": True}}),
    "repeat, tagged": ("repeat", {"tiling": TAGGED}),
    "repeat, whole image": ("repeat", {"connector": {**LATENTS, "sampling": "whole_image"}}),
    "repeat, mmca": ("repeat", {"attention": "mmca"}),
}  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("name", SURROUNDINGS)
def test_batch_equals_one_by_one_and_detail_counts(name: str) -> None:
    producer, changes = SURROUNDINGS[name]
    pair = model, processor = make_producer(producer, **changes)
    together = check_batch(pair, LONG, TEXT, SHORT)
    check_cached_generation(pair)
    plain, _ = make(**{**PRODUCERS[producer], **changes, "fusion": {"kind": "splice"}})
    plain.load_state_dict(model.state_dict(), strict=False)
    batch = inputs(processor, LONG, TEXT, SHORT)
    pixels = {} if model.tile_tokens.zoom is None else own_pixels(processor, batch)
    assert not torch.allclose(plain(**{**batch, **pixels}).logits, together, atol=1e-3)


def own_pixels(processor: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tiles in the sequence alone, for a model that does not zoom."""
    index = batch.pop("tile_index", torch.arange(len(batch["pixel_values"])))
    kept, counts, first = [], [], 0
    for size, tiles in zip(batch["image_sizes"], batch["tiles_per_image"], strict=True):
        counts.append(processor.plan(*size.tolist()).in_sequence)
        kept.append(index[first : first + counts[-1]])
        first += int(tiles)
    pixels = batch["pixel_values"][torch.cat(kept)]
    return {"pixel_values": pixels, "tiles_per_image": torch.tensor(counts)}


@pytest.mark.parametrize("name", PRODUCERS)
def test_rows_padded_on_either_side_and_packed_equal_one_by_one(name: str) -> None:
    pair = make_producer(name)
    for side in ("left", "right"):
        check_batch(pair, LONG, TEXT, SHORT, side=side)
    check_packed(pair, LONG, TEXT, SHORT)


@pytest.mark.parametrize(
    ("name", "attention"), [*((name, "causal") for name in PRODUCERS), ("overview", "mmca")]
)
def test_beams_in_a_batch_equal_alone(name: str, attention: str) -> None:
    pair = make_producer(name, attention=attention)
    check_generation(pair, LONG, SHORT, TEXT, num_beams=2, num_return_sequences=2)


@pytest.mark.parametrize(
    ("name", "attention"),
    [("tiles", "causal"), ("levels", "causal"), ("levels", "mmca"), ("repeat", "causal")],
)
def test_gradient_checkpointing_changes_nothing(name: str, attention: str) -> None:
    model, processor = make_producer(name, attention=attention)
    check_checkpointing(model, training_batch(processor))
    assert model.stack_producer is not None
    parts = [model.towers, model.connector, model.stack_producer]
    assert all(bool(p.grad.any()) for part in parts for p in part.parameters())


@pytest.mark.parametrize("name", BOTH)
def test_saved_and_loaded_models_are_the_same(name: str, tmp_path: Path) -> None:
    check_saved(make_producer(name), tmp_path)


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("attention", ["causal", "mmca"])
def test_the_engine_answers_as_generate_does(name: str, attention: str) -> None:
    model, processor = make_producer(name, attention=attention)
    sampling = SamplingSpec(max_new_tokens=5)
    questions = [LONG, SHORT, TEXT]
    alone = [Engine(model, processor).answer([one], sampling)[0] for one in questions]
    assert Engine(model, processor).answer(questions, sampling) == alone
    batch = inputs(processor, LONG)
    with torch.no_grad():
        ids = model.generate(**batch, max_new_tokens=5, do_sample=False)
    wanted = processor.tokenizer.decode(
        ids[0, batch["input_ids"].shape[1] :], skip_special_tokens=True
    )
    assert alone[0] == wanted


@pytest.mark.parametrize("name", BOTH)
def test_images_are_reused_in_later_rounds(name: str) -> None:
    model, processor = make_producer(name, attention="mmca")
    sampling = SamplingSpec(max_new_tokens=4)
    texts = []
    for kept in (False, True):
        conversation = Conversation(Engine(model, processor, image_cache=kept))
        conversation.reply("what color?", [picture(0, (60, 20))], sampling)
        texts.append(conversation.reply("and here", [picture(1), picture(0)], sampling).text)
    assert texts[0] == texts[1]


def test_levels_train_with_the_fusion_and_reach_the_tower() -> None:
    model, processor = make_producer("levels")
    batch = inputs(processor, LONG, SHORT)
    model.train()
    model(**batch, labels=batch["input_ids"]).loss.backward()
    assert model.stack_producer is not None
    for part in (model.stack_producer, model.towers):
        assert all(p.grad is not None and bool(p.grad.any()) for p in part.parameters())
    features = model.encode_tiles(batch.pop("pixel_values")).detach().requires_grad_()
    assert features.shape[1:] == model.feature_shape
    model(**batch, tile_features=features, labels=batch["input_ids"]).loss.backward()
    assert features.grad is not None
    levels = features.grad.split(16, -1)
    assert len(levels) == 4
    assert all(bool((level.abs().amax((1, 2)) > 0).all()) for level in levels)


def test_text_alone_gives_every_merger_a_gradient_of_zero() -> None:
    model, processor = make_producer("levels")
    batch = inputs(processor, TEXT)
    for tower in (True, False):
        model.zero_grad()
        model.train().towers.requires_grad_(tower)
        model(**batch, labels=batch["input_ids"]).loss.backward()
        assert model.stack_producer is not None
        grads = [p.grad for p in model.stack_producer.parameters()]
        assert all(grad is not None and not bool(grad.any()) for grad in grads)


def test_frozen_towers_run_without_autograd() -> None:
    model, processor = make_producer("tower")
    model.train().towers.requires_grad_(False)
    batch = inputs(processor, SHORT)
    features = model.encode_tiles(batch["pixel_values"])
    assert not features.requires_grad
    assert model._inside is not None
    joined = model._inside.join(features, None, [processor.plan(20, 16)], None)[0]
    assert not joined.requires_grad
    text = inputs(processor, TEXT)
    assert bool(torch.isfinite(model(**text, labels=text["input_ids"]).loss))


REFUSED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    (TOWER, {"towers": [{**SMALL, "depth": 4}]}, "before block 4 .* 'small' has 4 blocks, 0 to 3"),
    (TOWER, {"towers": [SMALL, SMALL]}, "counts the blocks of one tower, but the model has 2"),
    (TOWER, {"tiling": {"kind": "grid", "overview": "none"}}, "model.tiling.overview is 'none'"),
    ({**TOWER, "sequence": "zeros"}, {}, "would leave nothing of the image"),
    (LEVELS, {"towers": [{**SMALL, "depth": 3}]}, "taps block 3 .* has 3 blocks"),
    (LEVELS | {"count": 2}, {}, "3 levels need as many layers, found 2"),
    (LEVELS | {"layers": [1, 2]}, {}, "3 levels need as many layers, found 2"),
    (LEVELS | {"start": 3}, {}, "before decoder layer 5, but the language model has 5"),
]


@pytest.mark.parametrize(("fusion", "changes", "message"), REFUSED)
def test_what_cannot_work_is_refused_with_the_recipe(
    fusion: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        make_spec(fusion, **{"towers": [SMALL], **changes})


@pytest.mark.parametrize("name", ["convnext", "convnextv2", "efficientnet", "dinov3_vit"])
@pytest.mark.parametrize("fusion", BOTH)
def test_towers_without_blocks_are_refused(name: str, fusion: str) -> None:
    towers = [{"kind": "transformers", "config": TINY[name]}]
    one = {**BOTH[fusion], "layers": [1]}
    if fusion == "levels":
        one["producer"] = {"kind": "levels", "blocks": [1]}
    else:
        one["producer"] = {"kind": "tower", "grids": [[1, 1]]}
    if (name, fusion) == ("dinov3_vit", "levels"):
        assert make_spec(one, towers=towers)
        return
    with pytest.raises(ValidationError, match=f"'{name}' is not a row of blocks"):
        make_spec(one, towers=towers)


def test_levels_need_tokens_that_have_a_place() -> None:
    with pytest.raises(ValidationError, match="the connector's tokens have no place"):
        make_spec(LEVELS, towers=[SMALL], connector=LATENTS)
    with pytest.raises(RecipeError, match=r"blocks of 3 x 3 tokens do not part .* 4 x 4"):
        make(LEVELS, towers=[SMALL], connector={"kind": "mlp", "pool": 3})
    clip = {"kind": "transformers", "config": TINY["clip_vision_model"], "cls": "keep"}
    one = {"kind": "deepstack", "producer": {"kind": "levels", "blocks": [1]}}
    make(one, towers=[clip])
    with pytest.raises(RecipeError, match="with 1 before it"):
        make(one, towers=[clip], connector={"kind": "mlp", "pool": 2})


def test_a_fusion_survives_its_own_text() -> None:
    for fusion in BOTH.values():
        plain = {"towers": [SMALL], "connector": {"kind": "linear"}, "fusion": fusion}
        panels = Panels.model_validate(plain)
        assert Panels.model_validate(panels.model_dump(mode="json")) == panels
