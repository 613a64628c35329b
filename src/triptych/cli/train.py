"""`triptych train`: train a model from a recipe, or go on with a run."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from transformers.utils.logging import disable_progress_bar

from triptych.errors import CheckpointError, RecipeError
from triptych.recipe import Recipe, load_recipe, save_recipe
from triptych.training.launch import launch
from triptych.training.run import check_new
from triptych.training.run import train as train_model


def train(
    recipe: Annotated[
        Path | None, typer.Argument(metavar="RECIPE", help="The YAML file of the run.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Overrides, such as stages.0.steps=10."),
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Go on with the run in this folder.")
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(metavar="N", help="Train in N processes of this machine, by torchrun."),
    ] = None,
) -> None:
    """Train a model from a recipe, or resume a run exactly where its last checkpoint stands.

    With --resume, overrides of parallel are allowed: another engine, another number of processes.
    Several machines: torchrun ... -m triptych train RECIPE parallel.engine=fsdp2
    """
    disable_progress_bar()  # saving a model would write its own bars over ours
    if resume is not None:
        given = [*([] if recipe is None else [str(recipe)]), *(overrides or ())]
        _check_overrides(given)
        loaded = _recipe_of(resume, given)
        if processes is not None:
            arguments = ["train", "--resume", str(resume), *given, *_spread(loaded)]
            raise typer.Exit(launch(arguments, processes))
    elif recipe is None:
        raise RecipeError("give a recipe to train from, or --resume RUN to go on with a run")
    else:
        loaded = load_recipe(recipe, overrides or ())
        if processes is not None:
            check_new(loaded.run.folder)
            arguments = ["train", str(recipe), *(overrides or ()), *_spread(loaded)]
            raise typer.Exit(launch(arguments, processes))
        if int(os.environ.get("RANK", "0")) == 0:
            check_new(loaded.run.folder)
            save_recipe(loaded, loaded.run.folder / "recipe.yaml")
    train_model(
        loaded.model, loaded.data, loaded.stages, loaded.parallel, loaded.run, resume=resume
    )


def _check_overrides(overrides: Sequence[str]) -> None:
    """A resumed run may be spread otherwise over processes; nothing else may change."""
    for override in overrides:
        if not override.startswith("parallel."):
            raise RecipeError(
                f"--resume goes on with the recipe of the run itself, found '{override}'; give no "
                "recipe, and no overrides but those of parallel, such as parallel.engine=fsdp2"
            )


def _spread(recipe: Recipe) -> list[str]:
    """The override that several processes need where the recipe is for one."""
    return ["parallel.engine=ddp"] if recipe.parallel.engine == "single" else []


def _recipe_of(run: Path, overrides: Sequence[str]) -> Recipe:
    path = run / "recipe.yaml"
    if not path.is_file():
        raise CheckpointError(f"{run}: not a run folder (it has no recipe.yaml)")
    return load_recipe(path, overrides)
