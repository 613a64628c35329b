"""A tiny random model over the real parts, and images to ask it about."""

from pathlib import Path
from typing import Any

import torch
from PIL import Image

from triptych.connectors import MlpConnector
from triptych.inference.engine import Engine
from triptych.language import TrainedTokenizer, TransformersLanguage
from triptych.model.build import initialise
from triptych.model.spec import ModelSpec, TemplateSpec
from triptych.towers.small import SmallTower

TEXTS = ["what color is the shape in image 2?", "is there a circle?", "yes", "no", "größe 漢字 🙂"]


def tiny_spec(
    *, positions: int = 1024, template: TemplateSpec | None = None, **language: object
) -> ModelSpec:
    config: dict[str, Any] = {
        "model_type": "llama",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": positions,
        "initializer_range": 0.3,
    } | language
    return ModelSpec(
        towers=(SmallTower(size=16, patch=8, hidden=16, depth=1, heads=2),),
        connector=MlpConnector(),
        language=TransformersLanguage(config=config, tokenizer=TrainedTokenizer(vocabulary=300)),
        template=template or TemplateSpec(family="compact", numbered="before"),
    )


def tiny_engine(
    *,
    positions: int = 1024,
    template: TemplateSpec | None = None,
    seed: int = 0,
    **language: object,
) -> Engine:
    spec = tiny_spec(positions=positions, template=template, **language)
    model, processor = initialise(spec, seed=seed, texts=TEXTS)
    return Engine(model.eval(), processor)


def save_model(engine: Engine, folder: Path) -> Path:
    engine.model.save_pretrained(folder)
    engine.processor.save_pretrained(folder)
    return folder


def paint(folder: Path, name: str, seed: int, size: tuple[int, int] = (16, 16)) -> Path:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (size[1], size[0], 3), generator=generator, dtype=torch.uint8)
    path = folder / name
    Image.fromarray(pixels.numpy()).save(path)
    return path


def user(text: str, *images: object) -> dict[str, Any]:
    parts: list[dict[str, Any]] = [{"type": "image", "image": image} for image in images]
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}
