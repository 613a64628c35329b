"""A tiny model, tiny data with something to learn, and runs over both."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from triptych.connectors import MlpConnector
from triptych.data.loader import Loader
from triptych.data.spec import BatchSpec, DataSpec, SourceSpec
from triptych.language import TrainedTokenizer, TransformersLanguage
from triptych.model.build import initialise
from triptych.model.modeling import TriptychForConditionalGeneration
from triptych.model.processing import TriptychProcessor
from triptych.model.spec import ModelSpec, TemplateSpec
from triptych.recipe import Recipe
from triptych.towers.small import SmallTower
from triptych.training.run import training_texts
from triptych.training.stages import ParallelSpec, RunSpec, StageSpec

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 200, 40),
    "blue": (20, 40, 230),
    "grey": (99, 99, 99),
}


def model_spec(dropout: float = 0.0) -> ModelSpec:
    config: dict[str, Any] = {
        "model_type": "llama",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "attention_dropout": dropout,
        "tie_word_embeddings": True,
    }
    return ModelSpec(
        towers=(SmallTower(size=16, patch=8, hidden=16, depth=1, heads=2),),
        connector=MlpConnector(),
        language=TransformersLanguage(config=config, tokenizer=TrainedTokenizer(vocabulary=300)),
        template=TemplateSpec(family="compact", numbered="before"),
    )


def write_records(folder: Path, name: str, count: int) -> Path:
    """Conversations over zero to two images; every fourth has none."""
    folder.mkdir(parents=True, exist_ok=True)
    for colour, rgb in COLOURS.items():
        Image.fromarray(np.full((16, 16, 3), rgb, dtype=np.uint8)).save(folder / f"{colour}.png")
    lines, names = [], list(COLOURS)
    for index in range(count):
        images = [names[(index + k) % 4] for k in range(index % 4 if index % 4 < 3 else 1)]
        messages: list[dict[str, Any]] = []
        for colour in images:
            parts = [
                {"type": "image", "image": f"{colour}.png"},
                {"type": "text", "text": "Colour?"},
            ]
            messages.append({"role": "user", "content": parts})
            messages.append({"role": "assistant", "content": colour})
        if not images:
            text = "Say yes. " * (1 + index % 3)
            messages = [{"role": "user", "content": text}, {"role": "assistant", "content": "yes"}]
        lines.append(json.dumps({"messages": messages}))
    path = folder / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def data_spec(folder: Path, **fields: Any) -> DataSpec:
    """Two training sources and one held-out one."""
    sources = {
        "a": SourceSpec(path=write_records(folder, "a.jsonl", 24)),
        "b": SourceSpec(path=write_records(folder, "b.jsonl", 12)),
    }
    held_out = {"test": SourceSpec(path=write_records(folder, "test.jsonl", 8))}
    settings: dict[str, Any] = {
        "sources": sources,
        "held_out": held_out,
        "max_tokens": 128,
        "batch": BatchSpec(tokens=256, tiles=8, per_step=2, window=16),
    }
    return DataSpec(**{**settings, **fields})


def build(
    folder: Path, seed: int = 0, **fields: Any
) -> tuple[TriptychForConditionalGeneration, TriptychProcessor, DataSpec]:
    data = data_spec(folder / "data", **fields)
    model, processor = initialise(model_spec(), seed=seed, texts=training_texts(data))
    return model, processor, data


def one_batch(processor: TriptychProcessor, data: DataSpec) -> dict[str, torch.Tensor]:
    return next(Loader.open(processor, data, seed=0).steps())[0]


def stage(name: str = "one", **fields: Any) -> StageSpec:
    return StageSpec(**{"name": name, "steps": 4, "learning_rate": 1e-2, **fields})


def recipe(folder: Path, stages: tuple[StageSpec, ...], **fields: Any) -> Recipe:
    """A recipe that runs in ``folder / "run"``; other sections by keyword."""
    run = {"folder": folder / "run", "log_every": 1, "tensorboard": False, **fields.pop("run", {})}
    return Recipe(
        model=fields.pop("model", model_spec()),
        data=data_spec(folder / "data", **fields.pop("data", {})),
        stages=stages,
        parallel=ParallelSpec(**fields.pop("parallel", {})),
        run=RunSpec(**run),
    )


def entries(run: Path, kind: str = "train") -> list[dict[str, Any]]:
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [entry for entry in map(json.loads, lines) if entry["kind"] == kind]


def losses(run: Path) -> list[tuple[int, float]]:
    return [(entry["step"], entry["loss"]) for entry in entries(run)]
