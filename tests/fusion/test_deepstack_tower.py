"""DeepStack inside the vision tower: the tower's tokens, batches, training, serving, refusals."""

from typing import Any

import pytest
import torch
from PIL import Image
from tests.fusion.deep import SMALL as FIVE
from tests.fusion.deep import make, roughen
from tests.model.checks import LONG, SHORT, TEXT, check_cached_generation, close, inputs
from tests.model.tiny import picture
from tests.oracles.deepstack_tower import cut, cut_padded, encode
from tests.towers.families import TINY
from torch import Tensor

from triptych.images import plan_tiles
from triptych.model import TriptychForConditionalGeneration, TriptychProcessor

SMALL = {**FIVE, "depth": 6}
SIZES = [(60, 20), (10, 90), (33, 33), (16, 200), (64, 48)]
GRIDS = [(1, 2), (2, 1), (2, 2), (1, 3), (3, 1), (4, 1), (1, 4)]


def fusion(**changes: Any) -> dict[str, Any]:
    producer = {"kind": "tower", **changes.pop("producer", {})}
    return {"kind": "deepstack", "start": 1, "producer": producer, **changes}


def family(name: str) -> dict[str, Any]:
    deep = {**TINY[name], "num_hidden_layers": 5}
    return {"kind": "transformers", "config": deep}


def make_v(
    tower: dict[str, Any] | None = None, given: dict[str, Any] | None = None, **changes: Any
) -> tuple[TriptychForConditionalGeneration, TriptychProcessor]:
    torch.manual_seed(0)
    model, processor = make(given or fusion(), towers=[tower or SMALL], **changes)
    roughen(model)
    return model, processor


def tokens_of(
    model: TriptychForConditionalGeneration, processor: TriptychProcessor, *images: Image.Image
) -> Tensor:
    """What the tower gives for the sequence (U, P, D)."""
    plans = [processor.plan(*image.size) for image in images]
    tiles = torch.cat([torch.from_numpy(processor.tiles(image)) for image in images])
    assert model._inside is not None
    return model._inside.join(model.encode_tiles(tiles), None, plans, None)[0]


@torch.no_grad()
@pytest.mark.parametrize(
    "name",
    [
        "small",
        "clip_vision_model",
        "siglip_vision_model",
        "dinov2",
        "dinov2_with_registers",
        "vit",
    ],
)
def test_the_tower_gives_what_the_oracle_gives(name: str) -> None:
    model, processor = make_v(SMALL if name == "small" else family(name))
    side = model.tile_size
    images = [picture(n, size) for n, size in enumerate(SIZES)]
    one = torch.from_numpy(processor.tiles(images[0]))[:1]
    assert model.encode_tiles(one).shape[1:] == model.feature_shape
    found = tokens_of(model, processor, *images)
    assert len(found) == len(images)
    grids = set()
    for tokens, image in zip(found, images, strict=True):
        zoom = processor.plan(*image.size).zooms[0]
        assert zoom is not None
        overview = image.resize((side, side), Image.Resampling.BICUBIC)
        finer = cut(image, side, *zoom.grid)
        expected = encode(model.towers[0], overview, finer, [1, 2, 3, 4], "2d")
        torch.testing.assert_close(tokens, expected, rtol=1e-4, atol=1e-4)
        plain = model.towers[0](torch.from_numpy(processor.tiles(image))[:1])[0]
        assert not torch.allclose(tokens, plain, atol=1e-2)
        grids.add(zoom.grid)
    assert len(grids) > 2


@torch.no_grad()
@pytest.mark.parametrize("sampler", ["2d", "1d", "grid"])
@pytest.mark.parametrize("places", [[0, 2], [1, 4], [4, 5]])
def test_any_sampler_and_any_blocks(sampler: str, places: list[int]) -> None:
    producer = {"sampler": sampler, "grids": [[1, 2], [2, 1]]}
    model, processor = make_v(given=fusion(layers=places, producer=producer))
    image = picture(1, (40, 22))
    overview = image.resize((16, 16), Image.Resampling.BICUBIC)
    expected = encode(model.towers[0], overview, cut(image, 16, 1, 2), places, sampler)
    found = tokens_of(model, processor, image)[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize(("size", "grid"), [((64, 16), (2, 4)), ((16, 64), (4, 2))])
def test_grids_that_are_not_full(size: tuple[int, int], grid: tuple[int, int]) -> None:
    """Whole tiles of padding are not encoded and add nothing."""
    producer = {"fit": "pad", "grids": [list(grid)]}
    model, processor = make_v(given=fusion(start=2, count=8, interval=1, producer=producer),
                              tower={**SMALL, "depth": 10})  # fmt: skip
    image = picture(2, size)
    plan = processor.plan(*size)
    finer = cut_padded(image, 16, *grid)
    empty = sum(tile is None for row in finer for tile in row)
    assert plan.tiles == 1 + 8 - empty
    overview = image.resize((16, 16), Image.Resampling.BICUBIC)
    expected = encode(model.towers[0], overview, finer, list(range(2, 10)), "2d")
    found = tokens_of(model, processor, image)[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_an_image_costs_what_it_costs_without() -> None:
    model, processor = make_v()
    plain, without = make({"kind": "splice"}, towers=[SMALL])
    for size in SIZES:
        assert processor.count(*size) == without.count(*size) == 16
        assert model.sequence_tokens(*size) == plain.sequence_tokens(*size) == 16


@torch.no_grad()
def test_finer_tiles_matter_and_reach_their_own_image_alone() -> None:
    model, processor = make_v()
    batch = inputs(processor, SHORT, LONG)
    before = model(**batch).logits
    last = batch["pixel_values"][-1]
    batch["pixel_values"] = torch.cat([batch["pixel_values"][:-1], 255 - last[None]])
    after = model(**batch).logits
    close(before[0], after[0])
    assert not torch.allclose(before[1], after[1], atol=1e-3)
    seen = (batch["input_ids"][1] == model.config.image_token_id).nonzero().flatten()
    close(before[1][: seen[-16]], after[1][: seen[-16]])


def test_cached_generation_equals_the_full_forward() -> None:
    check_cached_generation(make_v())


@torch.no_grad()
def test_kept_states_give_the_same_logits() -> None:
    """What is kept of a tile are its states before the first group."""
    model, processor = make_v()
    batch = inputs(processor, LONG, SHORT)
    whole = model(**batch).logits
    batch["tile_features"] = model.encode_tiles(batch.pop("pixel_values"))
    close(model(**batch).logits, whole)


@pytest.mark.parametrize("at_once", [None, 2])
def test_gradients_with_and_without_chunks_and_checkpointing(at_once: int | None) -> None:
    model, processor = make_v()
    batch = inputs(processor, LONG, SHORT)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    model.train()
    model(**batch, labels=labels).loss.backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert {name for name, _ in model.towers.named_parameters(prefix="towers")} <= expected.keys()
    model.zero_grad()
    model.tiles_at_once = at_once
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model(**batch, labels=labels).loss.backward()
    for name, parameter in model.named_parameters():
        if name in expected:
            torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-3, atol=1e-6)


def test_finer_tiles_have_gradients_and_text_alone_has_all_of_them_at_zero() -> None:
    model, processor = make_v()
    batch = inputs(processor, SHORT)
    states = model.encode_tiles(batch.pop("pixel_values")).detach().requires_grad_()
    model(**batch, tile_features=states, labels=batch["input_ids"]).loss.backward()
    assert states.grad is not None
    assert bool((states.grad.abs().amax((1, 2)) > 0).all())
    assert len(states) > 1
    model.train()
    model.zero_grad()
    text = inputs(processor, TEXT)
    model(**text, labels=text["input_ids"]).loss.backward()
    grads = [parameter.grad for parameter in model.towers.parameters()]
    assert all(grad is not None and not bool(grad.any()) for grad in grads)


def test_plans_of_the_processor_and_of_the_model_agree() -> None:
    model, processor = make_v()
    for size in SIZES:
        expected = plan_tiles(*size, 16, model.tile_tokens.tiling, model.tile_tokens.zoom)
        assert processor.plan(*size) == expected
        assert processor.plan(*size).zooms[0] is not None
