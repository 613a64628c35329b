"""A plan as tables and sentences."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from triptych.planning.plan import Plan
from triptych.planning.stage import GB, StagePlan


def show(plan: Plan) -> RenderableType:
    """The whole plan for a terminal."""
    return Group(_parameters(plan), *(_stage(plan, stage) for stage in plan.stages), _verdict(plan))


def _parameters(plan: Plan) -> Table:
    table = Table(title="parameters", title_justify="left")
    table.add_column("part")
    table.add_column("parameters", justify="right")
    for stage in plan.stages:
        table.add_column(f"trains in '{stage.spec.name}'", justify="right")
    for name in {**plan.parts, **{n: 0 for stage in plan.stages for n in stage.trains}}:
        trained = [f"{stage.trains.get(name, 0):,}" for stage in plan.stages]
        table.add_row(name, f"{plan.parts.get(name, 0):,}", *trained)
    totals = [f"{sum(stage.trains.values()):,}" for stage in plan.stages]
    table.add_row("all", f"{sum(plan.parts.values()):,}", *totals, style="bold")
    return table


def _stage(plan: Plan, stage: StagePlan) -> RenderableType:
    hardware = plan.hardware
    table = Table(title=f"\nstage '{stage.spec.name}'", title_justify="left")
    table.add_column("GB per GPU")
    names = ("weights", "gradients", "optimizer", "activations", "logits", "buffers", "total")
    for name in names:
        table.add_column(name, justify="right")
    table.add_column("fits", justify="right")
    table.add_column("fewest GPUs", justify="right")
    for engine in stage.engines:
        held = stage.memory(engine, hardware.gpus)
        sizes = [f"{size / GB:.2f}" for size in (*vars(held).values(), held.total)]
        fewest = stage.fewest_gpus(engine, hardware.memory)
        table.add_row(
            engine,
            *sizes,
            "yes" if held.total <= hardware.memory else "no",
            "-" if fewest is None else str(fewest),
            style="bold" if engine == stage.engine else "",
        )
    return Group(table, Text("\n".join(_sentences(plan, stage))))


def _sentences(plan: Plan, stage: StagePlan) -> Iterator[str]:
    hardware, work = plan.hardware, stage.workload
    sizes = [f"{width}x{height}" for width, height in work.sample.sizes]
    for size, tokens, tiles in zip(sizes, work.visual, work.plans, strict=True):
        yield f"an image of {size}: {tokens} visual tokens from {tiles.tiles} tile(s)"
    yield (
        f"a sample of {len(sizes)} image(s) and {work.sample.text} tokens of text: {work.tokens} "
        f"tokens, {stage.flops_per_sample / 1e12:.3g} TFLOP"
    )
    largest = stage.largest_batch(stage.engine, hardware.gpus, hardware.memory)
    yield (
        f"micro-batch: {stage.rows} samples ({stage.rows * work.tokens} tokens); the largest that "
        f"fits: {largest} samples ({largest * work.tokens} tokens)"
    )
    hours = stage.hours(hardware)
    if hours is None:
        yield "steps and time: not known, as the data are not there; give --samples"
        return
    yield (
        f"{stage.steps:,} steps of {stage.per_step} samples: {hours:.3g} hours on {hardware.gpus} "
        f"x {hardware.flops / 1e12:g} TFLOP/s at {100 * hardware.utilisation:g} % of them"
    )


def _verdict(plan: Plan) -> Text:
    held, limit = plan.memory.total / GB, plan.hardware.memory / GB
    where = f"{held:.2f} of {limit:g} GB per GPU in stage '{plan.largest.spec.name}'"
    if plan.fits:
        return Text(f"\nfits: {where}", style="bold")
    return Text(f"\ndoes not fit: {where}\n{plan.advice}", style="bold")
