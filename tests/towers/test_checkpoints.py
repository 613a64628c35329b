"""Towers inside a transformers model: built on meta, filled from safetensors, used at once."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from tests.towers.families import TINY
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from triptych.towers import SmallTower, TowerSpec, TransformersTower, fingerprint
from triptych.towers.efficientnet_lite import EfficientNetLiteTower

SPECS: dict[str, TowerSpec] = {
    name: TransformersTower(config=config) for name, config in TINY.items()
}
SPECS["small"] = SmallTower(size=16, patch=8, hidden=8, heads=2, depth=1)
SPECS["lite"] = EfficientNetLiteTower(size=32, grid=1, pretrained=False)


class HolderConfig(PretrainedConfig):
    model_type = "tower_holder"

    def __init__(self, tower: dict[str, Any] | None = None, **rest: Any) -> None:
        self.tower = tower
        super().__init__(**rest)


class Holder(PreTrainedModel):
    config_class = HolderConfig

    def __init__(self, config: HolderConfig) -> None:
        super().__init__(config)
        self.towers = nn.ModuleList([TypeAdapter(TowerSpec).validate_python(config.tower).build()])
        self.post_init()

    def forward(self, tiles: Tensor) -> Tensor:
        tokens: Tensor = self.towers[0](tiles)
        return tokens


@pytest.mark.parametrize("name", SPECS)
def test_saved_and_loaded_towers_are_the_same(tmp_path: Path, name: str) -> None:
    if name == "lite":
        pytest.importorskip("efficientnet_lite_pytorch")
    spec = SPECS[name].resolve()
    model = Holder(HolderConfig(tower=spec.model_dump(mode="json"))).eval()
    model.save_pretrained(tmp_path)
    loaded, report = Holder.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    tiles = torch.randint(0, 256, (2, 3, spec.tile_size, spec.tile_size), dtype=torch.uint8)
    # Convolutions sum in an order that depends on how the memory of their weights is aligned.
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if name == "lite" else {"rtol": 0, "atol": 0}
    torch.testing.assert_close(loaded(tiles), model(tiles), **tolerance)
    assert fingerprint(loaded.towers[0]) == fingerprint(model.towers[0])
