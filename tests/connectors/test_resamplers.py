"""Perceiver and Q-Former: sizes, masks, whole images, and the slow oracle."""

from typing import Any

import pytest
import torch
from tests.oracles.connectors import perceive
from torch import Tensor, nn

from triptych.connectors import PerceiverConnector, QFormerConnector, VitConnector
from triptych.errors import RecipeError
from triptych.images.layout import TileLayout

TILE = TileLayout(2, 3, prefix=1)
PERCEIVER: dict[str, Any] = {"depth": 2, "heads": 2, "head_width": 3, "latents": 4}
QFORMER: dict[str, Any] = {"queries": 3, "layers": 3, "hidden": 8, "heads": 2}
SPECS = [PerceiverConnector(**PERCEIVER), QFormerConnector(**QFORMER), VitConnector(heads=2)]
RESAMPLERS = SPECS[:2]


def made(spec: Any, width: int = 6, out: int = 10) -> nn.Module:
    torch.manual_seed(0)
    return spec.build(TILE, width, out).eval()


def batch(tiles: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    mask = torch.rand(tiles, TILE.tokens, generator=generator) < 0.6
    mask[:, 0] = True
    return torch.randn(tiles, TILE.tokens, 6, generator=generator), mask


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_resampler_of_xgen_mm_has_its_published_size() -> None:
    spec = PerceiverConnector()
    with torch.device("meta"):
        module = spec.build(TileLayout(27, 27), 1152, 3072)
    assert parameters(module) == 109_901_568
    assert spec.layout(TileLayout(27, 27)).tokens == 128


def test_the_qformer_has_queries_and_layers_of_blip_2() -> None:
    spec = QFormerConnector()
    with torch.device("meta"):
        module = spec.build(TileLayout(16, 16, prefix=1), 1408, 2560)
    layers: Any = module.reader.encoder.layer
    assert [layer.has_cross_attention for layer in layers] == [True, False] * 6
    # Self-attention and feed-forward of every layer, cross-attention of every other one.
    own = 4 * (768**2 + 768) + 2 * 768 + 2 * 768 * 3072 + 3072 + 768 + 2 * 768
    cross = 2 * (768**2 + 768) + 2 * (1408 * 768 + 768) + 2 * 768
    rest = 32 * 768 + 2 * 768 + 768 * 2560 + 2560
    assert parameters(module) == 12 * own + 6 * cross + rest
    assert spec.layout(TileLayout(16, 16)).tokens == 32


@torch.no_grad()
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.kind)
def test_masked_tokens_have_no_effect(spec: Any) -> None:
    module, (features, mask) = made(spec), batch()
    other = torch.where(mask[..., None], features, 100 * torch.randn_like(features))
    found, changed = module(features, mask), module(other, mask)
    if spec.kind == "vit":
        found, changed = found[mask], changed[mask]
    assert torch.equal(found, changed)
    assert not torch.equal(module(features), module(other))


@torch.no_grad()
@pytest.mark.parametrize("spec", RESAMPLERS, ids=lambda spec: spec.kind)
def test_places_count_only_with_positions(spec: Any) -> None:
    turned = torch.randperm(TILE.tokens, generator=torch.Generator().manual_seed(2))
    features, mask = batch()
    plain, placed = made(spec), made(spec.model_copy(update={"positions": True}))
    assert torch.allclose(
        plain(features[:, turned], mask[:, turned]), plain(features, mask), atol=1e-6
    )
    found = placed(features, mask)
    assert not torch.allclose(placed(features[:, turned], mask[:, turned]), found, atol=1e-3)
    tokens = placed.places.norm(features) + placed.places.places
    placed.places = nn.Identity()
    assert torch.equal(placed(tokens, mask), found)


@torch.no_grad()
@pytest.mark.parametrize("spec", RESAMPLERS, ids=lambda spec: spec.kind)
def test_masking_is_leaving_out(spec: Any) -> None:
    module, (features, mask) = made(spec), batch()
    found = module(features, mask)
    for tile in range(len(features)):
        alone = module(features[tile : tile + 1, mask[tile]])
        assert torch.allclose(found[tile], alone[0], atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("masked", [False, True])
def test_the_perceiver_equals_the_oracle(masked: bool) -> None:
    """Largest difference seen: 5e-7."""
    module, (features, mask) = made(SPECS[0]), batch(2)
    found = module(features, mask if masked else None)
    for tile in range(2):
        kept = mask[tile] if masked else torch.ones(TILE.tokens, dtype=torch.bool)
        expected = perceive(list(features[tile, kept]), module.state_dict(), depth=2, heads=2)
        assert torch.allclose(found[tile], expected, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("spec", RESAMPLERS, ids=lambda spec: spec.kind)
def test_whole_images_of_ragged_tiles_equal_one_by_one(spec: Any, masked: bool) -> None:
    whole = spec.model_copy(update={"sampling": "whole_image"})
    module, (features, mask) = made(whole), batch(6)
    counts = torch.tensor([1, 3, 2])
    found = module(features, mask if masked else None, counts)
    assert found.shape == (3, whole.layout(TILE).tokens, 10)
    start = 0
    for image, count in enumerate(counts.tolist()):
        rows = features[start : start + count].flatten(0, 1)
        kept = mask[start : start + count].flatten() if masked else slice(None)
        assert torch.allclose(found[image], module(rows[kept][None])[0], atol=1e-6)
        start += count


@torch.no_grad()
def test_whole_images_of_one_tile_equal_tiles() -> None:
    tile = made(SPECS[0])
    whole = made(SPECS[0].model_copy(update={"sampling": "whole_image"}))
    features, _ = batch()
    expected = tile(features)
    assert torch.equal(whole(features), expected)
    assert torch.equal(whole(features, None, torch.ones(5, dtype=torch.long)), expected)
    assert not torch.allclose(whole(features, None, torch.tensor([5])), expected[:1])


@torch.no_grad()
def test_latents_attend_to_themselves() -> None:
    """Without that, a latent could not depend on another one."""
    module, (features, _) = made(SPECS[0]), batch()
    before = module(features)
    module.latents[1] += 1
    assert not torch.equal(module(features)[:, 0], before[:, 0])


def test_gradients_reach_every_parameter() -> None:
    placed = [spec.model_copy(update={"positions": True}) for spec in RESAMPLERS]
    for spec in SPECS + placed:
        module, (features, mask) = made(spec), batch()
        module(features, mask).square().sum().backward()
        assert all(p.grad is not None and p.grad.any() for p in module.parameters()), spec.kind


@torch.no_grad()
def test_vit_keeps_the_layout_and_normalises() -> None:
    module, (features, _) = made(VitConnector(heads=3)), batch()
    assert VitConnector(heads=3).layout(TILE) == TILE
    assert module(features).shape == (5, TILE.tokens, 10)
    assert torch.allclose(module(features).mean(-1), torch.zeros(5, TILE.tokens), atol=1e-6)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(RecipeError, match="16 heads do not divide the towers' width of 6"):
        made(VitConnector())
    with pytest.raises(ValueError, match="hidden 770 is not a multiple of heads 12"):
        QFormerConnector(hidden=770)
