from pathlib import Path

import pytest
from tests.inference.tiny import paint, tiny_engine

from triptych.inference.engine import Engine


@pytest.fixture(scope="session")
def engine() -> Engine:
    return tiny_engine()


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for number in range(5):
        paint(folder, f"{number}.png", number)
    return folder
