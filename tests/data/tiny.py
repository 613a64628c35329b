"""A tiny processor over the real parts, and files of records to feed it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from triptych.data.spec import BatchSpec, DataSpec, SourceSpec
from triptych.images.tiling import FixedTiling
from triptych.language import TrainedTokenizer, train_tokenizer
from triptych.model.processing import TriptychProcessor, VisionSettings
from triptych.model.template import IMAGE_TOKEN, end_token, read_template

TEXTS = ["what color is the shape in image 2?", "is there a circle?", "yes", "no", "größe 漢字 🙂"]


def tiny_processor() -> TriptychProcessor:
    """Four visual tokens per image of 8 px tiles, numbered images."""
    tokenizer = train_tokenizer(TEXTS, TrainedTokenizer(vocabulary=300))
    tokenizer.add_tokens([IMAGE_TOKEN], special_tokens=True)
    vision = VisionSettings(tiling=FixedTiling(), tile_size=8, rows=2, columns=2, numbered="before")
    return TriptychProcessor(
        tokenizer,
        vision=vision.model_dump(mode="json"),
        end_token=end_token("compact", tokenizer),
        chat_template=read_template("compact"),
    )


def paint(folder: Path, name: str, shade: int) -> str:
    """Save a picture of one grey; returns its name."""
    Image.fromarray(np.full((12, 10, 3), shade, dtype=np.uint8)).save(folder / name)
    return name


def user(text: str, *images: str) -> dict[str, Any]:
    parts: list[dict[str, Any]] = [{"type": "image", "image": image} for image in images]
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}


def answer(text: str, **extra: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **extra}


def write_jsonl(path: Path, conversations: Sequence[Sequence[dict[str, Any]]]) -> Path:
    lines = [json.dumps({"messages": list(messages)}) for messages in conversations]
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def many(folder: Path, count: int, name: str = "many.jsonl") -> Path:
    """Conversations of different length over zero to three images; each answer is its number."""
    for shade in range(8):
        paint(folder, f"{shade}.png", 16 * shade)
    return write_jsonl(
        folder / name,
        [
            [
                user(
                    f"{'is there a circle? ' * (k % 5)}",
                    *(f"{(k + j) % 8}.png" for j in range(k % 4)),
                ),
                answer(f"no {k}"),
            ]
            for k in range(count)
        ],
    )


def all_tiles(batch: dict[str, Tensor]) -> Tensor:
    """Pixels (T, 3, S, S) of every tile of a batch, equal ones repeated."""
    pixels = batch["pixel_values"]
    return pixels[batch["tile_index"]] if "tile_index" in batch else pixels


def data_spec(path: Path, **fields: Any) -> DataSpec:
    """One source named "a"; two micro-batches per step."""
    fields.setdefault("batch", BatchSpec(tokens=512, tiles=12, per_step=2, window=16))
    fields.setdefault("sources", {"a": SourceSpec(path=path)})
    return DataSpec(**fields)
