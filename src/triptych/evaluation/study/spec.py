"""StudySpec: what a study compares; and the recipes of its runs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat

from triptych.data.spec import SourceSpec
from triptych.errors import RecipeError
from triptych.recipe import Recipe, load_recipe, load_spec
from triptych.spec import Spec
from triptych.training.stages import StageSpec

Metric = Literal["accuracy", "anls"]
METRICS: dict[Metric, str] = {"accuracy": "Exact match", "anls": "ANLS"}
"""Scores and their titles; the blind one has "blind_" before its name."""
Name = Annotated[str, Field(pattern=r"^[\w.+-]+$")]


class ArmSpec(Spec):
    """One of the things that are compared."""

    base: Path | None = None
    """A recipe of its own; the study's when not given."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Values by their dotted path in the recipe, such as 'model.attention: mmca'."""


class StudySpec(Spec):
    """A comparison: arms, seeds, and the held-out data that all are judged on."""

    title: str
    """Heading of the table and the picture."""
    base: Path
    """The recipe that the arms change."""
    folder: Path
    """Folder of the study; each run has a folder of its own in it."""
    arms: Annotated[dict[Name, ArmSpec], Field(min_length=1)]
    """What is compared, by name."""
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (0, 1, 2)
    """Seeds of weights and data order; every arm is trained with each."""
    judge: Annotated[dict[Name, SourceSpec], Field(min_length=1)]
    """Held-out records with reference answers, by name; only file, format and limit count."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Values by their dotted path for all arms; an arm's own come after them."""
    stages: tuple[str, ...] | None = None
    """Names of the stages that are kept, with the sources that they use; all when not given."""
    steps: PositiveFloat = 1.0
    """Factor on the length of every stage."""
    metrics: Annotated[tuple[Metric, ...], Field(min_length=1)] = ("accuracy",)
    """Scores in the tables; the picture shows the first. study.json has them all."""
    blind: bool = True
    """Judge also with the images swapped among records."""
    max_new_tokens: int = Field(default=32, ge=1)
    """Most tokens of an answer."""


@dataclass(frozen=True)
class Run:
    """One arm with one seed."""

    arm: str
    seed: int
    recipe: Recipe

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.arm}, seed {self.seed}"

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.recipe.run.folder


def load_study(path: Path, overrides: Sequence[str] = ()) -> StudySpec:
    """Read a study.

    Args:
        path: a YAML file, or a folder with a ``study.yaml``.
        overrides: ``a.b=value`` each, as for recipes.

    Raises:
        RecipeError: there is no such file, or it is not valid.
    """
    return load_spec(StudySpec, path / "study.yaml" if path.is_dir() else path, overrides)


def plan_runs(study: StudySpec) -> list[Run]:
    """All runs, one seed of every arm after the other, so that half a study compares already.

    Raises:
        RecipeError: the recipe of an arm is not valid, or has no stage of a name that is kept.
    """
    return [
        Run(name, seed, _recipe(study, name, arm, seed))
        for seed in study.seeds
        for name, arm in study.arms.items()
    ]


def _recipe(study: StudySpec, name: str, arm: ArmSpec, seed: int) -> Recipe:
    folder = study.folder / name / f"seed-{seed}"
    own = {"run.seed": seed, "run.folder": str(folder)}
    try:
        recipe = load_recipe(arm.base or study.base, _overrides({**study.set, **arm.set, **own}))
        return _kept(recipe, _stages(study, recipe))
    except RecipeError as error:
        raise RecipeError(f"arm '{name}': {error}") from None


def _kept(recipe: Recipe, stages: tuple[StageSpec, ...]) -> Recipe:
    """The recipe with these stages alone, without the sources that none of them uses."""
    sources = recipe.data.sources
    if all(stage.data is not None for stage in stages):
        used = {name for stage in stages for name in stage.data or ()}
        blended = any(source.blend is not None for source in sources.values())
        sources = sources if blended else {n: s for n, s in sources.items() if n in used}
    data = recipe.data.model_copy(update={"sources": sources})
    return recipe.model_copy(update={"stages": stages, "data": data})


def _overrides(values: Mapping[str, Any]) -> list[str]:
    """JSON is YAML, so any value can be written as an override."""
    return [f"{path}={json.dumps(value)}" for path, value in values.items()]


def _stages(study: StudySpec, recipe: Recipe) -> tuple[StageSpec, ...]:
    names = [stage.name for stage in recipe.stages]
    unknown = [name for name in study.stages or () if name not in names]
    if unknown:
        raise RecipeError(f"stages: no stage '{unknown[0]}', the recipe has {', '.join(names)}")
    kept = names if study.stages is None else study.stages
    return tuple(_scaled(stage, study.steps) for stage in recipe.stages if stage.name in kept)


def _scaled(stage: StageSpec, factor: float) -> StageSpec:
    """A stage ``factor`` times as long, one step at least."""
    if stage.steps is not None:
        return stage.model_copy(update={"steps": max(1, round(stage.steps * factor))})
    return stage.model_copy(update={"epochs": (stage.epochs or 1) * factor})
