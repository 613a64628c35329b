"""From the numbers of a micro-batch to its tensors: what a loader worker does.

Shape suffixes: B batch, S sequence.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor
from torch.utils.data import Dataset

from triptych.data.corpus import Corpus, Skipped, describe_error
from triptych.data.encode import Encoder, Sample, Tiles
from triptych.data.preferences import encode_pair, pair_key
from triptych.data.schema import Record
from triptych.errors import DataError
from triptych.model.processing import TriptychProcessor
from triptych.model.prompt import Prompt

Batch: TypeAlias = dict[str, Tensor]


@dataclass(frozen=True)
class Loaded:
    """A micro-batch, and the samples that were left out of it."""

    batch: Batch
    skipped: tuple[Skipped, ...] = ()


class Preparer(Dataset[Loaded]):
    """Reads, decodes and collates micro-batches. Any worker gives the same batch.

    Bad samples are left out and reported, never replaced. Whether they stop the run is decided in
    the training process, where an error can be shown without a worker's traceback.
    """

    def __init__(
        self, corpus: Corpus, encoder: Encoder, *, packed: bool = False, pairs: bool = False
    ) -> None:
        self.corpus = corpus
        self.encoder = encoder
        self.packed = packed
        self.pairs = pairs
        self._kept: dict[int, tuple[Sample, ...]] = {}

    def __getitem__(self, samples: Sequence[int]) -> Loaded:
        prompts: list[Prompt] = []
        tiles: list[list[Tiles]] = []
        skipped: list[Skipped] = []
        keys: list[int] = []
        for index in samples:
            try:
                found = self._samples(index)
                pixels = self.encoder.tiles(found[0].record)
            except DataError as error:
                skipped.append(describe_error(error, self.corpus.where(index)))
                continue
            prompts.extend(sample.prompt for sample in found)
            tiles.extend([pixels] * len(found))
            if self.pairs:
                keys.append(pair_key(found[0], found[1]))
        processor = self.encoder.processor
        if not prompts:
            return Loaded(empty_batch(processor, pairs=self.pairs), tuple(skipped))
        batch = processor.collate(prompts, tiles, labels=True, packed=self.packed)
        if self.pairs:
            batch["pair_keys"] = torch.tensor(keys)
        return Loaded(batch, tuple(skipped))

    def _samples(self, index: int) -> tuple[Sample, ...]:
        """The conversations of a sample: one, or two of a pair."""
        if index in self._kept:
            return self._kept[index]
        record = self.corpus.record(index)
        found = encode_pair(self.encoder, record) if self.pairs else self._single(record)
        if found is None:
            raise DataError(
                f"{self.corpus.where(index)}: is over max_tokens now but was not before; "
                "the file was changed while it was in use"
            )
        if self.encoder.spec.keep_tokens:
            self._kept[index] = found
        return found

    def _single(self, record: Record) -> tuple[Sample, ...] | None:
        sample = self.encoder.sample(record)
        return None if sample is None else (sample,)


def empty_batch(processor: TriptychProcessor, *, pairs: bool = False) -> Batch:
    """A batch of one text token that is not supervised: what is left when nothing is."""
    token = 1 if processor.image_token_id == 0 else 0
    batch = processor.collate([Prompt([token], [False], [], [])], [[]], labels=True)
    if pairs:
        batch["pair_keys"] = torch.zeros(0, dtype=torch.int64)
    return batch
