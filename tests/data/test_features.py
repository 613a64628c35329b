import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.data.tiny import all_tiles, data_spec, many, paint
from torch import Tensor, nn

from triptych.data.feature_name import fingerprint_of
from triptych.data.features import FeatureCache
from triptych.data.loader import Loader
from triptych.data.schema import ImagePart
from triptych.data.spec import SourceSpec
from triptych.errors import DataError, ImageError
from triptych.images.decode import open_image
from triptych.images.layout import TileLayout
from triptych.model.processing import Tiles, TriptychProcessor
from triptych.model.vision import encode_tiles
from triptych.towers.small import SmallTower


class Encode:
    """Means of the tile's channels as 4 tokens of width 3; counts what it is given."""

    def __init__(self) -> None:
        self.tiles = 0

    def __call__(self, tiles: Tensor) -> Tensor:
        assert tiles.dtype == torch.uint8
        self.tiles += len(tiles)
        return tiles.float().mean(dim=(2, 3))[:, None].expand(-1, 4, -1)


def build(
    folder: Path, parts: list[ImagePart], processor: TriptychProcessor, **options: Any
) -> Any:
    encode = options.pop("encode", Encode())
    fingerprint = options.pop("fingerprint", "f")
    cache = FeatureCache.build(folder, fingerprint, parts, processor, encode, **options)
    return cache, encode


@pytest.fixture
def parts(tmp_path: Path) -> list[ImagePart]:
    return [ImagePart(paint(tmp_path, f"{k}.png", 20 * k), tmp_path) for k in range(6)]


@pytest.mark.parametrize("workers", [0, 2])
def test_features_are_those_of_each_image(
    tmp_path: Path, parts: list[ImagePart], processor: TriptychProcessor, workers: int
) -> None:
    cache, _ = build(tmp_path / "cache", parts, processor, batch_tiles=4, workers=workers)
    for k, part in enumerate(parts):
        assert cache.get(part).shape == (1, 4, 3)
        assert cache.get(part).dtype == np.float16
        assert np.all(cache.get(part) == 20 * k)
        assert cache.size(part) == (10, 12)


def test_the_same_picture_is_encoded_once(
    tmp_path: Path, parts: list[ImagePart], processor: TriptychProcessor
) -> None:
    shutil.copy(tmp_path / "1.png", tmp_path / "copy.png")
    raw = ImagePart((tmp_path / "1.png").read_bytes())
    twins = [parts[1], parts[1], ImagePart("copy.png", tmp_path), raw]
    cache, encode = build(tmp_path / "cache", twins, processor)
    assert encode.tiles == len(cache) == 1
    assert np.array_equal(cache.get(raw), cache.get(parts[1]))


def test_a_cache_is_reused_until_something_changes(
    tmp_path: Path, parts: list[ImagePart], processor: TriptychProcessor
) -> None:
    folder = tmp_path / "cache"
    build(folder, parts, processor)
    assert build(folder, parts[:3], processor)[1].tiles == 0
    assert build(folder, parts, processor, fingerprint="g")[1].tiles == 6
    paint(tmp_path, "2.png", 255)
    cache, encode = build(folder, parts, processor, fingerprint="g")
    assert encode.tiles == 1  # the others are kept
    assert np.all(cache.get(parts[2]) == 255)
    others = [k for k in range(len(parts)) if k != 2]
    assert all(np.all(cache.get(parts[k]) == 20 * k) for k in others)
    with pytest.raises(DataError, match="other towers"):
        FeatureCache(folder, "f")


def test_images_are_added_to_a_cache(
    tmp_path: Path, parts: list[ImagePart], processor: TriptychProcessor
) -> None:
    folder = tmp_path / "cache"
    _, first = build(folder, parts[:2], processor)
    cache, encode = build(folder, parts, processor)
    assert (first.tiles, encode.tiles) == (2, len(parts) - 2)
    assert len(cache) == len(parts)
    whole, _ = build(tmp_path / "whole", parts, processor)
    for part in parts:
        assert np.array_equal(cache.get(part), whole.get(part))
        assert cache.size(part) == whole.size(part)


def test_a_build_that_fails_leaves_the_old_cache_and_nothing_else(
    tmp_path: Path, parts: list[ImagePart], processor: TriptychProcessor
) -> None:
    folder = tmp_path / "deep" / "cache"
    build(folder, parts[:1], processor)

    def fail(tiles: Tensor) -> Tensor:
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        build(folder, parts, processor, encode=fail)
    assert [path.name for path in folder.parent.iterdir()] == ["cache"]
    assert np.all(FeatureCache(folder, "f").get(parts[0]) == 0)


def test_numbers_too_large_for_16_bits_are_refused(
    tmp_path: Path, parts: list[ImagePart], processor: TriptychProcessor
) -> None:
    with pytest.raises(DataError, match="16 bits"):
        build(
            tmp_path / "cache", parts, processor, encode=lambda t: torch.full((len(t), 4, 3), 1e6)
        )


def test_a_bad_image_stops_the_build_or_is_remembered(
    tmp_path: Path, parts: list[ImagePart], processor: TriptychProcessor
) -> None:
    gone = ImagePart("gone.png", tmp_path)
    with pytest.raises(ImageError, match=r"gone\.png"):
        build(tmp_path / "cache", [*parts, gone], processor)
    cache, _ = build(tmp_path / "cache", [*parts, gone], processor, on_error="skip")
    with pytest.raises(ImageError, match=r"gone\.png"):
        cache.get(gone)
    with pytest.raises(ImageError, match="not in the feature cache"):
        cache.get(ImagePart("unknown.png", tmp_path))
    assert build(tmp_path / "cache", [gone], processor, on_error="skip")[1].tiles == 0


def test_a_damaged_cache_is_an_error_or_built_again(
    tmp_path: Path, parts: list[ImagePart], processor: TriptychProcessor
) -> None:
    folder = tmp_path / "cache"
    build(folder, parts, processor)
    (folder / "features.f16").write_bytes(b"1234")
    with pytest.raises(DataError, match="cut off"):
        FeatureCache(folder, "f")
    assert build(folder, parts, processor)[1].tiles == 6
    (folder / "index.json").write_text(json.dumps({"version": 1, "images": []}))
    with pytest.raises(DataError, match="delete the folder"):
        FeatureCache(folder, "f")


def test_a_worker_gets_the_path_and_not_the_features(
    tmp_path: Path, parts: list[ImagePart], processor: TriptychProcessor
) -> None:
    cache, _ = build(tmp_path / "cache", parts, processor)
    data = pickle.dumps(cache)
    assert len(data) < 1000
    assert np.array_equal(pickle.loads(data).get(parts[3]), cache.get(parts[3]))


def test_the_loader_delivers_features_in_place_of_pixels(
    tmp_path: Path, processor: TriptychProcessor
) -> None:
    spec = data_spec(
        many(tmp_path, 12), held_out={"h": SourceSpec(path=many(tmp_path, 5, "h.jsonl"))}
    )
    pixels = Loader.open(processor, spec, seed=0)
    cache, _ = build(tmp_path / "cache", list(pixels.images()), processor)
    cached = pixels.derive(features=cache)
    encode = Encode()
    for plain, fast in [
        *zip(next(pixels.steps()), next(cached.steps()), strict=True),
        *zip(pixels.held_out(), cached.held_out(), strict=True),
    ]:
        assert torch.equal(plain["input_ids"], fast["input_ids"])
        assert "pixel_values" not in fast
        if "pixel_values" in plain:
            assert torch.equal(encode(all_tiles(plain)).half(), fast["tile_features"])


def test_a_fingerprint_follows_the_weights_and_the_tiling(processor: TriptychProcessor) -> None:
    spec = SmallTower(size=16, patch=8, hidden=16, depth=1, heads=2)
    tower = spec.resolve().build()
    first = fingerprint_of([tower], processor, spec.layout)
    assert first == fingerprint_of([tower], processor, spec.layout)
    assert first != fingerprint_of([tower], processor, TileLayout(4, 4))
    with torch.no_grad():
        next(tower.parameters()).view(-1)[0] += 1
    assert fingerprint_of([tower], processor, spec.layout) != first


class Bands(TriptychProcessor):
    """Cuts an image into as many tiles as it is ten pixels wide, each a little darker."""

    def tiles(self, image: Image.Image) -> Tiles:
        whole = super().tiles(image)
        return np.concatenate([whole // (k + 1) for k in range(image.width // 10)])


@torch.no_grad()
def test_several_towers_and_several_tiles_per_image(
    tmp_path: Path, processor: TriptychProcessor
) -> None:
    settings = processor.settings.model_dump(mode="json")
    end, template = processor.end_token, processor.chat_template
    bands = Bands(processor.tokenizer, settings, end, template)
    sizes = [(10, 12), (30, 9), (20, 20), (30, 5)]
    parts = []
    for k, size in enumerate(sizes):
        Image.effect_noise(size, 90).convert("RGB").save(tmp_path / f"{k}.png")
        parts.append(ImagePart(f"{k}.png", tmp_path))
    fine = SmallTower(size=8, patch=2, hidden=8, depth=1, heads=2)
    towers = nn.ModuleList([fine.build(), SmallTower(size=6, patch=2, hidden=8, depth=1).build()])

    def encode(tiles: Tensor) -> Tensor:
        return encode_tiles(towers, tiles, fine.layout, tiles_at_once=3)

    cache, _ = build(tmp_path / "cache", parts, bands, encode=encode, batch_tiles=4)
    for part, size in zip(parts, sizes, strict=True):
        expected = encode(torch.from_numpy(bands.tiles(open_image(part.location))))
        assert cache.get(part).shape == (size[0] // 10, 16, 16)
        found = torch.from_numpy(cache.get(part)).float()
        assert torch.allclose(found, expected, rtol=2e-3, atol=2e-3)
