"""Preferences over the tiny images: the right colour over a wrong one, sometimes after a round."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.training.tiny import COLOURS, write_records
from torch import Tensor

from triptych.data.corpus import measure
from triptych.data.encode import Encoder
from triptych.data.prepare import Preparer
from triptych.data.spec import DataSpec, SourceSpec
from triptych.model.processing import TriptychProcessor

TRAIN = {"connector": False, "new_tokens": False, "language": {"mode": "lora", "rank": 4}}


def write_pairs(folder: Path, name: str = "pairs.jsonl", count: int = 12) -> Path:
    """Every third is a second round, every fifth without an image."""
    write_records(folder, "plain.jsonl", 4)
    names, lines = list(COLOURS), []
    for index in range(count):
        right, wrong = names[index % 4], names[(index + 1 + index % 3) % 4]
        image = [{"type": "image", "image": f"{right}.png"}] if index % 5 else []
        ask: dict[str, Any] = {
            "role": "user",
            "content": [*image, {"type": "text", "text": f"Colour? {'Say it. ' * (index % 3)}"}],
        }
        messages = [ask]
        if index % 3 == 2:
            again = {"role": "user", "content": "Are you sure? Say the colour again."}
            messages = [ask, {"role": "assistant", "content": right}, again]
        lines.append(json.dumps({"messages": messages, "chosen": right, "rejected": wrong}))
    path = folder / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def pair_batches(
    processor: TriptychProcessor, data: DataSpec, groups: Sequence[Sequence[int]]
) -> list[dict[str, Tensor]]:
    """Micro-batches of the pairs of the source "pairs"."""
    encoder = Encoder(processor, data)
    corpus = measure(data.sources, encoder, pairs=True, names=["pairs"])
    preparer = Preparer(corpus, encoder, packed=data.batch.packed, pairs=True)
    return [preparer[group].batch for group in groups]


def with_pairs(folder: Path) -> dict[str, SourceSpec]:
    """Sources: "pairs"."""
    return {"pairs": SourceSpec(path=write_pairs(folder))}
