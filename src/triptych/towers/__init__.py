"""Vision towers: one protocol, and a table from a config ``kind`` to its spec."""

from typing import TypeAlias

from triptych.towers.base import Tower, TowerSpecBase
from triptych.towers.small import SmallTower

TOWERS: dict[str, type[TowerSpecBase]] = {
    "small": SmallTower,
}

TowerSpec: TypeAlias = SmallTower

__all__ = ["TOWERS", "SmallTower", "Tower", "TowerSpec", "TowerSpecBase"]
