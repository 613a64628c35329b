"""The plan of a recipe: what it has, what it needs, whether that fits, and what to change first."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from triptych.planning.blueprint import Blueprint, draw
from triptych.planning.planner import Planner
from triptych.planning.stage import GB, Hardware, StagePlan
from triptych.planning.states import EngineName, Memory
from triptych.planning.workload import Sample
from triptych.recipe import Recipe

Change = Callable[[Recipe], Recipe]


@dataclass(frozen=True)
class Plan:
    """The plan of a recipe.

    Attributes:
        parts: parameters of each part of the model.
        stages: plans of all stages in order.
        hardware: what was planned for.
        advice: what to change first, where it does not fit.
    """

    parts: Mapping[str, int]
    stages: tuple[StagePlan, ...]
    hardware: Hardware
    advice: str | None = None

    @property
    def largest(self) -> StagePlan:
        """The stage that needs the most memory."""
        return max(self.stages, key=lambda stage: self.memory_of(stage).total)

    def memory_of(self, stage: StagePlan) -> Memory:
        """Memory of a stage with the engine of the recipe."""
        return stage.memory(stage.engine, self.hardware.gpus)

    @property
    def memory(self) -> Memory:
        """Memory of one process in the stage that needs the most."""
        return self.memory_of(self.largest)

    @property
    def fits(self) -> bool:
        """Whether every stage fits."""
        return self.memory.total <= self.hardware.memory

    def as_json(self) -> dict[str, Any]:
        """The plan as plain data; sizes in GB (1e9 bytes)."""
        held = self.memory
        sizes = {
            "weights": held.weights,
            "gradients": held.gradients,
            "optimizer": held.optimizer,
            "activations": held.activations + held.logits + held.buffers,
            "total": held.total,
        }
        return {
            "parameters": {
                "total": sum(self.parts.values()),
                "trainable": max(sum(stage.trains.values()) for stage in self.stages),
                "parts": dict(self.parts),
            },
            "stages": [stage.as_json(self.hardware) for stage in self.stages],
            "memory_per_gpu": {name: size / GB for name, size in sizes.items()},
            "fits": self.fits,
            "advice": self.advice,
        }


def plan(
    recipe: Recipe,
    hardware: Hardware,
    sample: Sample | None = None,
    samples: int | None = None,
) -> Plan:
    """Plan a recipe, without weights, data or a hub.

    Args:
        recipe: the recipe.
        hardware: what it would run on.
        sample: the kind of sample to plan for.
        samples: of one epoch, where the data are not there to be counted.

    Raises:
        RecipeError: the model cannot be made, or a stage trains nothing.
        ContextError: the sample is longer than the recipe allows.
    """
    blueprint = draw(recipe.model)
    kind = sample or Sample()
    made = _plan(recipe, blueprint, hardware, kind, samples)
    if made.fits:
        return made

    def again(changed: Recipe) -> Plan:
        return _plan(changed, blueprint, hardware, kind, samples)

    return replace(made, advice=_advise(recipe, made, again))


def _plan(
    recipe: Recipe, blueprint: Blueprint, hardware: Hardware, sample: Sample, samples: int | None
) -> Plan:
    planner = Planner(blueprint, recipe, hardware, sample, samples)
    counts = planner.count_parts()
    return Plan(counts, tuple(planner.plan(stage) for stage in recipe.stages), hardware)


def _advise(recipe: Recipe, made: Plan, again: Callable[[Recipe], Plan]) -> str:
    """The first change that makes it fit; or all of them that are needed, the first one first."""
    limit, gpus = made.hardware.memory, made.hardware.gpus
    needed = f"{made.memory.total / GB:.1f} GB of {limit / GB:g}"
    stage = made.largest
    tried: list[str] = []
    changed = recipe
    for text, change in _changes(recipe, made):
        alone = again(change(recipe))
        if alone.fits:
            return f"stage '{stage.spec.name}' needs {needed}: set {text}"
        tried.append(text)
        changed = change(changed)
        together = alone if len(tried) == 1 else again(changed)
        if together.fits:
            return f"stage '{stage.spec.name}' needs {needed}: set {tried[0]}, and also " + (
                ", ".join(tried[1:])
            )
    last = again(changed) if tried else made
    sharded: EngineName = "fsdp2+offload" if "offload" in last.largest.engine else "fsdp2"
    can = sharded in last.largest.engines
    more = last.largest.fewest_gpus(sharded, limit) if can else None
    if more is not None and more > gpus:
        also = f", with {', '.join(tried)}" if tried else ""
        return (
            f"stage '{stage.spec.name}' needs {needed}: take {more} GPUs of {limit / GB:g} GB and "
            f"parallel.engine=fsdp2{also}"
        )
    return (
        f"stage '{stage.spec.name}' needs {needed}, and no number of GPUs is enough: a GPU with "
        f"more memory is needed ({last.memory.total / GB:.1f} GB with {', '.join(tried) or 'all'}),"
        " a smaller model, or train.language=lora in place of full"
    )


def _changes(recipe: Recipe, made: Plan) -> Iterator[tuple[str, Change]]:
    """Changes that save memory, those first that change the training least."""
    stage, run, gpus = made.largest, recipe.run, made.hardware.gpus
    shards = gpus > 1 and "fsdp2" in stage.engines
    if shards and stage.engine in ("single", "ddp"):
        yield "parallel.engine=fsdp2", lambda r: _with_parallel(r, engine="fsdp2")
    if not run.gradient_checkpointing:
        name = "run.gradient_checkpointing=true"
        yield name, lambda r: _with_run(r, gradient_checkpointing=True)
    if run.precision == "fp32":
        yield "run.precision=bf16", lambda r: _with_run(r, precision="bf16")
    if stage.rows > 1:
        tokens, per_step = stage.workload.tokens, recipe.data.batch.per_step * stage.rows
        name = f"data.batch.tokens={tokens} data.batch.per_step={per_step}"
        yield name, lambda r: _with_batch(r, tokens=tokens, per_step=per_step)
    if run.tower_tiles is None and stage.workload.tiles > 1:
        yield "run.tower_tiles=1", lambda r: _with_run(r, tower_tiles=1)
    if shards and not stage.engine.endswith("offload"):
        name = "parallel.engine=fsdp2 parallel.offload=cpu"
        yield name, lambda r: _with_parallel(r, engine="fsdp2", offload="cpu")


def _with_batch(recipe: Recipe, **values: object) -> Recipe:
    batch = recipe.data.batch.model_copy(update=values)
    data = recipe.data.model_copy(update={"batch": batch})
    return recipe.model_copy(update={"data": data})


def _with_parallel(recipe: Recipe, **values: object) -> Recipe:
    parallel = recipe.parallel.model_copy(update=values)
    return recipe.model_copy(update={"parallel": parallel})


def _with_run(recipe: Recipe, **values: object) -> Recipe:
    return recipe.model_copy(update={"run": recipe.run.model_copy(update=values)})
