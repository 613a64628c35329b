"""Tilings of every kind inside the model: order, batches, training, serving, checkpoints."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.model.tiny import TEXTS, answer, picture, tiny_spec, turn
from tests.oracles.tiling import tokens_in_words
from torch import Tensor, nn

from triptych.connectors import ConnectorSpec, MlpConnector, PerceiverConnector
from triptych.data.encode import Encoder
from triptych.data.features import FeatureCache
from triptych.data.schema import ImagePart, Message, Record, TextPart
from triptych.data.spec import DataSpec
from triptych.errors import SpanError
from triptych.images import AnyresTiling, FixedTiling, GridTiling, TilingSpec, padding_mask
from triptych.images.arrange import Learned
from triptych.inference.conversation import Conversation
from triptych.inference.engine import Engine
from triptych.inference.sampling import SamplingSpec
from triptych.model import TriptychForConditionalGeneration, TriptychProcessor
from triptych.model.build import initialise, load_pretrained
from triptych.model.vision import IMAGE_INPUTS, Images
from triptych.training.parts import begin_stage
from triptych.training.stages import StageSpec

SPHINX = GridTiling(tile_tags=True, skip="tagged", row_separator=True)
BARE = GridTiling(side=3, overview="none")
NEXT = AnyresTiling(unpad=True, order="rows", row_separator=True, skip="none")
ONE = AnyresTiling(one_tile=True, max_tiles=6, anchor="corner", overview="pad", edge="any")
PADDED = FixedTiling(fit="pad", unpad=True, row_separator=True)
LATENTS = PerceiverConnector(depth=1, heads=2, head_width=8, latents=3)
WHOLE = LATENTS.model_copy(update={"sampling": "whole_image"})
TILINGS: dict[str, tuple[TilingSpec, ConnectorSpec]] = {
    "sphinx": (SPHINX, MlpConnector()),
    "bare": (BARE, MlpConnector(pool=2)),
    "next": (NEXT, MlpConnector()),
    "one": (ONE, LATENTS),
    "whole": (GridTiling(), WHOLE),
    "padded": (PADDED, MlpConnector()),
}

WIDE, TALL, SQUARE, LONG = (40, 18), (11, 50), (16, 16), (90, 7)
MANY = [turn("a", picture(0, WIDE), picture(1, SQUARE)), answer("b"), turn("c", picture(2, LONG))]
SINGLE = [turn("is there", picture(3, TALL))]
TEXT = [turn("no image")]


def tiled(
    tiling: TilingSpec, connector: ConnectorSpec | None = None
) -> tuple[TriptychForConditionalGeneration, TriptychProcessor]:
    spec = tiny_spec(connector=connector).model_copy(update={"tiling": tiling})
    model, processor = initialise(spec, texts=TEXTS)
    return model.eval(), processor


def inputs(processor: TriptychProcessor, *conversations: Any, **options: Any) -> dict[str, Tensor]:
    return processor.apply_chat_template(
        list(conversations), tokenize=True, add_generation_prompt=True, **options
    )


def images_of(batch: dict[str, Tensor]) -> Images:
    return Images(**{name: batch.get(name) for name in IMAGE_INPUTS})


@pytest.fixture(params=TILINGS)
def pair(request: Any) -> tuple[TriptychForConditionalGeneration, TriptychProcessor]:
    return tiled(*TILINGS[request.param])


@torch.no_grad()
@pytest.mark.parametrize("tiling", [SPHINX, BARE, ONE, NEXT.model_copy(update={"unpad": False})])
def test_the_sequence_holds_the_tokens_that_the_definition_names(tiling: TilingSpec) -> None:
    model, processor = tiled(tiling)
    batch = inputs(processor, MANY)
    model.language_model.model.layers = nn.ModuleList()
    model.language_model.model.norm = nn.Identity()
    sequence = model.embed(batch["input_ids"], images_of(batch))[0]
    found = sequence[batch["input_ids"][0] == model.config.image_token_id]
    features = model.get_image_features(batch["pixel_values"], tile_index=batch.get("tile_index"))
    rows, first = [], 0
    for size in (WIDE, SQUARE, LONG):
        plan = processor.plan(*size)
        for word in tokens_in_words(plan, processor.layout, tiling):
            if "." in word:
                tile, token = map(int, word.split("."))
                rows.append(features[first + tile, token])
            else:
                row = model.tile_tokens.learned.index(Learned[word.upper()])
                rows.append(model.tile_tokens.weight[row])
        first += plan.tiles
    assert torch.equal(found, torch.stack(rows))


@torch.no_grad()
def test_a_ragged_batch_equals_one_by_one(pair: Any) -> None:
    model, processor = pair
    together = inputs(processor, MANY, TEXT, SINGLE)
    counts = together["tiles_per_image"].tolist()
    logits = model(**together).logits
    for row, conversation in enumerate((MANY, TEXT, SINGLE)):
        alone = model(**inputs(processor, conversation)).logits[0]
        assert torch.allclose(logits[row, -len(alone) :], alone, atol=2e-5)
    if not isinstance(processor.settings.tiling, FixedTiling):
        assert len(set(counts)) > 1


@torch.no_grad()
def test_serving_sees_what_training_saw(pair: Any) -> None:
    """Same ids, and the same logits from pixels in a training batch and from the engine's cache."""
    model, processor = pair
    conversation = [*MANY, answer("yes")]
    pictures = [picture(0, WIDE), picture(1, SQUARE), picture(2, LONG)]
    prompt = processor.encode(conversation, [one.size for one in pictures])
    tiles = [[processor.tiles(one) for one in pictures]]
    trained = model(**processor.collate([prompt], tiles)).logits
    engine = Engine(model, processor)
    request = engine.requests([conversation], add_generation_prompt=False)[0]
    assert request.prompt == prompt
    ids = torch.tensor([request.prompt.input_ids])
    served = model(input_ids=ids, **engine.vision.inputs([request.pictures])).logits
    assert torch.allclose(served, trained, atol=2e-5)


@torch.no_grad()
def test_rounds_with_a_kept_cache_equal_the_whole_conversation(pair: Any) -> None:
    model, processor = pair
    engine = Engine(model, processor)
    greedy = SamplingSpec(max_new_tokens=4)
    talk = Conversation(engine, sampling=greedy)
    first = talk.reply("a", [picture(0, WIDE), picture(1, SQUARE)])
    second = talk.reply("c", [picture(2, LONG)])
    pictures = engine.vision.look_all([picture(0, WIDE), picture(1, SQUARE), picture(2, LONG)])
    for reply, images in ((first, pictures[:2]), (second, pictures)):
        ids = torch.tensor([talk.ids[: reply.prompt_tokens]])
        logits = model(input_ids=ids, **engine.vision.inputs([images])).logits
        assert int(logits[0, -1].argmax()) == reply.tokens[0]


@torch.no_grad()
def test_beams_repeat_samples_with_their_sizes(pair: Any) -> None:
    model, processor = pair
    greedy: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None}
    together = model.generate(**inputs(processor, MANY, SINGLE), **greedy, num_beams=2)
    for row, conversation in enumerate((MANY, SINGLE)):
        alone = model.generate(**inputs(processor, conversation), **greedy, num_beams=2)
        assert together[row, -4:].tolist() == alone[0, -4:].tolist()


def test_learnable_tokens_train_with_the_connector_and_are_saved(tmp_path: Path) -> None:
    model, processor = tiled(SPHINX)
    assert model.tile_tokens.weight.shape == (4, 32)
    begin_stage(model, StageSpec(name="align", steps=1))
    assert model.tile_tokens.weight.requires_grad
    batch = inputs(processor, MANY, padding_side="right")
    labels = batch["input_ids"].masked_fill(batch["input_ids"] == processor.image_token_id, -100)
    model(**batch, labels=labels).loss.backward()
    assert model.tile_tokens.weight.grad.abs().sum(1).gt(0).all()
    begin_stage(
        model, StageSpec(name="frozen", steps=1, train={"connector": False, "towers": True})
    )
    assert not model.tile_tokens.weight.requires_grad
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded, reread = load_pretrained(tmp_path)
    batch = inputs(reread, MANY, SINGLE)
    assert torch.equal(loaded(**batch).logits, model.eval()(**batch).logits)


@pytest.mark.parametrize("images", [False, True])
def test_learnable_tokens_always_have_a_gradient(images: bool) -> None:
    """A square image needs no skip token; ranks must agree all the same."""
    model, processor = tiled(BARE)
    model.train()
    batch = inputs(processor, [turn("a", picture(1, SQUARE))] if images else TEXT)
    labels = batch["input_ids"].masked_fill(batch["input_ids"] == processor.image_token_id, -100)
    model(**batch, labels=labels).loss.backward()
    assert model.tile_tokens.weight.grad.eq(0).all()


def test_what_does_not_fit_together_is_refused() -> None:
    model, processor = tiled(SPHINX)
    batch = inputs(processor, MANY)
    missing = {name: value for name, value in batch.items() if name != "image_sizes"}
    with pytest.raises(SpanError, match="tiling 'grid' needs image_sizes"):
        model(**missing)
    wrong = batch | {"image_sizes": torch.tensor([SQUARE, SQUARE, LONG])}
    with pytest.raises(
        SpanError, match=r"image 1 of the batch \(16x16\): expected 5 tiles, found 3"
    ):
        model(**wrong)
    other = TriptychProcessor(
        processor.tokenizer,
        processor.vision | {"tiling": BARE.model_dump(mode="json")},
        processor.end_token,
        str(processor.chat_template),
    )
    with pytest.raises(SpanError, match="the processor's tiling is not the model's"):
        model(**inputs(other, MANY))


@torch.no_grad()
def test_a_connector_that_masks_gets_the_padding_of_every_tile() -> None:
    model, processor = tiled(GridTiling(edge="any"), LATENTS)

    class Recorder(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner, self.masks = inner, []

        def forward(self, features: Tensor, mask: Tensor | None, tiles: Tensor | None) -> Tensor:
            self.masks.append(mask)
            return self.inner(features, mask, tiles)

    model.connector = Recorder(model.connector)
    model(**inputs(processor, MANY, SINGLE))
    plans = [processor.plan(*size) for size in (WIDE, SQUARE, LONG, TALL)]
    expected = np.concatenate([padding_mask(plan, model.tower_layout) for plan in plans])
    assert not expected.all()
    assert model.connector.masks[0].tolist() == expected.tolist()
    model(**inputs(processor, [turn("a", picture(1, SQUARE))]))
    assert model.connector.masks[1] is None, "nothing is padding, so nothing needs a mask"


@torch.no_grad()
def test_features_cached_on_disk_give_what_pixels_give(pair: Any, tmp_path: Path) -> None:
    model, processor = pair
    parts = []
    for number, size in enumerate((WIDE, SQUARE, LONG)):
        picture(number, size).save(tmp_path / f"{number}.png")
        parts.append(ImagePart(f"{number}.png", tmp_path))
    user = Message("user", (*parts, TextPart("a")))
    record = Record((user, Message("assistant", (TextPart("yes"),))))
    cache = FeatureCache.build(tmp_path / "kept", "towers", parts, processor, model.encode_tiles)
    spec = DataSpec(sources={"all": {"path": "all.jsonl"}})
    logits = []
    for features in (None, cache):
        encoder = Encoder(processor, spec, features)
        sample = encoder.sample(record)
        assert sample is not None
        batch = processor.collate([sample.prompt], [encoder.tiles(record)])
        assert int(batch["tiles_per_image"].sum()) == sample.tiles
        logits.append(model(**batch).logits)
    assert torch.allclose(*logits, atol=0.02), "kept in 16 bits"
