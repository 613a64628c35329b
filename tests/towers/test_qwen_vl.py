"""The encoder of Qwen-VL against a slow one, from a file with the published names."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests.oracles.qwen_vl import encode, sine_places
from torch import Tensor

from triptych.errors import CheckpointError, RecipeError
from triptych.spec import validate
from triptych.towers import QwenVlTower

WIDTH, INNER, OUT = 12, 20, 16
SIZES = {
    "size": 24,
    "patch": 4,
    "hidden": WIDTH,
    "depth": 2,
    "heads": 3,
    "feed_forward": INNER,
    "positions": 3,
    "grid": 2,
    "out": OUT,
    "out_heads": 4,
}


def published() -> dict[str, Tensor]:
    """Random weights by the names and in the shapes of Qwen-VL."""
    shapes: dict[str, tuple[int, ...]] = {
        "conv1.weight": (WIDTH, 3, 4, 4),
        "positional_embedding": (9, WIDTH),
        "attn_pool.query": (4, OUT),
        "attn_pool.kv_proj.weight": (OUT, WIDTH),
        "attn_pool.attn.in_proj_weight": (3 * OUT, OUT),
        "attn_pool.attn.in_proj_bias": (3 * OUT,),
        "attn_pool.attn.out_proj.weight": (OUT, OUT),
        "attn_pool.attn.out_proj.bias": (OUT,),
        "proj": (OUT, OUT),
    }
    norms = {"ln_pre": WIDTH, "ln_post": OUT, "attn_pool.ln_q": OUT, "attn_pool.ln_kv": OUT}
    for number in range(2):
        name = f"transformer.resblocks.{number}"
        norms |= {f"{name}.ln_1": WIDTH, f"{name}.ln_2": WIDTH}
        for part, rows, columns in (
            ("attn.in_proj", 3 * WIDTH, WIDTH),
            ("attn.out_proj", WIDTH, WIDTH),
            ("mlp.c_fc", INNER, WIDTH),
            ("mlp.c_proj", WIDTH, INNER),
        ):
            shapes |= {f"{name}.{part}.weight": (rows, columns), f"{name}.{part}.bias": (rows,)}
    for name, width in norms.items():
        shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    weights = {key: torch.randn(shape) * 0.4 for key, shape in shapes.items()}
    return weights | {"attn_pool.pos_embed": sine_places(2, OUT)}


def test_equals_the_slow_encoder(tmp_path: Path) -> None:
    weights = published()
    whole = {f"transformer.visual.{key}": value for key, value in weights.items()}
    save_file(whole, tmp_path / "model-00001-of-00002.safetensors")
    rest = {"transformer.wte.weight": torch.zeros(2, 2)}
    save_file(rest, tmp_path / "model-00002-of-00002.safetensors")
    spec = QwenVlTower(source=str(tmp_path), **SIZES)
    tower = spec.build().eval()
    spec.load(tower)
    pixels = torch.randn(2, 3, 24, 24)
    expected = [encode(weights, one, patch=4, heads=3, out_heads=4) for one in pixels]
    with torch.no_grad():
        torch.testing.assert_close(tower.encode(pixels), torch.stack(expected))


def test_places_are_sines_of_column_and_row() -> None:
    tower = QwenVlTower(**SIZES).build()
    torch.testing.assert_close(tower.state_dict()["resampler.places"], sine_places(2, OUT))


def test_missing_weights_are_named(tmp_path: Path) -> None:
    spec = QwenVlTower(source=str(tmp_path), **SIZES)
    with pytest.raises(CheckpointError, match="no safetensors in this folder"):
        spec.load(spec.build())
    weights = published()
    del weights["attn_pool.query"]
    save_file(weights, tmp_path / "visual.safetensors")
    with pytest.raises(CheckpointError, match=r"are not there, first resampler\.queries"):
        spec.load(spec.build())


def test_sizes_must_divide() -> None:
    with pytest.raises(RecipeError, match="size 25 is not a multiple of patch 4"):
        validate(QwenVlTower, {**SIZES, "size": 25}, "recipe")


def test_the_published_size() -> None:
    spec = QwenVlTower()
    assert (spec.layout.tokens, spec.width, spec.tile_size) == (256, 4096, 448)
