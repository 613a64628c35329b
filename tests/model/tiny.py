"""Tiny random models over every language-model family that is promised to work."""

from typing import Any

import numpy as np
from PIL import Image

from triptych.connectors import ConnectorSpec, MlpConnector
from triptych.language import TrainedTokenizer, TransformersLanguage
from triptych.model import TriptychForConditionalGeneration, TriptychProcessor
from triptych.model.build import initialise
from triptych.model.spec import ModelSpec, TemplateSpec
from triptych.towers.small import SmallTower

TEXTS = ["what color is the shape in image 2?", "is there a circle?", "yes", "no", "Image 1:\n"]

_SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
}
_MOE: dict[str, Any] = {"num_experts_per_tok": 2, "num_local_experts": 4}

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": None},
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "phi3": {},
    "gemma": {"head_dim": 8},
    "gemma3_text": {"head_dim": 8},
    "smollm3": {},
    "mixtral": _MOE,
    "qwen3_moe": {"head_dim": 8, "num_experts": 4, "moe_intermediate_size": 32, **_MOE},
}


def tiny_spec(
    family: str = "llama",
    *,
    template: TemplateSpec | None = None,
    connector: ConnectorSpec | None = None,
) -> ModelSpec:
    config = {"model_type": family, **_SIZES, **FAMILIES[family]}
    return ModelSpec(
        towers=(SmallTower(size=16, patch=8, hidden=16, depth=1, heads=2),),
        connector=connector or MlpConnector(),
        language=TransformersLanguage(config=config, tokenizer=TrainedTokenizer(vocabulary=300)),
        template=template or TemplateSpec(family="compact", numbered="before"),
    )


def tiny_model(
    family: str = "llama", *, template: TemplateSpec | None = None, seed: int = 0
) -> tuple[TriptychForConditionalGeneration, TriptychProcessor]:
    return initialise(tiny_spec(family, template=template), seed=seed, texts=TEXTS)


def picture(seed: int, size: tuple[int, int] = (20, 16)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def turn(text: str, *images: Image.Image) -> dict[str, Any]:
    parts: list[dict[str, Any]] = [{"type": "image", "image": image} for image in images]
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}


def answer(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}
