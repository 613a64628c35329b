"""The layouts of LLaVA and LLaVA-NeXT in transformers, for compositions that are one of them."""

from collections.abc import Iterator, Mapping
from typing import TypeAlias, cast

import torch
from torch import Tensor, nn
from transformers import (
    GenerationConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    PreTrainedModel,
)

from triptych.connectors import MlpConnector
from triptych.errors import CheckpointError
from triptych.images import Learned
from triptych.images.tiling import AnyresTiling, FixedTiling, TilingSpec
from triptych.model.configuration import Panels
from triptych.model.modeling import TriptychForConditionalGeneration
from triptych.model.new_tokens import NewTokens
from triptych.towers import TowerSpec
from triptych.towers.encoder import EncoderTower, TransformersTower

Llava: TypeAlias = LlavaForConditionalGeneration | LlavaNextForConditionalGeneration
_FAMILIES = ("clip_vision_model", "siglip_vision_model")
_NEXT = {
    "fit": "pad",
    "anchor": "centre",
    "overview": "squash",
    "unpad": True,
    "order": "rows",
    "row_separator": True,
    "tile_tags": False,
    "skip": "none",
    "edge": "half",
    "fill": (0, 0, 0),
}
_PLAIN = {"order": "tiles", "row_separator": False, "tile_tags": False}


def find_obstacles(model: TriptychForConditionalGeneration) -> list[str]:
    """Say what keeps a composition from being a LLaVA or LLaVA-NeXT of transformers."""
    panels = model.config.parse_panels()
    return [
        *_tower_obstacles(panels),
        *_connector_obstacles(panels),
        *_tiling_obstacles(panels.tiling),
        *_language_obstacles(model, panels),
    ]


def _tower_obstacles(panels: Panels) -> Iterator[str]:
    if len(panels.towers) > 1:
        yield f"it has {len(panels.towers)} towers, LLaVA has one"
        return
    (tower,) = panels.towers
    if not isinstance(tower, TransformersTower):
        yield f"its tower is '{tower.kind}'; LLaVA takes a CLIP or SigLIP of transformers"
        return
    config = tower.config or {}
    if config["model_type"] not in _FAMILIES:
        yield f"its tower is a {config['model_type']}; LLaVA takes CLIP or SigLIP"
        return
    if tower.norm:
        yield "its tower passes the last norm (norm: true), which LLaVA leaves out"
    if tower.tile_size != config["image_size"]:
        yield f"tiles have {tower.tile_size} pixels, but the tower was made for those of " + str(
            config["image_size"]
        )
    if tower.cls == "keep" and isinstance(panels.tiling, AnyresTiling):
        yield "it keeps the CLS token of each tile, which LLaVA-NeXT cannot place"
    if panels.tower_layout != tower.layout:
        yield "tower_grid changes the grid of the tower's tokens"


def _connector_obstacles(panels: Panels) -> Iterator[str]:
    connector = panels.connector
    if not isinstance(connector, MlpConnector):
        yield f"its connector is '{connector.kind}', LLaVA's is an mlp of two layers"
        return
    if connector.layers != 2:
        yield f"its connector has {connector.layers} linear layer(s), LLaVA's has 2"
    if connector.input_norm:
        yield "its connector has an input_norm"
    if connector.pool > 1:
        yield f"its connector pools blocks of {connector.pool} x {connector.pool} tokens"


def _tiling_obstacles(tiling: TilingSpec) -> Iterator[str]:
    if isinstance(tiling, FixedTiling):
        wanted: Mapping[str, object] = _PLAIN
        if tiling.fit == "pad":
            yield "tiling 'fixed' pads after resizing, LLaVA before (fit: stretch or crop can go)"
    elif isinstance(tiling, AnyresTiling):
        wanted = _NEXT
        if tiling.one_tile and not tiling.one_tile_overview:
            yield "a single tile goes without its overview (one_tile), LLaVA-NeXT has both"
    else:
        yield f"tiling '{tiling.kind}' is not LLaVA's ('fixed') nor LLaVA-NeXT's ('anyres')"
        return
    found = tiling.model_dump()
    for name, value in wanted.items():
        if found[name] != value:
            yield f"tiling.{name} is {found[name]!r}, LLaVA's is {value!r}"


def _language_obstacles(model: TriptychForConditionalGeneration, panels: Panels) -> Iterator[str]:
    if panels.fusion.kind != "splice":
        yield f"its fusion is '{panels.fusion.kind}', LLaVA's is 'splice'"
    if model.config.attention != "causal":
        yield f"its attention is '{model.config.attention}', LLaVA's is 'causal'"
    values = model.config.get_text_config().to_dict()
    for name in ("logits_scaling", "logit_scale", "final_logit_softcapping"):
        if values.get(name) not in (None, 1, 1.0):
            yield f"the language model has {name} {values[name]}, which LLaVA's head leaves out"
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear) or head.bias is not None:
        yield "the output layer of the language model has a bias, LLaVA's has none"


def convert(model: TriptychForConditionalGeneration) -> Llava:
    """The same model as a LLaVA or LLaVA-NeXT of transformers; its weights are shared, not copied.

    Rows of new tokens are written into the embedding table. The model is in float32.

    Raises:
        CheckpointError: the language model has weights that LLaVA has no place for.
    """
    config = _make_config(model)
    with torch.device("meta"):
        made = (
            LlavaNextForConditionalGeneration(config)
            if isinstance(config, LlavaNextConfig)
            else LlavaForConditionalGeneration(config)
        )
    weights = _weights(model, made)
    try:
        made.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        family = model.config.get_text_config().model_type
        raise CheckpointError(
            f"a language model of type '{family}' does not fit LLaVA's layout: {error}; export "
            "with --format triptych"
        ) from None
    made.tie_weights()
    made.generation_config = _generation(model)
    return made.eval()


def rename(model: TriptychForConditionalGeneration, name: str) -> str | None:
    """The name in LLaVA of a parameter or module of ours; None where it has no place."""
    language = model.language_model
    decoder = _name_of(language, language.get_decoder())
    head = _name_of(language, language.get_output_embeddings())
    table = {
        "towers.0.encoder.": "model.vision_tower.",
        "connector.0.": "model.multi_modal_projector.linear_1.",
        "connector.2.": "model.multi_modal_projector.linear_2.",
        f"language_model.{head}.": "lm_head.",
        f"language_model.{decoder}.": "model.language_model.",
    }
    for ours, theirs in table.items():
        if f"{name}.".startswith(ours):
            return (theirs + f"{name}.".removeprefix(ours)).removesuffix(".")
    return None


def _make_config(model: TriptychForConditionalGeneration) -> LlavaConfig | LlavaNextConfig:
    panels = model.config.parse_panels()
    encoder = encoder_of(model)
    has_cls = encoder.config.model_type == "clip_vision_model"
    text = model.config.get_text_config()
    settings = {
        "vision_config": encoder.config.to_dict(),
        "text_config": text.to_dict(),
        "image_token_index": model.config.image_token_id,
        "image_seq_length": model.layout.tokens,
        "projector_hidden_act": "gelu",
        "vision_feature_layer": -1,  # the encoder ends behind the layer that is tapped
        "vision_feature_select_strategy": select_strategy(panels.towers[0], has_cls=has_cls),
        "tie_word_embeddings": text.tie_word_embeddings,
    }
    if isinstance(panels.tiling, AnyresTiling):
        side = panels.tile_size
        grids = [[rows * side, columns * side] for rows, columns in panels.tiling.candidates]
        return LlavaNextConfig(**settings, image_grid_pinpoints=grids)
    return LlavaConfig(**settings)


def encoder_of(model: TriptychForConditionalGeneration) -> PreTrainedModel:
    """The vision encoder of a model that has one tower of transformers."""
    return cast(EncoderTower, model.towers[0]).encoder


def select_strategy(tower: TowerSpec, *, has_cls: bool) -> str:
    """``default`` leaves out the first token of the encoder, ``full`` takes all."""
    kept = isinstance(tower, TransformersTower) and tower.cls == "keep"
    return "default" if has_cls and not kept else "full"


def _weights(model: TriptychForConditionalGeneration, made: Llava) -> dict[str, Tensor]:
    """Weights of ``made``, by its names."""
    weights = {}
    for name, value in model.state_dict().items():
        renamed = rename(model, name)
        if renamed is not None:
            weights[renamed] = value
    learned, rows = model.tile_tokens.learned, model.tile_tokens.weight
    if rows is not None and isinstance(made, LlavaNextForConditionalGeneration):
        weights["model.image_newline"] = rows.detach()[learned.index(Learned.SEPARATOR)]
    # Behind the tapped layer LLaVA has a norm that it does not use.
    width = cast(EncoderTower, model.towers[0]).width
    weights["model.vision_tower.post_layernorm.weight"] = torch.ones(width)
    weights["model.vision_tower.post_layernorm.bias"] = torch.zeros(width)
    if model.new_tokens is not None:
        table = _name_of(made.model.language_model, made.get_input_embeddings())
        place = f"model.language_model.{table}.weight"
        weights[place] = _write_rows(model, model.new_tokens, weights[place])
        if made.config.tie_word_embeddings:
            weights["lm_head.weight"] = weights[place]
    return weights


@torch.no_grad()
def _write_rows(model: TriptychForConditionalGeneration, new: NewTokens, weight: Tensor) -> Tensor:
    """The embedding table with the rows of new tokens in it.

    Some families scale what they read from the table (Gemma 3), so it is divided by that.
    """
    row = int(weight.abs().amax(1).argmax())  # the row of padding is all zeros
    read = model.get_input_embeddings()(torch.tensor([row]))[0].float()
    column = weight[row].abs().argmax()
    scale = float(read[column] / weight[row, column])
    written = weight.detach().clone()
    written[new.first : new.first + new.count] = (new.weight / scale).to(weight.dtype)
    return written


def _generation(model: TriptychForConditionalGeneration) -> GenerationConfig:
    """Our settings; new tokens, which our model never predicts, are suppressed."""
    settings = GenerationConfig.from_dict(model.generation_config.to_dict())
    new = model.new_tokens
    if new is not None:
        settings.suppress_tokens = list(range(new.first, new.first + new.count))
    return settings


def _name_of(parent: PreTrainedModel, child: nn.Module | None) -> str:
    return str(next(name for name, module in parent.named_modules() if module is child))
