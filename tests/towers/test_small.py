"""The tower trained from scratch, and fingerprints."""

import pytest
import torch
from pydantic import ValidationError

from triptych.images import TileLayout
from triptych.towers import SmallTower, fingerprint


@pytest.mark.parametrize("patch", [2, 4, 8, 16, 32])
def test_one_token_per_patch(patch: int) -> None:
    spec = SmallTower(size=64, patch=patch, hidden=24, heads=3, depth=1)
    tower = spec.build()
    tokens = tower(torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8))
    assert tokens.shape == (3, spec.layout.tokens, spec.width)
    assert spec.layout == TileLayout(64 // patch, 64 // patch)
    tokens.square().sum().backward()
    assert all(parameter.grad is not None for parameter in tower.parameters())


def test_it_learns_where_a_square_is() -> None:
    torch.manual_seed(0)
    tower = SmallTower(size=16, patch=4, hidden=32, heads=2, depth=1).build()
    head = torch.nn.Linear(32, 1)
    optimizer = torch.optim.AdamW([*tower.parameters(), *head.parameters()], lr=3e-3)
    for _ in range(80):
        place = torch.randint(0, 16, (32,))
        tiles = torch.zeros(32, 3, 16, 16, dtype=torch.uint8)
        for tile, where in zip(tiles, place.tolist(), strict=True):
            row, column = divmod(where, 4)
            tile[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = 255
        scores = head(tower(tiles)).squeeze(-1)
        loss = torch.nn.functional.cross_entropy(scores, place)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (scores.argmax(-1) == place).float().mean() > 0.95


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValidationError, match="not a multiple of patch"):
        SmallTower(size=60, patch=8)
    with pytest.raises(ValidationError, match="not a multiple of heads"):
        SmallTower(hidden=30, heads=4)


def test_it_is_built_on_meta() -> None:
    with torch.device("meta"):
        tower = SmallTower().build()
    assert tower.state_dict().keys() == SmallTower().build().state_dict().keys()


def test_the_fingerprint_follows_weights_and_architecture() -> None:
    spec = SmallTower(size=16, patch=8, hidden=8, heads=2, depth=1)
    tower, twin = spec.build(), spec.build()
    assert fingerprint(tower) != fingerprint(twin)
    twin.load_state_dict(tower.state_dict())
    assert fingerprint(tower) == fingerprint(twin)
    other = spec.model_copy(update={"mean": (0.4, 0.5, 0.5)}).build()
    other.load_state_dict(tower.state_dict())
    assert fingerprint(tower) != fingerprint(other)
    with torch.no_grad():
        next(twin.parameters()).view(-1)[-1] += 1e-6
    assert fingerprint(tower) != fingerprint(twin)
    assert fingerprint(tower.to(torch.bfloat16)) != fingerprint(spec.build())
