"""Small recipes to plan."""

from pathlib import Path
from typing import Any

from triptych.recipe import Recipe, save_recipe
from triptych.spec import validate

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "vocab_size": 500,
}


def tiny_recipe(folder: Path = Path(), **sections: Any) -> Recipe:
    """A recipe without data; sections by keyword replace those given here."""
    model = {
        "towers": [{"kind": "small", "size": 32, "patch": 8, "hidden": 32, "depth": 2, "heads": 2}],
        "connector": {"kind": "mlp"},
        "language": {"kind": "transformers", "config": LLAMA, "tokenizer": "none"},
        **sections.pop("model", {}),
    }
    tree = {
        "model": model,
        "data": {
            "sources": {"none": {"path": "none.jsonl"}},
            "batch": {"tokens": 4096, "samples": 8},
            **sections.pop("data", {}),
        },
        "stages": [{"name": "one", "steps": 10, "train": {"language": "full"}}],
        "run": {"folder": "none", **sections.pop("run", {})},
        **sections,
    }
    return validate(Recipe, tree, "test")


def write_recipe(path: Path, **sections: Any) -> str:
    save_recipe(tiny_recipe(**sections), path)
    return str(path)
