"""The vision side of the model: mixed towers, budgets, shared tiles, masks, whole images."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.model.tiny import TEXTS, answer, picture, tiny_spec, turn
from tests.oracles.connectors import align_grid
from tests.towers.families import TINY
from torch import Tensor, nn

from triptych.connectors import MlpConnector, PerceiverConnector, QFormerConnector, VitConnector
from triptych.errors import SpanError
from triptych.images.layout import TileLayout
from triptych.model.build import initialise, load_pretrained
from triptych.model.modeling import TriptychForConditionalGeneration
from triptych.model.processing import TriptychProcessor
from triptych.model.sharing import share_tiles
from triptych.model.vision import encode_tiles
from triptych.towers import SmallTower, Tower, TransformersTower, common_layout

COARSE = SmallTower(size=16, patch=8, hidden=16, depth=1, heads=2)
FINE = SmallTower(size=12, patch=4, hidden=8, depth=1, heads=2, mean=(0.4, 0.3, 0.2))
COMMON = TileLayout(3, 3)
WHOLE = PerceiverConnector(depth=1, heads=2, head_width=4, latents=5, sampling="whole_image")


def towers() -> nn.ModuleList:
    torch.manual_seed(0)
    return nn.ModuleList([COARSE.build(), FINE.build()])


def tiles(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=generator)


def passes(tower: nn.Module) -> list[int]:
    """Grows by the number of tiles of every pass through ``tower``."""
    seen: list[int] = []
    tower.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    return seen


def mixed_model(connector: Any) -> tuple[TriptychForConditionalGeneration, TriptychProcessor]:
    spec = tiny_spec(connector=connector).model_copy(update={"towers": (COARSE, FINE)})
    model, processor = initialise(spec, texts=TEXTS)
    return model.eval(), processor


def batch_of(processor: TriptychProcessor, *samples: list[int], many: bool = False) -> Any:
    """A training batch; a sample lists its pictures by seed, of seed + 1 tiles if ``many``."""
    prompts, images = [], []
    for seeds in samples:
        messages = [turn("is there", *(picture(seed) for seed in seeds)), answer("yes")]
        prompts.append(processor.encode(messages, [(20, 16)] * len(seeds)))
        count = [seed + 1 if many else 1 for seed in seeds]
        images.append([tiles(n, seed).numpy() for n, seed in zip(count, seeds, strict=True)])
    batch = processor.collate(prompts, images, labels=True)
    if many:
        batch.pop("image_sizes", None)  # the tiling would not give so many tiles
    return batch


@torch.no_grad()
def test_mixed_towers_equal_a_loop_over_towers_and_tiles() -> None:
    both, given = towers(), tiles(3)
    found = encode_tiles(both, given, COMMON)
    for number in range(3):
        coarse, fine = (tower(given[number : number + 1])[0] for tower in both)
        expected = torch.cat([align_grid(coarse, 2, 2, 3, 3), fine], dim=-1)
        assert torch.allclose(found[number], expected, atol=1e-6)


@pytest.mark.parametrize("frozen", [True, False])
def test_a_budget_of_tiles_changes_nothing(frozen: bool) -> None:
    both, given, results = towers().requires_grad_(not frozen), tiles(5), []
    for budget, expected in ((None, [5]), (2, [2, 2, 1])):
        both.zero_grad()
        seen = passes(both[1])
        features = encode_tiles(both, given, COMMON, budget)
        assert seen == expected
        if not frozen:
            features.square().sum().backward()
            assert sum(seen) == (5 if budget is None else 10), "chunks are computed again"
        results.append([features, *(p.grad for p in both.parameters() if p.grad is not None)])
    assert len(results[0]) == (1 if frozen else 1 + len(list(both.parameters())))
    for whole, cut in zip(*results, strict=True):
        assert torch.allclose(whole, cut, rtol=1e-4, atol=1e-5)


def test_only_the_tower_that_trains_has_a_graph() -> None:
    both = towers()
    both[0].requires_grad_(False)
    graphs = []
    for tower in both:
        tower.register_forward_hook(lambda _, given, out: graphs.append(out.requires_grad))
    encode_tiles(both, tiles(2), COMMON).sum().backward()
    assert graphs == [False, True]
    assert all(p.grad is None for p in both[0].parameters())
    assert all(p.grad is not None for p in both[1].parameters())


def test_equal_tiles_are_shared() -> None:
    given = tiles(3).numpy()
    repeated = given[[0, 1, 0, 2, 1]]
    unique, index = share_tiles(repeated)
    assert np.array_equal(unique, given)
    assert index is not None
    assert index.tolist() == [0, 1, 0, 2, 1]
    alone, none = share_tiles(given)
    assert alone is given
    assert none is None


def test_shared_tiles_are_encoded_once_with_equal_outputs_and_gradients() -> None:
    model, processor = mixed_model(MlpConnector())
    shared = batch_of(processor, [3, 4], [3, 3])
    assert shared["tile_index"].tolist() == [0, 1, 0, 0]
    assert len(shared["pixel_values"]) == 2
    repeated = dict(shared)
    repeated["pixel_values"] = shared["pixel_values"][repeated.pop("tile_index")]
    results = []
    for batch, encoded in ((shared, 2), (repeated, 4)):
        model.zero_grad()
        seen = passes(model.towers[0])
        out = model(**batch)
        out.loss.backward()
        assert sum(seen) == encoded
        results.append((out.logits, [p.grad.clone() for p in model.parameters()]))
    assert torch.equal(results[0][0], results[1][0])
    for once, apart in zip(results[0][1], results[1][1], strict=True):
        assert torch.allclose(once, apart, rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_beams_do_not_encode_an_image_again() -> None:
    model, processor = mixed_model(MlpConnector())
    batch = processor.apply_chat_template([turn("a", picture(0))], tokenize=True)
    seen = passes(model.towers[0])
    model.generate(**batch, num_beams=3, max_new_tokens=2, do_sample=False, eos_token_id=None)
    assert seen == [1]


@torch.no_grad()
def test_ragged_images_of_many_tiles_equal_one_by_one() -> None:
    """One latent set for an image: its cost does not depend on its tiles."""
    model, processor = mixed_model(WHOLE)
    assert processor.count(20, 16) == processor.count(500, 10) == 5
    samples = [[0, 2], [], [1, 3, 0], [2]]
    together = batch_of(processor, *samples, many=True)
    assert together["tiles_per_image"].tolist() == [1, 3, 2, 4, 1, 3]
    together.pop("labels")
    logits = model(**together).logits
    for row, sample in enumerate(samples):
        alone = batch_of(processor, sample, many=True)
        alone.pop("labels")
        expected = model(**alone).logits[0]
        assert torch.allclose(logits[row, : len(expected)], expected, atol=1e-5)


@torch.no_grad()
def test_what_the_mask_hides_has_no_effect() -> None:
    connector = WHOLE.model_copy(update={"sampling": "per_tile"})
    model, _ = mixed_model(connector)
    features = torch.randn(3, 9, model.tower_width)
    mask = torch.rand(3, 9) < 0.5
    mask[:, 4] = True
    noise = torch.where(mask[..., None], features, torch.randn_like(features))
    found = model.get_image_features(tile_features=features, patch_mask=mask)
    assert torch.equal(model.get_image_features(tile_features=noise, patch_mask=mask), found)


def test_a_tile_of_padding_alone_is_refused() -> None:
    model, _ = mixed_model(WHOLE)
    features, mask = torch.randn(4, 9, model.tower_width), torch.ones(4, 9, dtype=torch.bool)
    mask[2] = False
    with pytest.raises(SpanError, match="image 2 of the batch, tile 2 of 3: patch_mask says"):
        model.get_image_features(
            tile_features=features, patch_mask=mask, tiles_per_image=torch.tensor([1, 3])
        )
    with pytest.raises(SpanError, match=r"patch_mask is \(4, 8\)"):
        model.get_image_features(tile_features=features, patch_mask=mask[:, :8])


@torch.no_grad()
def test_dinov2_and_a_convnext_give_one_map() -> None:
    """The pair of SPHINX-X, tiny: CLS and 4 x 4 patches beside a map of 2 x 2."""
    dino = TransformersTower(config=TINY["dinov2"], cls="keep").resolve()
    convnext = TransformersTower(config=TINY["convnext"]).resolve()
    torch.manual_seed(0)
    both = nn.ModuleList([convnext.build(), dino.build()])
    given = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    found = encode_tiles(both, given, common_layout([convnext.layout, dino.layout], "largest"))
    maps, tokens = (tower(given) for tower in both)
    assert found.shape == (2, 17, 64)
    assert torch.equal(found[..., 32:], tokens)
    assert torch.allclose(found[:, 0, :32], maps.mean(1), atol=1e-6)
    for tile in range(2):
        assert torch.equal(found[tile, 1:, :32], align_grid(maps[tile], 2, 2, 4, 4))


@torch.no_grad()
@pytest.mark.parametrize(
    "connector",
    [
        WHOLE,
        QFormerConnector(queries=3, layers=2, hidden=8, heads=2),
        VitConnector(heads=2),
        MlpConnector(pool=2),
    ],
    ids=lambda connector: connector.kind,
)
def test_a_checkpoint_restores_connector_and_towers(connector: Any, tmp_path: Path) -> None:
    model, processor = mixed_model(connector)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded, reread = load_pretrained(tmp_path)
    assert reread.layout == processor.layout == model.layout
    batch = batch_of(reread, [0, 1], many=connector is WHOLE)
    assert torch.equal(loaded(**batch).logits, model(**batch).logits)


def test_the_towers_of_a_model_keep_their_own_sizes() -> None:
    model, processor = mixed_model(MlpConnector())
    assert [tower.size for tower in model.towers if isinstance(tower, Tower)] == [16, 12]
    assert processor.tile_size == model.tile_size == 16
    assert model.encode_tiles(tiles(2)).shape == (2, 9, 24)
