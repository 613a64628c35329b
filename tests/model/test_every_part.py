"""A pass without an image runs every part where ranks gather parameters together."""

from pathlib import Path

import pytest
import torch
from tests.training.tiny import build


@pytest.mark.parametrize(
    ("given", "runs"), [(None, (0, 0)), ("tiles", (1, 1)), ("features", (0, 1))]
)
def test_text_alone_runs_every_part_and_changes_nothing(
    tmp_path: Path, given: str | None, runs: tuple[int, int]
) -> None:
    model = build(tmp_path)[0].eval()
    text = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        expected = model(text).logits
    calls = {"tower": 0, "connector": 0}

    def count(name: str) -> None:
        calls[name] += 1

    model.towers[0].register_forward_hook(lambda *_: count("tower"))
    model.connector.register_forward_hook(lambda *_: count("connector"))
    if given is not None:
        model.run_every_part(given)  # type: ignore[arg-type]
    with torch.no_grad():
        assert torch.equal(model(text).logits, expected)
    assert tuple(calls.values()) == runs
