"""Tiny models of the LLaVA family in transformers, and ours with the same weights."""

from typing import Any

from torch import Tensor
from transformers import CLIPVisionConfig, LlamaConfig

from triptych.model import TriptychConfig, TriptychForConditionalGeneration

IMAGE, VOCABULARY = 90, 96
RENAMED = {
    "model.vision_tower.": "towers.0.encoder.",
    "model.multi_modal_projector.linear_1.": "connector.0.",
    "model.multi_modal_projector.linear_2.": "connector.2.",
    "model.language_model.": "language_model.model.",
    "lm_head.": "language_model.lm_head.",
}


def their_configs(side: int) -> dict[str, Any]:
    """A vision encoder for tiles of ``side`` pixels, and a language model."""
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
        image_size=side, patch_size=14,
    )  # fmt: skip
    text = LlamaConfig(
        hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        vocab_size=VOCABULARY, initializer_range=0.2, max_position_embeddings=512,
    )  # fmt: skip
    return {"vision_config": vision, "text_config": text, "image_token_index": IMAGE}


def our_model(
    theirs: Any, further: dict[str, Tensor] | None = None, **panels: Any
) -> TriptychForConditionalGeneration:
    """Ours with the weights of theirs, and ``further`` ones under our own names."""
    tower = {
        "kind": "transformers",
        "config": theirs.config.vision_config.to_dict(),
        "layer": -2,
        "cls": "drop",
        "size": theirs.config.vision_config.image_size,
        "mean": [0.5] * 3,
        "std": [0.25] * 3,
    }
    config = TriptychConfig(
        panels={"towers": [tower], "connector": {"kind": "mlp", "layers": 2}, **panels},
        text_config=theirs.config.text_config.to_dict(),
        image_token_id=IMAGE,
    )
    model = TriptychForConditionalGeneration(config).eval()
    weights = dict(further or {})
    for key, value in theirs.state_dict().items():
        for prefix, renamed in RENAMED.items():
            if key.startswith(prefix):
                weights[renamed + key.removeprefix(prefix)] = value
    model.load_state_dict({key: weights[key] for key in model.state_dict()})
    return model


def normalise(tiles: Tensor) -> Tensor:
    """Pixels as theirs takes them."""
    return (tiles / 255 - 0.5) / 0.25
