"""The processor of a LLaVA or LLaVA-NeXT of transformers that makes the tokens ours makes."""

import json
from typing import TypeAlias

from transformers import LlavaNextProcessor, LlavaProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import (
    LlavaNextImageProcessorPil,
)

from triptych.errors import CheckpointError
from triptych.export.llava import encoder_of, select_strategy
from triptych.images.tiling import AnyresTiling, FixedTiling
from triptych.model.modeling import TriptychForConditionalGeneration
from triptych.model.processing import TriptychProcessor
from triptych.model.template import IMAGE_TOKEN
from triptych.towers.encoder import TransformersTower

Processor: TypeAlias = LlavaProcessor | LlavaNextProcessor


def convert_processor(
    model: TriptychForConditionalGeneration, processor: TriptychProcessor
) -> Processor:
    """The same processor as one of transformers, images by PIL.

    Raises:
        CheckpointError: the tower is not an encoder of transformers.
    """
    panels = model.config.parse_panels()
    (tower,) = panels.towers
    if not isinstance(tower, TransformersTower):
        raise CheckpointError(f"tower '{tower.kind}' has no image processor in transformers")
    encoder = encoder_of(model).config
    has_cls = encoder.model_type == "clip_vision_model"
    side = panels.tile_size
    square = {"height": side, "width": side}
    look = {"image_mean": list(tower.mean or ()), "image_std": list(tower.std or ())}
    settings = {
        "tokenizer": processor.tokenizer,
        "patch_size": encoder.patch_size,
        "vision_feature_select_strategy": select_strategy(tower, has_cls=has_cls),
        "num_additional_image_tokens": int(has_cls),
        "chat_template": fill_template(processor),
        "image_token": IMAGE_TOKEN,
    }
    tiling = panels.tiling
    if isinstance(tiling, AnyresTiling):
        grids = [[rows * side, columns * side] for rows, columns in tiling.candidates]
        images = LlavaNextImageProcessorPil(
            size=square, crop_size=square, image_grid_pinpoints=grids, **look
        )
        return LlavaNextProcessor(image_processor=images, **settings)
    crops = isinstance(tiling, FixedTiling) and tiling.fit == "crop"
    size = {"shortest_edge": side} if crops else square
    plain = CLIPImageProcessorPil(size=size, crop_size=square, do_center_crop=crops, **look)
    return LlavaProcessor(image_processor=plain, **settings)


def fill_template(processor: TriptychProcessor) -> str:
    """The chat template with the values of this model written into it."""
    values = "".join(
        f"{{%- set {name} = {json.dumps(value)} -%}}\n"
        for name, value in processor.template_variables.items()
    )
    return values + str(processor.chat_template)
