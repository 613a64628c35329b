from pathlib import Path

import pytest
from tests.inference.tiny import paint, tiny_engine

from triptych.inference.engine import Engine


@pytest.fixture(scope="session")
def engine() -> Engine:
    return tiny_engine()


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    return [paint(folder, f"picture {number}.png", number) for number in range(4)]
