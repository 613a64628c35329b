"""From the numbers of a micro-batch to its tensors: what a loader worker does.

Shape suffixes: B batch, S sequence.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor
from torch.utils.data import Dataset

from triptych.data.corpus import Corpus, Skipped, describe_error
from triptych.data.encode import Encoder, Sample, Tiles
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

    def __init__(self, corpus: Corpus, encoder: Encoder, *, packed: bool = False) -> None:
        self.corpus = corpus
        self.encoder = encoder
        self.packed = packed
        self._kept: dict[int, Sample] = {}

    def __getitem__(self, samples: Sequence[int]) -> Loaded:
        prompts: list[Prompt] = []
        tiles: list[list[Tiles]] = []
        skipped: list[Skipped] = []
        for index in samples:
            try:
                sample = self._sample(index)
                pixels = self.encoder.tiles(sample.record)
            except DataError as error:
                skipped.append(describe_error(error, self.corpus.where(index)))
                continue
            prompts.append(sample.prompt)
            tiles.append(pixels)
        processor = self.encoder.processor
        if not prompts:
            return Loaded(empty_batch(processor), tuple(skipped))
        batch = processor.collate(prompts, tiles, labels=True, packed=self.packed)
        return Loaded(batch, tuple(skipped))

    def _sample(self, index: int) -> Sample:
        if index in self._kept:
            return self._kept[index]
        sample = self.encoder.sample(self.corpus.record(index))
        if sample is None:
            raise DataError(
                f"{self.corpus.where(index)}: is over max_tokens now but was not before; "
                "the file was changed while it was in use"
            )
        if self.encoder.spec.keep_tokens:
            self._kept[index] = sample
        return sample


def empty_batch(processor: TriptychProcessor) -> Batch:
    """A batch of one text token that is not supervised: what is left when nothing is."""
    token = 1 if processor.image_token_id == 0 else 0
    return processor.collate([Prompt([token], [False], [], [])], [[]], labels=True)
