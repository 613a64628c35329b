"""A tiny random config of every family of encoders."""

VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
DINO2 = {"image_size": 56, "patch_size": 14, "mlp_ratio": 2, **VIT}
STAGES = {"image_size": 64, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}

TINY = {
    "clip_vision_model": {"image_size": 32, "patch_size": 8, **VIT},
    "siglip_vision_model": {"image_size": 30, "patch_size": 8, **VIT},
    "siglip2_vision_model": {"num_patches": 16, "patch_size": 8, **VIT},
    "dinov2": DINO2,
    "dinov2_with_registers": {"num_register_tokens": 4, **DINO2},
    "dinov3_vit": {"image_size": 32, "patch_size": 8, "num_register_tokens": 4, **VIT},
    "vit": {"image_size": 32, "patch_size": 8, **VIT},
    "qwen3_vl_vision": {
        "depth": 3,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 4,
        "patch_size": 4,
        "num_position_embeddings": 36,
        "out_hidden_size": 16,
        "deepstack_visual_indexes": [0, 1],
    },
    "convnext": STAGES,
    "convnextv2": STAGES,
    "efficientnet": {
        "image_size": 75,
        "width_coefficient": 0.25,
        "depth_coefficient": 0.4,
        "hidden_dim": 320,
    },
}
for name in TINY:
    TINY[name] = {"model_type": name, **TINY[name]}

WITH_CLS = ("clip_vision_model", "dinov2", "dinov2_with_registers", "dinov3_vit", "vit")
MAPS = ("convnext", "convnextv2", "efficientnet")
BLOCKS = tuple(name for name in TINY if name not in MAPS)
