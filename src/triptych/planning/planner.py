"""Plans the stages of a recipe one after the other, as a run would go through them."""

from dataclasses import replace
from pathlib import Path

from triptych.data.corpus import open_sources
from triptych.data.spec import DataSpec
from triptych.model.modeling import TriptychForConditionalGeneration
from triptych.planning.blueprint import Blueprint
from triptych.planning.cost import StepCost
from triptych.planning.stage import Hardware, StagePlan
from triptych.planning.states import ENGINES, EngineName, Spread, engine_name, spread_of, take_stock
from triptych.planning.step import Setting, encoding_cost, step_costs
from triptych.planning.workload import Sample, Workload, measure
from triptych.recipe import Recipe
from triptych.training.parts import end_stage, stage_parts
from triptych.training.stages import StageSpec, tilings_of


class Planner:
    """Holds the model of a recipe on the meta device; its stages are begun and ended in it.

    Args:
        blueprint: the model.
        recipe: the recipe.
        hardware: what it would run on.
        sample: the kind of sample.
        samples: of one epoch; counted in the data when not given, where these are there.
    """

    def __init__(
        self,
        blueprint: Blueprint,
        recipe: Recipe,
        hardware: Hardware,
        sample: Sample,
        samples: int | None,
    ) -> None:
        others = tuple(dict.fromkeys(tilings_of(recipe.stages)))
        panels = blueprint.panels.model_copy(update={"other_tilings": others})
        blueprint = replace(blueprint, panels=panels)
        self._setting = Setting(blueprint, recipe.stages, recipe.run, hardware.is_gpu)
        self._recipe, self._gpus = recipe, hardware.gpus
        self._sample, self._samples = sample, samples
        self._model = self._setting.load()
        self._tile: StepCost | None = None
        self._costs: dict[str, tuple[StepCost, StepCost]] = {}

    def count_parts(self) -> dict[str, int]:
        """Parameters of each part; learnable tokens of the tiling apart from the connector."""
        return count_parts(self._model, self._recipe.stages[0])

    def plan(self, stage: StageSpec) -> StagePlan:
        """Plan the next stage.

        Raises:
            ContextError: the sample is longer than the recipe allows.
        """
        data, setting = self._recipe.data, self._setting.with_tiling(stage.tiling)
        batch = stage.batch or data.batch
        limit = stage.max_tokens or data.max_tokens
        workload = measure(setting.blueprint, self._sample, limit)
        rows = workload.rows(batch)
        batches = max(self._gpus, batch.per_step)
        answers = 2 if stage.learns_pairs else 1
        costs = self._cost(setting, stage, workload, answers * rows)
        parts = self._setting.begin(self._model, stage)
        trains = {part.name: part.training for part in parts if part.training}
        stock = take_stock(self._model, self._recipe.model.language.quantize)
        end_stage(self._model)
        return StagePlan(
            spec=stage,
            trains=trains,
            workload=workload,
            rows=rows,
            per_step=rows * batches,
            steps=stage.steps or self._steps(stage, rows * batches),
            stock=stock,
            costs=costs,
            engine=engine_name(self._recipe.parallel, self._gpus),
            engines=self._engines(),
            half=self._recipe.run.precision == "bf16",
            accumulates=batches > self._gpus,
        )

    def _cost(
        self, setting: Setting, stage: StageSpec, workload: Workload, rows: int
    ) -> tuple[StepCost, StepCost]:
        """Costs of ``rows`` samples and of twice as many; stages that train the same share them."""
        key = f"{stage.train.model_dump_json()} {workload.tokens} {workload.tiles} {rows}"
        if key not in self._costs:
            apart = bool(workload.plans) and not stage.train.trains_towers
            if apart and self._tile is None:
                self._tile = encoding_cost(self._setting, self._model)
            tile = self._tile if apart else None
            one, two = step_costs(setting, stage, workload, (rows, 2 * rows), tile)
            self._costs[key] = (one, two)
        return self._costs[key]

    def _engines(self) -> tuple[EngineName, ...]:
        """The engines that the model can run with; none spreads quantised weights."""
        whole = self._recipe.model.language.quantize is not None
        found = [name for name in ENGINES if not whole or spread_of(name) == Spread()]
        return tuple(name for name in found if name != "single" or self._gpus == 1)

    def _steps(self, stage: StageSpec, per_step: int) -> int | None:
        count = self._samples
        if count is None:
            count = count_samples(self._recipe.data, stage)
        if count is None:
            return None
        return max(1, -(-round((stage.epochs or 1) * count) // per_step))


def count_parts(model: TriptychForConditionalGeneration, stage: StageSpec) -> dict[str, int]:
    """Parameters of each part; learnable tokens of the tiling apart from the connector."""
    counts = {part.name: part.parameters for part in stage_parts(model, stage)}
    learned = sum(parameter.numel() for parameter in model.tile_tokens.parameters())
    if learned:
        counts["connector"] -= learned
        counts["tile_tokens"] = learned
    return {name: count for name, count in counts.items() if count}


def count_samples(data: DataSpec, stage: StageSpec) -> int | None:
    """Records of an epoch of a stage; None where some file is not there or a mixture decides."""
    if data.mixture is not None:
        return None
    weights = {
        name: source.weight if stage.data is None else stage.data.get(name, 0)
        for name, source in data.sources.items()
    }
    used = {name: source for name, source in data.sources.items() if weights[name]}
    paths = [path for one in used.values() for path in (one.path, one.answers) if path is not None]
    if not all(isinstance(path, Path) and path.exists() for path in paths):
        return None
    lengths = {name: len(reader) for name, reader in open_sources(used).items()}
    counts = {name: min(lengths[name], one.limit or lengths[name]) for name, one in used.items()}
    return round(sum(weights[name] * counts[name] for name in used))
