"""Planning micro-batches from sizes alone: pure functions, deterministic for a seed.

A sample is named by its place in all sources joined one after the other. Nothing here knows of
ranks or workers, which is why they cannot change the plan.
"""

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from math import floor
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from triptych.data.spec import BatchSpec
from triptych.errors import DataError, RecipeError

IntArray = npt.NDArray[np.int64]

# First words of the seeds, so that no two kinds of draw share a random stream.
PASS, ORDER, BATCHES = 0, 1, 2


class SampleSize(NamedTuple):
    """What a sample takes of the two budgets."""

    tokens: int
    tiles: int


def plan_epoch(
    sizes: Sequence[Sequence[SampleSize] | IntArray],
    weights: Sequence[float],
    *,
    seed: int,
    epoch: int,
    batch: BatchSpec,
) -> list[list[int]]:
    """Plan all micro-batches of one epoch, for all ranks together.

    Every micro-batch holds both budgets: rows x longest (packed: the sum) <= ``batch.tokens`` and
    the sum of tiles <= ``batch.tiles``. Samples of like length meet within shuffled windows
    (packed: those that fill a row best), then the micro-batches are shuffled. The first
    micro-batch of epoch 0 is the largest of its epoch, so that a run that does not fit in memory
    fails at once.

    Args:
        sizes: (n, 2) tokens and tiles of the samples of each source.
        weights: passes over each source that one epoch makes.
        seed: of every shuffle.
        epoch: which epoch, from 0.
        batch: the budgets.

    Raises:
        DataError: when one sample alone is over a budget.
        RecipeError: when the weights leave nothing to train on.
    """
    joined = join_sizes(sizes)
    check_budgets(joined, batch)
    drawn = draw_epoch([len(source) for source in sizes], weights, seed=seed, epoch=epoch)
    batches = [
        part
        for start in range(0, len(drawn), batch.window)
        for part in form(drawn[start : start + batch.window], joined, batch)
    ]
    order = np.random.default_rng([BATCHES, seed, epoch]).permutation(len(batches))
    plan = [batches[index] for index in order]
    if epoch == 0 and plan:
        largest = max(range(len(plan)), key=lambda index: _load(plan[index], joined, batch))
        plan[0], plan[largest] = plan[largest], plan[0]
    return plan


def plan_once(
    sizes: Sequence[SampleSize] | IntArray, batch: BatchSpec, *, packed: bool = False
) -> list[list[int]]:
    """Plan micro-batches over every sample once, in a fixed order, packed only when told."""
    joined = join_sizes([sizes])
    check_budgets(joined, batch)
    return [
        part
        for start in range(0, len(joined), batch.window)
        for part in (pack if packed else group)(
            np.arange(start, min(start + batch.window, len(joined))),
            joined,
            batch,
        )
    ]


def draw_epoch(
    counts: Sequence[int], weights: Sequence[float], *, seed: int, epoch: int
) -> IntArray:
    """Choose and shuffle the samples of one epoch.

    The passes over a source are shuffled one by one and joined into an endless stream, of which
    each epoch takes the next ``weight * count`` samples. After any number of epochs no sample was
    taken more than once more often than another; with weight 0.5 two epochs make one whole pass.
    """
    if not any(count * weight > 0 for count, weight in zip(counts, weights, strict=True)):
        raise RecipeError("data: every source is empty or has weight 0; give one a weight above 0")
    chosen = []
    offset = 0
    for source, (count, weight) in enumerate(zip(counts, weights, strict=True)):
        exact = Fraction(weight).limit_denominator(10**6) * count
        start, stop = floor(epoch * exact), floor((epoch + 1) * exact)
        chosen.append(offset + _stream(count, start, stop, [PASS, seed, source]))
        offset += count
    joined = np.concatenate(chosen)
    return np.random.default_rng([ORDER, seed, epoch]).permutation(joined)


def _stream(count: int, start: int, stop: int, seed: list[int]) -> IntArray:
    """Samples ``start`` to ``stop`` of the endless stream of shuffled passes over a source."""
    if stop <= start:
        return np.zeros(0, dtype=np.int64)
    first, last = start // count, (stop - 1) // count
    passes = [
        np.random.default_rng([*seed, index]).permutation(count) for index in range(first, last + 1)
    ]
    return np.concatenate(passes)[start - first * count : stop - first * count]


def pack(samples: Iterable[int], sizes: IntArray, batch: BatchSpec) -> list[list[int]]:
    """Pack samples into rows within the budgets: longest first, each where least is left over."""
    ids = np.asarray(samples, dtype=np.int64)
    ids = ids[np.lexsort((-sizes[ids, 1], -sizes[ids, 0]))]
    rows: list[list[int]] = []
    # Tokens, tiles and samples that each row still has room for.
    room = np.zeros((len(ids), 3), dtype=np.int64)
    whole = (batch.tokens, batch.tiles, batch.samples or len(ids))
    for index in ids.tolist():
        need = np.array([*sizes[index], 1])
        open_rows = room[: len(rows)]
        fits = np.flatnonzero((open_rows >= need).all(axis=1))
        if len(fits):
            row = int(fits[np.argmin(open_rows[fits, 0])])
        else:
            row = len(rows)
            rows.append([])
            room[row] = whole
        rows[row].append(index)
        room[row] -= need
    return rows


def group(samples: Iterable[int], sizes: IntArray, batch: BatchSpec) -> list[list[int]]:
    """Group samples of like length into micro-batches within the budgets, longest first."""
    ids = np.asarray(samples, dtype=np.int64)
    ids = ids[np.lexsort((-sizes[ids, 1], -sizes[ids, 0]))]
    batches: list[list[int]] = []
    longest = tiles = 0
    rows = batch.samples or len(ids)
    for index in ids.tolist():
        size = SampleSize(*sizes[index].tolist())
        current = batches[-1] if batches else []
        if (
            not batches
            or len(current) == rows
            or (len(current) + 1) * longest > batch.tokens
            or tiles + size.tiles > batch.tiles
        ):
            batches.append([])
            longest, tiles = size.tokens, 0
        batches[-1].append(index)
        tiles += size.tiles
    return batches


def join_sizes(sizes: Sequence[Sequence[SampleSize] | IntArray]) -> IntArray:
    """Join the sizes of all sources into one (n, 2) array."""
    parts = [np.asarray(source, dtype=np.int64).reshape(-1, 2) for source in sizes]
    return np.concatenate(parts) if parts else np.zeros((0, 2), dtype=np.int64)


def check_budgets(sizes: IntArray, batch: BatchSpec, name: Callable[[int], str] = str) -> None:
    """Check that every sample fits into a micro-batch of its own.

    Args:
        sizes: (n, 2) tokens and tiles.
        batch: the budgets.
        name: turns the number of a sample into a name for the message.

    Raises:
        DataError: naming the largest sample that does not fit and the budget to raise.
    """
    for column, unit in enumerate(("tokens", "tiles")):
        budget = (batch.tokens, batch.tiles)[column]
        over = np.flatnonzero(sizes[:, column] > budget)
        if len(over):
            worst = int(over[np.argmax(sizes[over, column])])
            raise DataError(
                f"sample {name(worst)} alone has {sizes[worst, column]} {unit}, more than the "
                f"budget of {budget} {unit} of a micro-batch ({len(over)} samples are over it); "
                f"raise data.batch.{unit} to at least {sizes[worst, column]}"
            )


def form(samples: Iterable[int], sizes: IntArray, batch: BatchSpec) -> list[list[int]]:
    """Form micro-batches as ``batch`` says: packed, or grouped by length."""
    return pack(samples, sizes, batch) if batch.packed else group(samples, sizes, batch)


def _load(samples: list[int], sizes: IntArray, batch: BatchSpec) -> float:
    """How full a micro-batch is, as the sum of its shares of both budgets."""
    chosen = sizes[samples]
    longest, total = int(chosen[:, 0].max()), int(chosen[:, 0].sum())
    padded = total if batch.packed else len(samples) * longest
    return padded / batch.tokens + int(chosen[:, 1].sum()) / batch.tiles
