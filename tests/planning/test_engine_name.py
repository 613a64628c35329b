from typing import Any

import pytest

from triptych.planning.states import engine_name
from triptych.training.stages import ParallelSpec


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "ddp"),
        ({"engine": "fsdp2", "offload": "cpu"}, "fsdp2+offload"),
        ({"engine": "deepspeed", "zero": 2}, "zero2"),
        ({"engine": "deepspeed", "offload": "nvme", "nvme": "disk"}, "zero3+offload"),
    ],
)
def test_every_engine_of_a_recipe_is_planned(fields: dict[str, Any], expected: str) -> None:
    assert engine_name(ParallelSpec(**fields), gpus=2) == expected
