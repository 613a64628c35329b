"""Tiny models to export: compositions that are a LLaVA, a LLaVA-NeXT, and neither."""

from pathlib import Path
from typing import Any

from tests.training.tiny import recipe, stage

from triptych.connectors import MlpConnector
from triptych.images import AnyresTiling
from triptych.images.tiling import TilingSpec
from triptych.language import TrainedTokenizer, TransformersLanguage
from triptych.model.spec import ModelSpec, TemplateSpec
from triptych.recipe import Recipe, save_recipe
from triptych.towers.encoder import TransformersTower
from triptych.training.run import train

SIDE = 28
NEXT_TILING = AnyresTiling(
    grids=((1, 2), (2, 1), (2, 2)),
    fill=(0, 0, 0), unpad=True, order="rows", row_separator=True, skip="none",
)  # fmt: skip
VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": SIDE,
    "patch_size": 14,
}
TEXT: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
}


def llava_spec(
    *,
    vision: str = "clip_vision_model",
    family: str = "llama",
    tied: bool = False,
    tiling: TilingSpec | None = None,
    layer: int = -2,
    **fields: Any,
) -> ModelSpec:
    """One tower of transformers, an MLP of two layers, tags with rows of their own."""
    tower = TransformersTower(config={"model_type": vision, **VISION}, layer=layer)
    text = {"model_type": family, **TEXT, "tie_word_embeddings": tied}
    if family == "gemma3_text":
        text["head_dim"] = 12
    settings: dict[str, Any] = {
        "towers": (tower,),
        "connector": MlpConnector(),
        "language": TransformersLanguage(config=text, tokenizer=TrainedTokenizer(vocabulary=300)),
        "template": TemplateSpec(family="compact", numbered="before", tags=True),
    }
    if tiling is not None:
        settings["tiling"] = tiling
    return ModelSpec(**{**settings, **fields})


def adapted_run(folder: Path, model: ModelSpec, **fields: Any) -> Recipe:
    """A recipe of two stages: connector and new tokens, then LoRA on towers and language model."""
    lora = {"mode": "lora", "rank": 4, "alpha": 64, "dropout": 0.1}
    dora = {"mode": "lora", "rank": 2, "alpha": 32, "dora": True, "targets": {"mlp": {"rank": 3}}}
    stages = (
        stage("align", steps=2, learning_rate=5e-2),
        stage("tune", steps=3, learning_rate=5e-2, train={"language": lora, "towers": dora}),
    )
    run = {"evaluate_samples": 2, "checkpoint_every": 1, "keep": 9, **fields}
    return recipe(folder, stages, model=model, run=run)


def trained(folder: Path, made: Recipe) -> Path:
    """Train a recipe as the command line does; returns the run folder."""
    save_recipe(made, made.run.folder / "recipe.yaml")
    train(made.model, made.data, made.stages, made.parallel, made.run)
    return made.run.folder
