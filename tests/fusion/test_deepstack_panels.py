"""DeepStack with every connector, tiling and attention rule; the paper's baselines."""

from typing import Any

import pytest
import torch
from tests.fusion.deep import images_of, make
from tests.model.checks import LONG, SHORT, TEXT, check_batch, close, inputs, training_batch
from tests.oracles.deepstack import groups_of, look, run

from triptych.errors import SpanError
from triptych.model.processing import image_sources

CONNECTORS: dict[str, dict[str, Any]] = {
    "linear": {"kind": "linear"},
    "pooled": {"kind": "mlp", "pool": 2},
    "pixel_shuffle": {"kind": "pixel_shuffle"},
    "vit": {"kind": "vit", "heads": 2},
    "perceiver": {"kind": "perceiver", "depth": 1, "heads": 2, "head_width": 8, "latents": 3},
    "qformer": {"kind": "qformer", "layers": 1, "hidden": 16, "heads": 2, "queries": 3},
}
TILINGS: dict[str, dict[str, Any]] = {
    "pad": {"kind": "fixed", "fit": "pad"},
    "crop": {"kind": "fixed", "fit": "crop"},
    "skip": {"kind": "grid", "side": 2, "row_separator": True},
    "tags": {"kind": "grid", "side": 2, "skip": "tagged", "tile_tags": True},
    "rows": {"kind": "anyres", "order": "rows", "skip": "none", "unpad": True},
    "one": {"kind": "anyres", "one_tile": True, "fit": "stretch"},
}


def deep(**producer: Any) -> dict[str, Any]:
    return {"kind": "deepstack", "producer": {"kind": "mosaic", **producer}}


@torch.no_grad()
def check(fusion: dict[str, Any], **changes: Any) -> None:
    """A ragged batch equals one by one, and the groups matter."""
    pair = model, processor = make(fusion, **changes)
    together = check_batch(pair, LONG, SHORT, TEXT)
    if fusion["kind"] == "deepstack":
        batch = inputs(processor, LONG, SHORT, TEXT)
        embeddings, stacks = model.embed_stacked(batch["input_ids"], images_of(batch))
        assert stacks is not None
        kinds = model.find_token_kinds(batch["input_ids"], batch["attention_mask"])
        bare = model(
            inputs_embeds=embeddings, stacks=0 * stacks, attention_mask=batch["attention_mask"],
            token_kinds=kinds, image_ids=(kinds == 2).long(),
        )  # fmt: skip
        assert not torch.allclose(bare.logits[0].exp(), together[0].exp(), atol=1e-3)


@pytest.mark.parametrize("name", sorted(CONNECTORS))
def test_every_connector(name: str) -> None:
    sampler = "grid" if name in ("perceiver", "qformer") else "2d"
    check(deep(sampler=sampler), connector=CONNECTORS[name], attention="mmca")
    check({"kind": "channels"}, connector=CONNECTORS[name])


@pytest.mark.parametrize("name", sorted(TILINGS))
@pytest.mark.parametrize("of", ["overview", "tiles"])
def test_every_tiling(name: str, of: str) -> None:
    grids = {"grids": [[2, 2]]} if of == "tiles" else {}
    check(deep(of=of, **grids), tiling=TILINGS[name])
    check({"kind": "channels", "of": of, "count": 4, **grids}, tiling=TILINGS[name])


@pytest.mark.parametrize("scope", ["self", "image"])
@pytest.mark.parametrize("attention", ["mmca", "mmca_as_coded"])
def test_every_attention_rule(attention: str, scope: str) -> None:
    check(deep(fit="pad"), attention=attention, image_scope=scope)


@torch.no_grad()
def test_high_definition_equals_the_oracle() -> None:
    """The overview and each of the four tiles has four groups of its own region."""
    tiling = {"kind": "grid", "side": 2, "fit": "stretch", "overview": "squash"}
    model, processor = make(deep(of="tiles"), tiling=tiling)
    batch = inputs(processor, SHORT)
    assert batch["tiles_per_image"].tolist() == [25]
    image = image_sources(SHORT)[0]
    whole, coarse = look(model, image, 2, 2)
    fine = look(model, image, 4, 4)[1]
    tokens, groups = [whole], [groups_of(coarse, 2, 2, "2d")]
    for row in (0, 2):
        for column in (0, 2):
            tokens.append(coarse[row : row + 2, column : column + 2].flatten(0, 1))
            part = fine[2 * row : 2 * row + 4, 2 * column : 2 * column + 4]
            groups.append(groups_of(part, 2, 2, "2d"))
    stacked = [torch.cat([one[k] for one in groups]) for k in range(4)]
    wanted = run(model, batch["input_ids"][0], [(torch.cat(tokens), stacked)], [1, 2, 3, 4])
    close(model(**batch).logits[0], wanted)


@torch.no_grad()
def test_dummy_groups_are_the_overview_again() -> None:
    model, processor = make({"kind": "deepstack", "producer": {"kind": "repeat"}})
    batch = inputs(processor, SHORT)
    overview = look(model, image_sources(SHORT)[0], 1, 1)[0]
    wanted = run(model, batch["input_ids"][0], [(overview, [overview] * 4)], [1, 2, 3, 4])
    close(model(**batch).logits[0], wanted)


@torch.no_grad()
def test_a_late_start_from_zeros() -> None:
    """Figure 3a of the paper: nothing of the image is known before the third layer."""
    fusion = {
        "kind": "deepstack",
        "layers": [3],
        "sequence": "zeros",
        "producer": {"kind": "repeat"},
    }
    model, processor = make(fusion)
    batch = inputs(processor, SHORT)
    overview = look(model, image_sources(SHORT)[0], 1, 1)[0]
    images = [(torch.zeros_like(overview), [overview])]
    close(model(**batch).logits[0], run(model, batch["input_ids"][0], images, [3]))


@torch.no_grad()
def test_zeros_leave_learnable_tokens_as_they_are() -> None:
    model, processor = make({**deep(), "sequence": "zeros"}, tiling=TILINGS["skip"])
    batch = inputs(processor, SHORT)
    embeddings = model.embed(batch["input_ids"], images_of(batch))[0]
    span = embeddings[batch["input_ids"][0] == model.config.image_token_id]
    kept = span[span.any(-1)]
    assert len(kept) == 2, "the two row separators"
    assert model.tile_tokens.weight is not None
    assert torch.equal(kept, model.tile_tokens.weight[1:].expand(2, -1))


@torch.no_grad()
@pytest.mark.parametrize("sampler", ["2d", "1d", "grid"])
def test_channels_are_joined_before_the_connector(sampler: str) -> None:
    model, processor = make({"kind": "channels", "sampler": sampler})
    batch = inputs(processor, LONG)
    images = []
    for image in image_sources(LONG):
        grid = processor.plan(*image.size).zooms[0].grid
        overview, mosaic = look(model, image, *grid, connect=False)
        groups = groups_of(mosaic, *grid, sampler)
        groups += [torch.zeros_like(overview)] * (4 - len(groups))
        images.append((model.connector(torch.cat([overview, *groups], -1)[None])[0], []))
    close(model(**batch).logits[0], run(model, batch["input_ids"][0], images, []))
    with pytest.raises(SpanError, match="needs the plans of the images"):
        model.get_image_features(batch["pixel_values"])


def test_channels_train() -> None:
    model, processor = make({"kind": "channels"})
    model.train()(**training_batch(processor)).loss.backward()
    first = next(model.connector.parameters())
    assert first.shape[1] == 5 * 16
    assert all(p.grad is not None for p in model.parameters())
    widths = first.grad.unflatten(1, (5, 16)).abs().sum((0, 2))
    # The picture of 20 x 16 pixels is cut in two; two of four groups are empty.
    assert [bool(width) for width in widths] == [True, True, True, False, False]
