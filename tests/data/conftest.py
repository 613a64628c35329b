import pytest
from tests.data.tiny import tiny_processor

from triptych.model.processing import TriptychProcessor


@pytest.fixture(scope="session")
def processor() -> TriptychProcessor:
    return tiny_processor()
