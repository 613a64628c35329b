"""`triptych plan`: what a recipe needs, before anything is allocated or downloaded."""

import json
import re
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from triptych.errors import RecipeError
from triptych.planning.plan import plan as make_plan
from triptych.planning.report import show
from triptych.planning.stage import GB, Hardware
from triptych.planning.workload import DEFAULT_SIZE, DEFAULT_TEXT, Sample, Size
from triptych.recipe import load_recipe

_SIZE = re.compile(r"([1-9]\d*)x([1-9]\d*)")


def plan(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="The YAML file of the run.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Overrides, such as run.precision=bf16."),
    ] = None,
    gpus: Annotated[int, typer.Option(min=1, help="GPUs, with a process each.")] = 1,
    gpu_memory: Annotated[float, typer.Option(min=0, help="Memory of one GPU in GB.")] = 80.0,
    images: Annotated[
        list[str] | None,
        typer.Option("--image", metavar="WxH", help="An image of a sample; repeat for several."),
    ] = None,
    no_images: Annotated[bool, typer.Option("--no-images", help="Plan for text alone.")] = False,
    text: Annotated[int, typer.Option(help="Tokens of text of a sample.")] = DEFAULT_TEXT,
    samples: Annotated[
        int | None, typer.Option(min=1, help="Samples of an epoch, if the data are not there.")
    ] = None,
    tflops: Annotated[float, typer.Option(min=0, help="Peak TFLOP/s of one GPU.")] = 312.0,
    mfu: Annotated[float, typer.Option(help="Share of the peak that a run uses.")] = 0.35,
    cpu: Annotated[bool, typer.Option("--cpu", help="Plan processes that run on a CPU.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Plan a recipe: parameters, memory for every engine and stage, tokens, FLOPs, steps, time.

    Nothing is allocated, downloaded or read but the recipe and the length of its data. Sizes are
    in GB of 1e9 bytes.
    """
    if not 0 < mfu <= 1:
        raise RecipeError(f"--mfu {mfu:g}: a share of the peak lies above 0 and is at most 1")
    if not tflops:
        raise RecipeError("--tflops 0: no run would ever end")
    sizes = [] if no_images else [_size(one) for one in images or ()] or [DEFAULT_SIZE]
    hardware = Hardware(gpus, int(gpu_memory * GB), tflops * 1e12, mfu, is_gpu=not cpu)
    made = make_plan(
        load_recipe(recipe, overrides or ()), hardware, Sample(tuple(sizes), text), samples
    )
    if as_json:
        typer.echo(json.dumps(made.as_json(), indent=1))
    else:
        Console(width=None).print(show(made))


def _size(given: str) -> Size:
    found = _SIZE.fullmatch(given)
    if found is None:
        raise RecipeError(f"--image {given}: write width and height as in 640x480")
    return int(found[1]), int(found[2])
