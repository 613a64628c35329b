"""Tiny models with DeepStack fusion, and conversations for them."""

from typing import Any

from tests.model.tiny import TEXTS, answer, picture, tiny_spec, turn
from torch import Tensor, testing

from triptych.model import TriptychForConditionalGeneration, TriptychProcessor
from triptych.model.build import initialise
from triptych.model.spec import ModelSpec
from triptych.model.vision import IMAGE_INPUTS, Images

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


def make_spec(
    fusion: dict[str, Any], *, family: str = "llama", layers: int = 5, **changes: Any
) -> ModelSpec:
    plain = tiny_spec(family).model_dump(mode="json")
    plain["language"]["config"]["num_hidden_layers"] = layers
    return ModelSpec.model_validate({**plain, "fusion": fusion, **changes})


def make(fusion: dict[str, Any] | None = None, **changes: Any) -> Pair:
    """By default four groups before layers 1 to 4 of five."""
    spec = make_spec(fusion or {"kind": "deepstack"}, **changes)
    model, processor = initialise(spec, texts=TEXTS)
    return model.eval(), processor


def inputs(processor: TriptychProcessor, *conversations: Any, side: Any = "left") -> Inputs:
    batch = processor.apply_chat_template(
        list(conversations), tokenize=True, add_generation_prompt=True, padding_side=side
    )
    return dict(batch)


def images_of(batch: Inputs) -> Images:
    return Images(**{name: batch.get(name) for name in IMAGE_INPUTS})


def close(found: Tensor, wanted: Tensor) -> None:
    testing.assert_close(found.exp(), wanted.exp(), atol=2e-5, rtol=2e-4)
