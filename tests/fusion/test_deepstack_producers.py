"""Groups inside the tower, and levels of the tower: with everything else that a model can be."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from tests.fusion.deep import LONG, SETTINGS, SHORT, TEXT, close, inputs, make, make_spec
from tests.model.tiny import picture
from tests.towers.families import TINY
from torch import Tensor

from triptych.errors import RecipeError
from triptych.inference.conversation import Conversation
from triptych.inference.engine import Engine
from triptych.inference.sampling import SamplingSpec
from triptych.model.build import load_pretrained
from triptych.model.configuration import Panels

SMALL = {"kind": "small", "size": 16, "patch": 4, "hidden": 16, "depth": 5, "heads": 2}
TOWER = {"kind": "deepstack", "start": 1, "producer": {"kind": "tower"}}
LEVELS = {"kind": "deepstack", "producer": {"kind": "levels", "blocks": [0, 2, 3]}}
BOTH = {"tower": TOWER, "levels": LEVELS}
LATENTS = {"kind": "perceiver", "depth": 1, "heads": 2, "head_width": 8, "latents": 3}

SURROUNDINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "inside, anyres": ("tower", {"tiling": {"kind": "anyres"}}),
    "inside, sphinx": ("tower", {"tiling": {"kind": "grid", "tile_tags": True, "skip": "tagged"}}),
    "inside, perceiver": ("tower", {"connector": LATENTS}),
    "inside, whole image": ("tower", {"connector": {**LATENTS, "sampling": "whole_image"}}),
    "inside, mmca": ("tower", {"attention": "mmca"}),
    "levels, anyres": (
        "levels",
        {"tiling": {"kind": "anyres", "unpad": True, "order": "rows", "skip": "none",
                    "row_separator": True}},
    ),
    "levels, sphinx": ("levels", {"tiling": {"kind": "grid", "tile_tags": True, "side": 3}}),
    "levels, folded": ("levels", {"connector": {"kind": "pixel_shuffle", "factor": 2}}),
    "levels, pooled": ("levels", {"connector": {"kind": "mlp", "pool": 2}}),
    "levels, mmca": ("levels", {"attention": "mmca", "image_scope": "image"}),
}  # fmt: skip


def build(name: str, **changes: Any) -> Any:
    model, processor = make(BOTH[name], **{"towers": [SMALL], **changes})
    for key, parameter in model.towers.named_parameters():
        if parameter.ndim > 1 and "position" not in key:
            torch.nn.init.normal_(parameter, std=0.15)
    return model, processor


@torch.no_grad()
@pytest.mark.parametrize("name", SURROUNDINGS)
def test_batch_equals_one_by_one_and_detail_counts(name: str) -> None:
    producer, changes = SURROUNDINGS[name]
    model, processor = build(producer, **changes)
    batch = inputs(processor, LONG, TEXT, SHORT)
    together = model(**batch).logits
    for row, conversation in enumerate((LONG, TEXT, SHORT)):
        alone = model(**inputs(processor, conversation)).logits[0]
        close(together[row][batch["attention_mask"][row].bool()], alone)
    cached = model.generate(**batch, **SETTINGS)
    assert cached.tolist() == model.generate(**batch, **SETTINGS, use_cache=False).tolist()
    plain, _ = make({"kind": "splice"}, towers=[SMALL], **changes)
    plain.load_state_dict(model.state_dict(), strict=False)
    pixels = {} if producer == "levels" else own_pixels(processor, batch)
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


@torch.no_grad()
@pytest.mark.parametrize("name", BOTH)
def test_saved_and_loaded_models_are_the_same(name: str, tmp_path: Path) -> None:
    model, processor = build(name)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again, reread = load_pretrained(tmp_path)
    assert again.config.parse_panels() == model.config.parse_panels()
    batch, other = inputs(processor, LONG), inputs(reread, LONG)
    assert torch.equal(again(**other).logits, model(**batch).logits)


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("attention", ["causal", "mmca"])
def test_the_engine_answers_as_generate_does(name: str, attention: str) -> None:
    model, processor = build(name, attention=attention)
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
    model, processor = build(name, attention="mmca")
    sampling = SamplingSpec(max_new_tokens=4)
    texts = []
    for kept in (False, True):
        conversation = Conversation(Engine(model, processor, image_cache=kept))
        conversation.reply("what color?", [picture(0, (60, 20))], sampling)
        texts.append(conversation.reply("and here", [picture(1), picture(0)], sampling).text)
    assert texts[0] == texts[1]


def test_levels_train_with_the_fusion_and_reach_the_tower() -> None:
    model, processor = build("levels")
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
    model, processor = build("levels")
    batch = inputs(processor, TEXT)
    for tower in (True, False):
        model.zero_grad()
        model.train().towers.requires_grad_(tower)
        model(**batch, labels=batch["input_ids"]).loss.backward()
        assert model.stack_producer is not None
        grads = [p.grad for p in model.stack_producer.parameters()]
        assert all(grad is not None and not bool(grad.any()) for grad in grads)


def test_frozen_towers_run_without_autograd() -> None:
    model, processor = build("tower")
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
