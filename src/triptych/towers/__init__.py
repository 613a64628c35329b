"""Vision towers: one protocol, and a table from a config ``kind`` to its spec."""

from typing import Annotated, TypeAlias

from pydantic import Field

from triptych.towers.base import BlockTower, Tower, TowerSpecBase
from triptych.towers.efficientnet_lite import EfficientNetLiteTower
from triptych.towers.encoder import TransformersTower
from triptych.towers.fingerprint import fingerprint
from triptych.towers.mixing import TowerGrid, align, common_layout
from triptych.towers.passes import Enter, Leave, Tap
from triptych.towers.qwen_vl import QwenVlTower
from triptych.towers.small import SmallTower

TOWERS: dict[str, type[TowerSpecBase]] = {
    "transformers": TransformersTower,
    "efficientnet_lite2": EfficientNetLiteTower,
    "qwen_vl": QwenVlTower,
    "small": SmallTower,
}

TowerSpec: TypeAlias = Annotated[
    TransformersTower | EfficientNetLiteTower | QwenVlTower | SmallTower,
    Field(discriminator="kind"),
]

__all__ = [
    "TOWERS",
    "BlockTower",
    "EfficientNetLiteTower",
    "Enter",
    "Leave",
    "QwenVlTower",
    "SmallTower",
    "Tap",
    "Tower",
    "TowerGrid",
    "TowerSpec",
    "TowerSpecBase",
    "TransformersTower",
    "align",
    "common_layout",
    "fingerprint",
]
