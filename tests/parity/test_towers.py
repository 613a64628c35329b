"""Towers against transformers: preprocessing, and the hidden states that LLaVA picks."""

import json
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import pytest
import torch
from PIL import Image
from tests.towers.families import TINY
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    BaseImageProcessor,
    CLIPImageProcessorPil,
    ConvNextImageProcessorPil,
    EfficientNetImageProcessorPil,
    LlavaConfig,
    LlavaForConditionalGeneration,
    SiglipImageProcessorPil,
    ViTImageProcessorPil,
)

from triptych.errors import RecipeError
from triptych.images import FixedTiling, crop_tiles, plan_tiles
from triptych.towers import Tower, TransformersTower

Fit: TypeAlias = Literal["stretch", "pad", "crop"]

NO_PREFIX = (
    "siglip_vision_model",
    "siglip2_vision_model",
    "qwen3_vl_vision",
    "convnext",
    "convnextv2",
)

# The head map alone; and patches in another order, see test_qwen3_vl.py.
UNLIKE = ("efficientnet", "qwen3_vl_vision")


def picture(width: int, height: int) -> Image.Image:
    generator = np.random.default_rng(0)
    return Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))


def normalised(tower: Tower, tiles: Tensor) -> Tensor:
    """What ``encode`` is given."""
    seen = []

    def catch(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen.append(args[0])

    encoder = tower.encoder
    handle = encoder.register_forward_pre_hook(catch)
    tower(tiles)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize(
    ("name", "processor", "fit"),
    [
        ("clip_vision_model", CLIPImageProcessorPil(size=32, crop_size=32), "crop"),
        (
            "siglip_vision_model",
            SiglipImageProcessorPil(size={"height": 32, "width": 32}),
            "stretch",
        ),
        ("vit", ViTImageProcessorPil(size={"height": 32, "width": 32}, resample=3), "stretch"),
        (
            "efficientnet",
            EfficientNetImageProcessorPil(size={"height": 64, "width": 64}, include_top=True),
            "stretch",
        ),
        (
            "convnext",
            ConvNextImageProcessorPil(size={"shortest_edge": 64}, crop_pct=1.0, resample=3),
            "crop",
        ),
    ],
)
@pytest.mark.parametrize("shape", [(90, 60), (41, 77), (64, 64), (20, 33)])
def test_pixels_equal_those_of_the_image_processor(
    tmp_path: Path, name: str, processor: BaseImageProcessor, fit: Fit, shape: tuple[int, int]
) -> None:
    AutoConfig.for_model(**TINY[name]).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    spec = TransformersTower(source=str(tmp_path)).resolve()
    image = picture(*shape)
    plan = plan_tiles(*shape, spec.tile_size, FixedTiling(fit=fit))
    tiles = torch.from_numpy(crop_tiles(image, plan))
    expected = processor(image, return_tensors="pt")["pixel_values"]
    found = normalised(spec.build().eval(), tiles)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", [name for name in TINY if name not in UNLIKE])
@pytest.mark.parametrize("layer", [-1, -2, 1, 2])
def test_tapped_states_equal_hidden_states(name: str, layer: int) -> None:
    spec = TransformersTower(config=TINY[name], layer=layer).resolve()
    full = AutoModel.from_config(AutoConfig.for_model(**spec.config)).eval()
    tower = spec.build().eval()
    weights = full.state_dict()
    tower.encoder.load_state_dict({key: weights[key] for key in tower.encoder.state_dict()})
    pixels = torch.randn(2, 3, spec.tile_size, spec.tile_size)
    inputs = (pixels,) if name != "siglip2_vision_model" else patched(pixels, 8)
    hidden = full(*inputs, output_hidden_states=True).hidden_states[layer]
    if hidden.ndim == 4:
        hidden = hidden.flatten(2).transpose(1, 2)
    prefix = hidden.shape[1] - spec.layout.tokens
    assert prefix == {"dinov2_with_registers": 5, "dinov3_vit": 5}.get(name, name not in NO_PREFIX)
    torch.testing.assert_close(tower.encode(pixels), hidden[:, prefix:], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["siglip_vision_model", "dinov2", "dinov3_vit", "convnextv2"])
def test_with_its_norm_a_tower_gives_the_last_hidden_state(tmp_path: Path, name: str) -> None:
    full = AutoModel.from_config(AutoConfig.for_model(**TINY[name])).eval()
    norm_name = {"siglip_vision_model": "post_layernorm", "dinov3_vit": "norm"}
    norm = full.get_submodule(norm_name.get(name, "layernorm"))
    for parameter in norm.parameters():
        torch.nn.init.normal_(parameter)
    full.save_pretrained(tmp_path)
    spec = TransformersTower(source=str(tmp_path), norm=True).resolve()
    tower = spec.build().eval()
    spec.load(tower)
    pixels = torch.randn(2, 3, spec.tile_size, spec.tile_size)
    expected = full(pixels).last_hidden_state
    if expected.ndim == 4:
        expected = norm(expected.flatten(2).transpose(1, 2))
    prefix = expected.shape[1] - spec.layout.tokens
    torch.testing.assert_close(tower.encode(pixels), expected[:, prefix:], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("name", "layer"), [("dinov2", -2), ("efficientnet", -1)])
def test_a_norm_needs_the_last_layer(name: str, layer: int) -> None:
    with pytest.raises(RecipeError, match="norm belongs to the last layer"):
        TransformersTower(config=TINY[name], layer=layer, norm=True).resolve()


def patched(pixels: Tensor, patch: int) -> tuple[Tensor, Tensor, Tensor]:
    """Patches, mask and grid as SigLIP2's own processor makes them."""
    from transformers.models.siglip2.image_processing_pil_siglip2 import convert_image_to_patches

    patches = torch.stack(
        [torch.from_numpy(convert_image_to_patches(tile.numpy(), patch)) for tile in pixels]
    )
    grid = pixels.shape[-1] // patch
    mask = torch.ones(patches.shape[:2], dtype=torch.long)
    return patches, mask, torch.full((len(pixels), 2), grid)


@pytest.mark.parametrize(("layer", "strategy"), [(-2, "default"), (-1, "full"), (1, "default")])
def test_llava_picks_the_same_features(layer: int, strategy: str) -> None:
    vision = TINY["clip_vision_model"]
    text = {"model_type": "llama", "hidden_size": 16, "num_hidden_layers": 1, "vocab_size": 32}
    text |= {"num_attention_heads": 2, "intermediate_size": 16, "num_key_value_heads": 2}
    config = LlavaConfig(vision_config=vision, text_config=text, vision_feature_layer=layer)
    llava = LlavaForConditionalGeneration(config).eval().model
    llava.multi_modal_projector = torch.nn.Identity()
    cls = "keep" if strategy == "full" else "drop"
    spec = TransformersTower(config=vision, layer=layer, cls=cls).resolve()
    tower = spec.build().eval()
    weights = llava.vision_tower.state_dict()
    tower.encoder.load_state_dict({key: weights[key] for key in tower.encoder.state_dict()})
    pixels = torch.randn(3, 3, 32, 32)
    expected = llava.get_image_features(
        pixels, vision_feature_layer=layer, vision_feature_select_strategy=strategy
    ).pooler_output
    torch.testing.assert_close(tower.encode(pixels), torch.stack(expected), rtol=0, atol=0)


def test_saved_processors_are_read(tmp_path: Path) -> None:
    AutoConfig.for_model(**TINY["clip_vision_model"]).save_pretrained(tmp_path)
    CLIPImageProcessorPil(size=48, crop_size=32).save_pretrained(tmp_path)
    values = json.loads((tmp_path / "preprocessor_config.json").read_text())
    spec = TransformersTower(source=str(tmp_path)).resolve()
    assert spec.size == 32
    assert list(spec.mean) == values["image_mean"]
    assert list(spec.std) == values["image_std"]
