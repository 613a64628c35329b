"""The families of vision encoders in transformers that can be towers."""

from triptych.errors import RecipeError
from triptych.towers.family import Config, Family
from triptych.towers.patch_families import (
    DinoFamily,
    PatchFamily,
    PatchInputFamily,
    RotatingFamily,
    ViTFamily,
)
from triptych.towers.qwen_family import QwenFamily
from triptych.towers.stage_families import EfficientNetFamily, StageFamily

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)

_FAMILIES = (
    PatchFamily(
        "clip_vision_model",
        CLIP_MEAN,
        CLIP_STD,
        norm="post_layernorm",
        resize_flag=True,
        entry=("embeddings", "pre_layrnorm"),
    ),
    PatchFamily(
        "siglip_vision_model",
        HALF,
        HALF,
        {"vision_use_head": False},
        norm="post_layernorm",
        cls=False,
        resize_flag=True,
    ),
    PatchInputFamily(
        "siglip2_vision_model",
        HALF,
        HALF,
        {"vision_use_head": False},
        norm="post_layernorm",
        cls=False,
    ),
    DinoFamily("dinov2", IMAGENET_MEAN, IMAGENET_STD, {"use_mask_token": False}),
    DinoFamily("dinov2_with_registers", IMAGENET_MEAN, IMAGENET_STD),
    RotatingFamily("dinov3_vit", IMAGENET_MEAN, IMAGENET_STD),
    ViTFamily("vit", HALF, HALF, resize_flag=True, blocks="layers"),
    QwenFamily(
        "qwen3_vl_vision",
        HALF,
        HALF,
        renamed={r"^model\.visual\.": "", r"^visual\.": ""},
        cls=False,
        blocks="blocks",
    ),
    StageFamily("convnext", IMAGENET_MEAN, IMAGENET_STD),
    StageFamily("convnextv2", IMAGENET_MEAN, IMAGENET_STD),
    EfficientNetFamily("efficientnet", IMAGENET_MEAN, IMAGENET_STD),
)

FAMILIES: dict[str, Family] = {family.model_type: family for family in _FAMILIES}


def family_of(config: Config, where: str) -> Family:
    """The family of a vision config.

    Raises:
        RecipeError: when ``model_type`` is missing or not one of the table.
    """
    found = config.get("model_type")
    if found not in FAMILIES:
        raise RecipeError(
            f"{where}: model_type is {found!r}; known vision families: {', '.join(FAMILIES)}"
        )
    return FAMILIES[found]
