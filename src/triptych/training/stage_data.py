"""The data of a run's stages: one size pass for all stages that see them in the same form."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from triptych.data.feature_name import fingerprint_of
from triptych.data.features import FeatureCache
from triptych.data.loader import Loader
from triptych.data.spec import DataSpec
from triptych.model.tilings import with_tiling
from triptych.towers.base import Tower
from triptych.training.display import Display
from triptych.training.engines import Engine
from triptych.training.loop import StagePlan
from triptych.training.moving import autocast
from triptych.training.reporter import HeldOut, View
from triptych.training.samples import Question, questions_of
from triptych.training.stages import RunSpec, StageSpec

if TYPE_CHECKING:
    from triptych.model.modeling import TriptychForConditionalGeneration
    from triptych.model.processing import TriptychProcessor

SEED_STRIDE = 7919


@dataclass
class Form:
    """Data as some stages see them: tiles, context, budgets, answers or pairs.

    Attributes:
        names: the sources of these stages.
    """

    spec: DataSpec
    processor: "TriptychProcessor"
    pairs: bool
    names: set[str] = field(default_factory=set)

    @property
    def key(self) -> str:
        """Equal for equal forms, whatever their sources."""
        return f"{self.tiling} {self.spec.max_tokens} {self.spec.batch} {self.pairs}"

    @property
    def tiling(self) -> str:
        """The tiling as text."""
        return self.processor.settings.tiling.model_dump_json()


@dataclass(frozen=True)
class StageData:
    """Opens what the stages of a run learn from, on one rank.

    Attributes:
        spec: the data of the recipe, which a stage may see in a form of its own.
        folder: the run folder.
    """

    model: "TriptychForConditionalGeneration"
    processor: "TriptychProcessor"
    spec: DataSpec
    run: RunSpec
    folder: Path
    engine: Engine
    display: Display

    def open(self, stages: Sequence[StageSpec]) -> list[StagePlan]:
        """The plans of all stages, every source measured in each form it is seen in."""
        forms: dict[str, Form] = {}
        keys = []
        for stage in stages:
            form = self._form(stage)
            keys.append(form.key)
            known = forms.setdefault(keys[-1], form)
            used = self.spec.sources if stage.data is None else stage.data
            known.names |= {n for n in used if stage.data is None or stage.data[n] > 0}
        loaders = {key: self._open(form) for key, form in forms.items()}
        if self.spec.cache_features:
            for tiling in dict.fromkeys(form.tiling for form in forms.values()):
                same = [key for key, form in forms.items() if form.tiling == tiling]
                loaders |= self._with_features({key: loaders[key] for key in same}, forms[same[0]])
        return [
            self._plan(index, stage, loaders[key], forms[key])
            for index, (stage, key) in enumerate(zip(stages, keys, strict=True))
        ]

    def questions(self, plan: StagePlan) -> list[Question]:
        """The same number of questions from each held-out set, at most ``run.samples``."""
        loader, names = cast(Loader, plan.loader), self.spec.held_out
        questions: list[Question] = []
        for number, name in enumerate(names, start=1):
            wanted = number * self.run.samples // len(names) - len(questions)
            if wanted:
                questions += questions_of(name, loader.held_out_records(wanted, name))
        return questions

    def _form(self, stage: StageSpec) -> Form:
        spec = self.spec.model_copy(
            update={
                "max_tokens": stage.max_tokens or self.spec.max_tokens,
                "batch": stage.batch or self.spec.batch,
            }
        )
        processor = self.processor
        if stage.tiling is not None:
            processor = with_tiling(processor, stage.tiling)
        return Form(spec, processor, stage.learns_pairs)

    def _open(self, form: Form) -> Loader:
        engine = self.engine
        with self.display.phase("records measured") as progress:
            loader = Loader.open(
                form.processor,
                form.spec,
                seed=self.run.seed,
                rank=engine.rank,
                world=engine.world,
                quarantine=self.folder / "quarantine.jsonl",
                progress=progress,
                pairs=form.pairs,
                names=form.names,
            )
        for report in loader.corpus.reports + loader.held_out_corpus.reports:
            self.display.say(f"  {report}" + (" (pairs)" if form.pairs else ""))
        if self.spec.mixture is not None and form.names == set(self.spec.sources):
            self.display.say("an epoch of the mixture:")
            for line in loader.amounts():
                self.display.say(f"  {line}")
        return loader

    def _with_features(self, loaders: dict[str, Loader], form: Form) -> dict[str, Loader]:
        """The loaders, all of one tiling, reading tower features that are computed once."""
        processor = form.processor
        own = form.tiling == self.processor.settings.tiling.model_dump_json()
        digest = hashlib.sha256(form.tiling.encode()).hexdigest()[:8]
        folder = self.folder / ("features" if own else f"features-{digest}")
        fingerprint = fingerprint_of(
            cast(Iterable[Tower], self.model.towers),
            processor,
            self.model.tower_layout,
            self.model.tower_part,
        )
        if self.engine.is_main:
            self._cache_features(folder, fingerprint, processor, list(loaders.values()))
        self.engine.barrier()
        features = FeatureCache(folder, fingerprint)
        return {key: loader.derive(features=features) for key, loader in loaders.items()}

    def _cache_features(
        self,
        folder: Path,
        fingerprint: str,
        processor: "TriptychProcessor",
        loaders: Sequence[Loader],
    ) -> None:
        """Encode every image once; nothing is done where the cache is there already."""

        def encode(tiles: Tensor) -> Tensor:
            with autocast(self.engine.device, self.run.precision):
                return self.model.encode_tiles(tiles)

        self.model.eval()
        self.model.towers.to(self.engine.device)  # the rest may wait elsewhere for its stage
        with self.display.phase("images encoded") as progress, waiting_cores(self.engine):
            FeatureCache.build(
                folder,
                fingerprint,
                chain.from_iterable(loader.images() for loader in loaders),
                processor,
                encode,
                device=self.engine.device,
                workers=self.spec.workers,
                limits=self.spec.limits,
                on_error=self.spec.on_error,
                progress=progress,
            )
        self.model.towers.to(self.engine.home)

    def _plan(self, index: int, stage: StageSpec, loader: Loader, form: Form) -> StagePlan:
        weights = stage.data and {name: share for name, share in stage.data.items() if share > 0}
        own = loader.derive(seed=self.run.seed + SEED_STRIDE * index, weights=weights)
        steps = stage.steps or own.total_steps(stage.epochs or 1)
        limit = self.run.evaluate_samples
        held_out: dict[str, HeldOut] = {
            name: partial(loader.held_out, name, limit) for name in self.spec.held_out
        }
        return StagePlan(stage, own, steps, View(form.processor, held_out))


@contextmanager
def waiting_cores(engine: Engine) -> Iterator[None]:
    """Lend this process the threads of the ranks of this machine, which wait."""
    own = torch.get_num_threads()
    torch.set_num_threads(own * engine.neighbours)
    try:
        yield
    finally:
        torch.set_num_threads(own)
