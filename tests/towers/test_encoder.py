"""Towers over transformers encoders: sizes, gradients, sources, errors."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tests.towers.families import TINY, VIT, WITH_CLS
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    CLIPConfig,
    CLIPModel,
    PreTrainedModel,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    SiglipConfig,
    SiglipModel,
)

from triptych.errors import CheckpointError, RecipeError
from triptych.images import TileLayout
from triptych.spec import validate
from triptych.towers import TowerSpec, TransformersTower, fingerprint


def tower_of(name: str, **options: Any) -> TransformersTower:
    return TransformersTower(config=TINY[name], **options).resolve()


def tiles_of(size: int, count: int = 2) -> Tensor:
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8)


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("grow", [0, 19, 64])
def test_spec_tells_what_the_module_does(name: str, grow: int) -> None:
    spec = tower_of(name)
    spec = tower_of(name, size=spec.tile_size + grow)
    tower = spec.build()
    tokens = tower(tiles_of(spec.tile_size))
    assert tokens.shape == (2, spec.layout.tokens, spec.width)
    assert (tower.layout, tower.width, tower.size) == (spec.layout, spec.width, spec.tile_size)


@pytest.mark.parametrize("size", range(32, 100, 3))
def test_efficientnet_paddings_are_followed(size: int) -> None:
    spec = TransformersTower(
        config={**TINY["efficientnet"], "depthwise_padding": [1, 3]}, size=size
    ).resolve()
    assert spec.build().eval()(tiles_of(size)).shape[1] == spec.layout.tokens


@pytest.mark.parametrize("name", TINY)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    tower = tower_of(name).build()
    tower(tiles_of(tower.size)).square().sum().backward()
    assert not [key for key, value in tower.named_parameters() if value.grad is None]


@pytest.mark.parametrize("name", [name for name in TINY if name != "efficientnet"])
def test_layers_behind_the_tap_are_not_built(name: str) -> None:
    def size(layer: int) -> int:
        return sum(p.numel() for p in tower_of(name, layer=layer).build().parameters())

    assert size(-1) > size(-2) > size(1)
    assert size(-1) == size(4 if "convnext" in name else 3)


@pytest.mark.parametrize("name", TINY)
def test_resolved_specs_are_complete_and_serialisable(name: str) -> None:
    spec = tower_of(name)
    assert spec.resolve() == spec
    again = validate(TowerSpec, json.loads(spec.model_dump_json()), "test")
    assert again == spec
    assert again.layout == spec.layout


@pytest.mark.parametrize("name", TINY)
def test_built_on_meta_and_filled_gives_the_same_tokens(name: str) -> None:
    spec = tower_of(name)
    with torch.device("meta"):
        hollow = spec.build()
    assert all(value.is_meta for value in hollow.state_dict().values())
    real, other = spec.build().eval(), spec.build().eval()
    other.load_state_dict(real.state_dict())
    tiles = tiles_of(spec.tile_size)
    torch.testing.assert_close(other(tiles), real(tiles), rtol=0, atol=0)
    assert hollow.state_dict().keys() == real.state_dict().keys()


@pytest.mark.parametrize("name", WITH_CLS)
def test_cls_is_kept_first_and_registers_are_dropped(name: str) -> None:
    torch.manual_seed(1)
    kept = tower_of(name, cls="keep").build().eval()
    dropped = tower_of(name).build().eval()
    dropped.load_state_dict(kept.state_dict())
    tiles = tiles_of(kept.size)
    assert kept.layout == TileLayout(kept.layout.rows, kept.layout.columns, prefix=1)
    assert kept(tiles).shape[1] == 1 + kept.layout.rows**2
    torch.testing.assert_close(kept(tiles)[:, 1:], dropped(tiles), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["dinov2_with_registers", "dinov3_vit"])
def test_register_tokens_are_not_among_the_patches(name: str) -> None:
    spec = tower_of(name)
    full = AutoModel.from_config(AutoConfig.for_model(**spec.config)).eval()
    tower = spec.build().eval()
    tower.encoder.load_state_dict(full.state_dict(), strict=False)
    normalised = torch.randn(1, 3, spec.tile_size, spec.tile_size)
    hidden = full(normalised, output_hidden_states=True).hidden_states[-1]
    torch.testing.assert_close(tower.encode(normalised), hidden[:, 5:], rtol=0, atol=0)


def test_tiles_of_another_size_are_resized() -> None:
    tower = tower_of("clip_vision_model").build().eval()
    assert tower(tiles_of(50)).shape == tower(tiles_of(32)).shape


def test_a_frozen_tower_stays_in_evaluation() -> None:
    tower = tower_of("efficientnet").build()
    assert tower.train().training
    norms = [m for m in tower.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms
    assert not any(norm.training for norm in norms)
    assert not tower.requires_grad_(False).train().training


def preprocessing(folder: Path, **values: Any) -> None:
    (folder / "preprocessor_config.json").write_text(json.dumps(values))


def whole_clip() -> CLIPModel:
    text = {"vocab_size": 20, "bos_token_id": 0, "eos_token_id": 1, **VIT}
    vision = {"image_size": 32, "patch_size": 8, **VIT}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))


def whole_siglip() -> SiglipModel:
    text = {"vocab_size": 20, "bos_token_id": 0, "eos_token_id": 1, **VIT}
    vision = {"image_size": 32, "patch_size": 8, **VIT}
    return SiglipModel(SiglipConfig(text_config=text, vision_config=vision))


@pytest.mark.parametrize("make", [whole_clip, whole_siglip])
def test_the_vision_part_of_a_whole_checkpoint_is_loaded(
    tmp_path: Path, make: Callable[[], PreTrainedModel]
) -> None:
    model = make().eval()
    model.save_pretrained(tmp_path)
    size = {"height": 32, "width": 32}
    preprocessing(tmp_path, size=size, image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6])
    spec = TransformersTower(source=str(tmp_path), layer=-2).resolve()
    assert (spec.size, spec.mean, spec.std) == (32, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    tower = spec.build().eval()
    spec.load(tower)
    pixels = torch.randn(2, 3, 32, 32)
    states = model.vision_model(pixels, output_hidden_states=True).hidden_states
    expected = states[-2][:, 1:] if make is whole_clip else states[-2]
    torch.testing.assert_close(tower.encode(pixels), expected, rtol=0, atol=0)


def test_the_encoder_of_a_whole_qwen3_vl_is_loaded(tmp_path: Path) -> None:
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 8}
    text |= {"intermediate_size": 16, "num_key_value_heads": 2, "vocab_size": 32}
    config = Qwen3VLConfig(vision_config=TINY["qwen3_vl_vision"], text_config=text)
    model = Qwen3VLForConditionalGeneration(config)
    model.save_pretrained(tmp_path)
    sizes = {"shortest_edge": 65536, "longest_edge": 16777216}
    preprocessing(tmp_path, size=sizes, merge_size=2, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    spec = TransformersTower(source=str(tmp_path)).resolve()
    assert spec.size == 24
    tower = spec.build()
    spec.load(tower)
    weights = model.model.visual.state_dict()
    for key, value in tower.encoder.state_dict().items():
        assert torch.equal(value, weights[key]), key


@pytest.mark.parametrize("name", TINY)
def test_a_folder_of_every_family_is_loaded(tmp_path: Path, name: str) -> None:
    config = AutoConfig.for_model(**TINY[name])
    model = AutoModel.from_config(config).eval()
    model.save_pretrained(tmp_path)
    spec = TransformersTower(source=str(tmp_path)).resolve()
    assert spec.layout == tower_of(name).layout
    assert spec.model_copy(update={"source": None}) == tower_of(name)
    tower = spec.build()
    before = fingerprint(tower)
    spec.load(tower)
    assert fingerprint(tower) != before
    weights = model.state_dict()
    for key, value in tower.encoder.state_dict().items():
        assert torch.equal(value, weights[key]), key


def test_a_checkpoint_that_lacks_weights_is_refused(tmp_path: Path) -> None:
    config = AutoConfig.for_model(**{**TINY["clip_vision_model"], "num_hidden_layers": 2})
    AutoModel.from_config(config).save_pretrained(tmp_path)
    spec = TransformersTower(source=str(tmp_path), config=TINY["clip_vision_model"]).resolve()
    with pytest.raises(CheckpointError, match=r"weights are not in the checkpoint, first .*2\."):
        spec.load(spec.build())


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    model = AutoModel.from_config(AutoConfig.for_model(**TINY["vit"]))
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    spec = TransformersTower(source=str(tmp_path)).resolve()
    with pytest.raises(CheckpointError, match="safetensors"):
        spec.load(spec.build())


@pytest.mark.parametrize(
    ("values", "size", "mean", "std"),
    [
        ({"size": 40}, 40, 0.0, 1.0),
        ({"size": {"shortest_edge": 48}, "crop_size": {"height": 32, "width": 32}}, 32, 0, 1),
        ({"size": {"shortest_edge": 48}, "do_center_crop": False, "crop_size": 32}, 48, 0, 1),
        ({"image_mean": 0.5, "image_std": [0.2, 0.2, 0.2]}, 32, 0.5, 0.2),
        ({"do_normalize": False, "image_mean": [0.5] * 3, "image_std": [0.2] * 3}, 32, 0, 1),
        ({"include_top": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}, 32, 0.5, 0.25),
    ],
)
def test_preprocessing_is_read(
    tmp_path: Path, values: dict[str, Any], size: int, mean: float, std: float
) -> None:
    AutoConfig.for_model(**TINY["vit"]).save_pretrained(tmp_path)
    preprocessing(tmp_path, **values)
    spec = TransformersTower(source=str(tmp_path)).resolve()
    assert spec.size == size
    np.testing.assert_allclose(spec.mean, [mean] * 3)
    np.testing.assert_allclose(spec.std, [std] * 3)


def test_what_the_recipe_says_wins_over_the_source(tmp_path: Path) -> None:
    AutoConfig.for_model(**TINY["vit"]).save_pretrained(tmp_path)
    preprocessing(tmp_path, size=40, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    spec = TransformersTower(source=str(tmp_path), size=64, mean=(0, 0, 0)).resolve()
    assert (spec.size, spec.mean, spec.std) == (64, (0, 0, 0), (0.5, 0.5, 0.5))


def test_pixels_that_are_rescaled_otherwise_are_refused(tmp_path: Path) -> None:
    AutoConfig.for_model(**TINY["vit"]).save_pretrained(tmp_path)
    preprocessing(tmp_path, rescale_factor=1 / 127.5, rescale_offset=True)
    with pytest.raises(RecipeError, match="only 1/255"):
        TransformersTower(source=str(tmp_path)).resolve()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"config": {"hidden_size": 8}}, "no model_type"),
        ({"config": {"model_type": "resnet"}}, "'resnet'; known vision families: clip"),
        ({"config": {"model_type": "no_such"}}, "no_such"),
        ({"config": TINY["vit"], "layer": 4}, "layer 4 does not exist; the encoder has 3"),
        ({"config": TINY["vit"], "layer": -5}, "-4 to 3 can be tapped"),
        ({"config": TINY["vit"], "size": 7}, "too small"),
        ({"config": TINY["convnext"], "layer": 0}, "not the stem"),
        ({"config": TINY["efficientnet"], "layer": -2}, "only the head map"),
        ({"config": TINY["siglip_vision_model"], "cls": "keep"}, "no CLS token"),
        ({"config": {**TINY["vit"], "patch_size": [8, 4]}}, "square"),
        ({"config": {**TINY["clip_vision_model"], "num_attention_heads": 5}}, "not valid"),
        ({"source": "./no/such/folder"}, "config cannot be read"),
    ],
)
def test_wrong_specs_are_explained(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        TransformersTower(**options).resolve()


def test_a_spec_needs_an_origin_and_must_be_resolved() -> None:
    with pytest.raises(ValidationError, match="give a source"):
        TransformersTower()
    with pytest.raises(RecipeError, match="resolve"):
        _ = TransformersTower(source="somewhere").layout
    with pytest.raises(RecipeError, match="resolve"):
        TransformersTower(config=TINY["vit"]).build()


def test_a_config_that_cannot_be_built_is_explained() -> None:
    spec = TransformersTower(config={**TINY["dinov2"], "num_attention_heads": 5}).resolve()
    with pytest.raises(RecipeError, match="cannot be built"):
        spec.build()


def test_layer_zero_is_the_embeddings() -> None:
    spec = tower_of("clip_vision_model", layer=0)
    assert len(spec.build().encoder.encoder.layers) == 0


def test_known_towers_have_their_published_layouts() -> None:
    base = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
    cases = [
        ("clip_vision_model", {"image_size": 336, "patch_size": 14}, 576, 1024),
        ("siglip_vision_model", {"image_size": 384, "patch_size": 14}, 729, 1024),
        ("dinov2", {"image_size": 518, "patch_size": 14}, 1369, 1024),
    ]
    for name, sizes, tokens, width in cases:
        spec = TransformersTower(config={"model_type": name, **base, **sizes}, layer=-2).resolve()
        assert (spec.layout.tokens, spec.width) == (tokens, width)
    convnext = TransformersTower(config={"model_type": "convnext"}, size=256).resolve()
    assert (convnext.layout.tokens, convnext.width) == (64, 768)
