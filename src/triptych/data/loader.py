"""The loader: optimizer steps of micro-batches, resumed to the sample."""

import difflib
from collections.abc import Collection, Iterator, Mapping
from itertools import islice
from math import ceil, floor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from triptych.data.corpus import Corpus, Progress, measure
from triptych.data.encode import Encoder
from triptych.data.features import FeatureCache
from triptych.data.mixture import describe, resolve
from triptych.data.plan import IntArray, check_budgets, join_sizes, plan_epoch, plan_once
from triptych.data.prepare import Batch, Loaded, Preparer, empty_batch
from triptych.data.quarantine import Quarantine
from triptych.data.schema import ImagePart, Record
from triptych.data.spec import DataSpec
from triptych.data.workers import read_ahead
from triptych.errors import CheckpointError, DataError, RecipeError
from triptych.model.processing import TriptychProcessor


class LoaderState(NamedTuple):
    """Where the loader stands: the next micro-batch of an epoch's plan, and the steps so far."""

    epoch: int
    batch: int
    step: int


class Loader:
    """Delivers the micro-batches of optimizer steps for one rank.

    All ranks and any number of workers follow one global plan that depends on the sizes, the
    weights and the seed alone. A step takes ``batch.per_step`` consecutive micro-batches of it;
    rank r of n takes every n-th of them from the r-th on. A step that begins at the end of an
    epoch is filled up from the next one, so nothing is lost.

    Args:
        corpus: training samples.
        held_out: samples for evaluation.
        encoder: turns records into prompts and tiles.
        seed: of the shuffles.
        weights: passes per epoch by source name, in place of those in the recipe.
        rank, world: this process and the number of processes.
        quarantine: where skipped samples are listed; counted only when None.
        context: how workers start: "fork", "spawn", "forkserver" or None for the default.
        pairs: a training sample is a record with its chosen answer and with its rejected one.

    Raises:
        RecipeError: when the micro-batches of a step cannot be shared out among the ranks, or
            ``weights`` names an unknown source.
        DataError: when one sample alone is over a budget.
    """

    def __init__(
        self,
        corpus: Corpus,
        held_out: Corpus,
        encoder: Encoder,
        *,
        seed: int,
        weights: Mapping[str, float] | None = None,
        rank: int = 0,
        world: int = 1,
        quarantine: Path | None = None,
        context: str | None = None,
        pairs: bool = False,
    ) -> None:
        self.corpus, self.held_out_corpus, self.encoder = corpus, held_out, encoder
        self.pairs = pairs
        self.spec: DataSpec = encoder.spec
        self.seed, self.rank, self.world, self.context = seed, rank, world, context
        if self.spec.batch.per_step % world:
            raise RecipeError(
                f"data.batch.per_step is {self.spec.batch.per_step}, which {world} processes "
                "cannot share evenly; make it a multiple of their number"
            )
        self.weights = self._weights(weights)
        self.quarantine = Quarantine(quarantine)
        for part in (corpus, held_out):
            sizes = join_sizes([source.sizes for source in part.sources])
            check_budgets(sizes, self.spec.batch, part.where)
            if rank == 0:
                for skipped in part.skipped:
                    self.quarantine.add(skipped)
        self._state = LoaderState(epoch=0, batch=0, step=0)
        self._given: list[list[int]] = []
        self._plans: dict[int, list[list[int]]] = {}

    @classmethod
    def open(
        cls,
        processor: TriptychProcessor,
        spec: DataSpec,
        *,
        seed: int,
        weights: Mapping[str, float] | None = None,
        rank: int = 0,
        world: int = 1,
        quarantine: Path | None = None,
        progress: Progress | None = None,
        context: str | None = None,
        pairs: bool = False,
        names: Collection[str] | None = None,
    ) -> "Loader":
        """Measure the sources of ``spec`` (the size pass) and make their loader.

        Args:
            processor: the model's processor.
            spec: the data of the run.
            progress: called during the size pass with the records done and their number.
            seed: of the shuffles.
            weights: as of the loader, like all that follow but the last.
            rank: this process.
            world: number of processes.
            quarantine: where skipped samples are listed.
            context: how workers start.
            pairs: training samples are pairs.
            names: only these training sources; all when None.
        """
        encoder = Encoder(processor, spec)
        return cls(
            measure(spec.sources, encoder, progress, pairs=pairs, names=names),
            measure(spec.held_out, encoder, progress),
            encoder,
            seed=seed,
            weights=weights,
            rank=rank,
            world=world,
            quarantine=quarantine,
            context=context,
            pairs=pairs,
        )

    def derive(
        self,
        *,
        seed: int | None = None,
        weights: Mapping[str, float] | None = None,
        features: FeatureCache | None = None,
    ) -> "Loader":
        """A loader at its beginning over the same samples, without another size pass.

        Args:
            seed: of the shuffles; as before when None.
            weights: passes per epoch by source name, as for a training stage; as in the recipe
                when None.
            features: cached features to deliver in place of pixels; as before when None.
        """
        features = self.encoder.features if features is None else features
        return Loader(
            self.corpus,
            self.held_out_corpus,
            Encoder(self.encoder.processor, self.spec, features),
            seed=self.seed if seed is None else seed,
            weights=weights,
            rank=self.rank,
            world=self.world,
            quarantine=self.quarantine.path,
            context=self.context,
            pairs=self.pairs,
        )

    def steps(self) -> Iterator[list[Batch]]:
        """Yield this rank's micro-batches of each step, without end, from the current state on.

        While a step is being handled, ``state_dict`` already names the step after it.

        Raises:
            DataError: for a bad sample when ``on_error`` is raise.
        """
        share = self.spec.batch.per_step // self.world
        own = self._own_batches(self._walk(self._state))
        loaded = self._load(own, self.corpus, packed=self.spec.batch.packed, pairs=self.pairs)
        for planned, state in self._walk(self._state):
            batches = [self._admit(item) for item in islice(loaded, share)]
            self._given, self._state = planned[self.rank :: self.world], state
            yield batches

    def amounts(self) -> list[str]:
        """A table of what one epoch takes of each source; see ``mixture.describe``."""
        names = [source.name for source in self.corpus.sources]
        return describe(dict(zip(names, self.weights, strict=True)), self.corpus.amounts())

    def names(self) -> list[str]:
        """This rank's records of the step given last, as "file:line"."""
        return [self.corpus.where(sample) for batch in self._given for sample in batch]

    def state_dict(self) -> dict[str, int]:
        """The place of the step after the one given last."""
        return self._state._asdict()

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continue from a saved place; takes effect at the next call of ``steps``.

        Raises:
            CheckpointError: when ``state`` is not a state of this class.
        """
        if set(state) != set(LoaderState._fields) or min(state.values()) < 0:
            raise CheckpointError(
                f"the loader state is {dict(state)}; counts of epoch, batch and step are expected"
            )
        self._state = LoaderState(state["epoch"], state["batch"], state["step"])

    def total_steps(self, epochs: float) -> int:
        """Steps that ``epochs`` passes take; the last one is filled up from the next epoch."""
        whole = floor(epochs)
        batches: float = sum(len(self._plan(epoch)) for epoch in range(whole))
        if epochs > whole:
            batches += (epochs - whole) * len(self._plan(whole))
        return ceil(batches / self.spec.batch.per_step)

    def held_out(self, source: str | None = None, limit: int | None = None) -> Iterator[Batch]:
        """Yield this rank's share of the held-out micro-batches, each sample once, in fixed order.

        Every rank gets the same number of batches: the last ones may be empty batches of one
        unsupervised token.

        Args:
            source: only this held-out source.
            limit: at most so many samples, spread evenly over all.
        """
        chosen, sizes = self._held_out_samples(source, limit)
        plan = [[chosen[index] for index in batch] for batch in plan_once(sizes, self.spec.batch)]
        yield from self._share(plan, self.held_out_corpus)

    def once(self) -> Iterator[Batch]:
        """Yield this rank's share of the training samples that have a weight; as ``held_out``."""
        sizes = join_sizes([source.sizes for source in self.corpus.sources])
        counts = [len(source.kept) for source in self.corpus.sources]
        chosen = np.flatnonzero(np.repeat(np.array(self.weights) > 0, counts))
        packed = self.spec.batch.packed
        parts = plan_once(sizes[chosen], self.spec.batch, packed=packed)
        plan = [chosen[part].tolist() for part in parts]
        yield from self._share(plan, self.corpus, packed=packed, pairs=self.pairs)

    def held_out_records(self, count: int, source: str | None = None) -> list[Record]:
        """Up to ``count`` held-out records, spread evenly over all, always the same."""
        chosen, _ = self._held_out_samples(source, count)
        return [self.held_out_corpus.record(index) for index in chosen]

    def images(self) -> Iterator[ImagePart]:
        """Every image of the usable samples, training first, repeats included."""
        for corpus in (self.corpus, self.held_out_corpus):
            for sample in range(len(corpus)):
                yield from corpus.record(sample).images

    def _weights(self, weights: Mapping[str, float] | None) -> list[float]:
        known = [source.name for source in self.corpus.sources]
        for name in weights or {}:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"
                raise RecipeError(f"data: unknown source '{name}' in the weights ({hint})")
        if weights is None and self.spec.mixture is not None and known:
            weights = resolve(self.spec.mixture, self.corpus.amounts())
        if weights is None:
            return [self.spec.sources[name].weight for name in known]
        return [weights.get(name, 0.0) for name in known]

    def _plan(self, epoch: int) -> list[list[int]]:
        if epoch not in self._plans:
            sizes = [source.sizes for source in self.corpus.sources]
            plan = plan_epoch(
                sizes, self.weights, seed=self.seed, epoch=epoch, batch=self.spec.batch
            )
            while len(self._plans) >= 3:
                del self._plans[min(self._plans)]
            self._plans[epoch] = plan
        return self._plans[epoch]

    def _walk(self, start: LoaderState) -> Iterator[tuple[list[list[int]], LoaderState]]:
        """Micro-batches of each step over all ranks, and the state after it."""
        epoch, place, step = start
        batches: list[list[int]] = []
        while True:
            plan = self._plan(epoch)
            while place < len(plan):
                batches.append(plan[place])
                place += 1
                if len(batches) == self.spec.batch.per_step:
                    step += 1
                    yield batches, LoaderState(epoch=epoch, batch=place, step=step)
                    batches = []
            epoch, place = epoch + 1, 0

    def _own_batches(
        self, steps: Iterator[tuple[list[list[int]], LoaderState]]
    ) -> Iterator[list[int]]:
        for batches, _ in steps:
            yield from batches[self.rank :: self.world]

    def _load(
        self, batches: Iterator[list[int]], corpus: Corpus, *, packed: bool, pairs: bool
    ) -> Iterator[Loaded]:
        preparer = Preparer(corpus, self.encoder, packed=packed, pairs=pairs)
        return read_ahead(preparer, _Once(batches), self.spec.workers, self.context)

    def _share(
        self, plan: list[list[int]], corpus: Corpus, *, packed: bool = False, pairs: bool = False
    ) -> Iterator[Batch]:
        """This rank's batches of ``plan``, filled up to the number of the other ranks'."""
        own = iter(plan[self.rank :: self.world])
        for item in self._load(own, corpus, packed=packed, pairs=pairs):
            yield self._admit(item)
        if self.rank >= len(plan) % self.world > 0:
            yield empty_batch(self.encoder.processor, pairs=pairs)

    def _admit(self, item: Loaded) -> Batch:
        """Raise for what was left out, or list it."""
        for skipped in item.skipped:
            if self.spec.on_error == "raise":
                raise DataError(skipped.reason)
            self.quarantine.add(skipped)
        return item.batch

    def _held_out_samples(
        self, source: str | None, limit: int | None
    ) -> tuple[list[int], IntArray]:
        sources = self.held_out_corpus.sources
        if source is not None and source not in [part.name for part in sources]:
            known = ", ".join(part.name for part in sources) or "none"
            raise DataError(f"unknown held-out source '{source}'; known: {known}")
        sizes = join_sizes([part.sizes for part in sources])
        chosen: list[int] = []
        start = 0
        for part in sources:
            stop = start + len(part.kept)
            if source in (None, part.name):
                chosen.extend(range(start, stop))
            start = stop
        if limit is not None and limit < len(chosen):
            chosen = [chosen[index * len(chosen) // limit] for index in range(limit)]
        return chosen, sizes[chosen]


class _Once:
    """A sampler over one iterator."""

    def __init__(self, batches: Iterator[list[int]]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[list[int]]:
        return self.batches
