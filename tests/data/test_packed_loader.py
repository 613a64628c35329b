"""Packed micro-batches: whole samples, resumed to the sample whoever reads them."""

import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.data.tiny import data_spec, many
from torch import Tensor

from triptych.data.loader import Loader
from triptych.data.spec import BatchSpec
from triptych.model.processing import TriptychProcessor

PACKED = BatchSpec(tokens=256, tiles=12, per_step=2, window=16, packed=True)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return many(tmp_path_factory.mktemp("data"), 61)


def open_loader(
    processor: TriptychProcessor, path: Path, workers: int = 0, **options: Any
) -> Loader:
    return Loader.open(processor, data_spec(path, batch=PACKED, workers=workers), seed=7, **options)


def take(loader: Loader, steps: int) -> list[dict[str, Tensor]]:
    return [batch for step in islice(loader.steps(), steps) for batch in step]


def test_packed_steps_resume_twice_over_workers_and_ranks(
    processor: TriptychProcessor, path: Path
) -> None:
    """One epoch in three runs: 1 rank, then 2 ranks with workers, then 1 again."""
    whole = open_loader(processor, path)
    steps = whole.total_steps(1)
    wanted = take(whole, steps)
    first = open_loader(processor, path)
    found = take(first, 2)
    state = json.loads(json.dumps(first.state_dict()))
    ranks = []
    for rank in range(2):
        loader = open_loader(processor, path, workers=1, rank=rank, world=2)
        loader.load_state_dict(state)
        ranks.append(take(loader, 2))
        after = loader.state_dict()
    found += [batch for pair in zip(*ranks, strict=True) for batch in pair]
    last = open_loader(processor, path)
    last.load_state_dict(after)
    found += take(last, steps - 4)
    assert steps > 5
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_packed_rows_hold_whole_samples_without_padding(
    processor: TriptychProcessor, path: Path
) -> None:
    loader = open_loader(processor, path)
    batches = take(loader, loader.total_steps(1))
    sizes = [tuple(size) for source in loader.corpus.sources for size in source.sizes.tolist()]
    found = []
    for batch in batches[: len(loader._plan(0))]:
        assert batch["input_ids"].shape == batch["document_ids"].shape
        assert batch["input_ids"].shape[0] == 1
        assert batch["input_ids"].shape[1] <= PACKED.tokens
        assert bool(batch["attention_mask"].all())
        assert len(batch.get("tiles_per_image", ())) <= PACKED.tiles
        _, lengths = batch["document_ids"].unique(return_counts=True)
        found += lengths.tolist()
        first = batch["document_ids"][:, 1:] != batch["document_ids"][:, :-1]
        assert bool((batch["labels"][:, 1:][first] == -100).all())
    assert sorted(found) == sorted(tokens for tokens, _ in sizes)
