"""Tiny models with DeepStack fusion, of every producer of groups."""

from typing import Any

import torch
from tests.model.checks import Inputs, Pair
from tests.model.tiny import TEXTS, tiny_spec

from triptych.model import TriptychForConditionalGeneration
from triptych.model.build import initialise
from triptych.model.spec import ModelSpec
from triptych.model.vision import IMAGE_INPUTS, Images

SMALL = {"kind": "small", "size": 16, "patch": 4, "hidden": 16, "depth": 5, "heads": 2}
TOWER = {"kind": "deepstack", "start": 1, "producer": {"kind": "tower"}}
LEVELS = {"kind": "deepstack", "producer": {"kind": "levels", "blocks": [0, 2, 3]}}
PRODUCERS: dict[str, dict[str, Any]] = {
    "overview": {},
    "tiles": {
        "fusion": {"kind": "deepstack", "producer": {"kind": "mosaic", "of": "tiles"}},
        "tiling": {"kind": "grid", "side": 2},
    },
    "tower": {"fusion": TOWER, "towers": [SMALL]},
    "levels": {"fusion": LEVELS, "towers": [SMALL]},
    "repeat": {"fusion": {"kind": "deepstack", "producer": {"kind": "repeat"}}},
}


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


def make_producer(name: str, **changes: Any) -> Pair:
    """A model of one of the producers, in whose logits every group can be seen."""
    model, processor = make(**{**PRODUCERS[name], **changes})
    roughen(model)
    return model, processor


def roughen(model: TriptychForConditionalGeneration) -> None:
    """Give the towers weights so large that their blocks matter."""
    for name, parameter in model.towers.named_parameters():
        if parameter.ndim > 1 and "position" not in name:
            torch.nn.init.normal_(parameter, std=0.15)


def images_of(batch: Inputs) -> Images:
    return Images(**{name: batch.get(name) for name in IMAGE_INPUTS})
