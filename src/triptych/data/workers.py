"""Running a stateless dataset in worker processes, in order."""

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar, cast

import torch
from torch.utils.data import DataLoader, Dataset

T = TypeVar("T")


def read_ahead(
    dataset: Dataset[T], items: Iterable[Any], workers: int, context: str | None = None
) -> Iterator[T]:
    """Yield ``dataset[item]`` for each item in order, computed ahead by ``workers`` processes.

    Torch's global random state is neither read nor advanced.

    Args:
        dataset: picklable; its items come back as they are.
        items: what to ask the dataset for; may be endless.
        workers: processes; 0 computes here when asked.
        context: how processes start; None for the default.
    """
    loader: DataLoader[T] = DataLoader(
        dataset,
        batch_size=None,
        sampler=items,
        num_workers=workers,
        collate_fn=_same,
        generator=torch.Generator(),
        multiprocessing_context=context if workers else None,
    )
    return cast(Iterator[T], iter(loader))


def _same(item: T) -> T:
    return item
