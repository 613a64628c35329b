"""`triptych recipe`: check a recipe, print it whole, and print the schema of all recipes."""

import json
from pathlib import Path
from typing import Annotated

import typer

from triptych.recipe import Recipe, load_recipe, recipe_schema, recipe_yaml

app = typer.Typer(no_args_is_help=True)

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="The YAML file.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Overrides, such as stages.0.steps=10."),
]


@app.command()
def show(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Print the recipe with every default filled in and the overrides applied."""
    typer.echo(recipe_yaml(load_recipe(recipe, overrides or ())), nl=False)


@app.command()
def check(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Check that the recipe is valid, and say which of its data files are not there yet."""
    loaded = load_recipe(recipe, overrides or ())
    typer.echo(f"{recipe}: valid ({_summary(loaded)})")
    for table, sources in (("sources", loaded.data.sources), ("held_out", loaded.data.held_out)):
        for name, source in sources.items():
            path = source.path
            single = isinstance(path, Path) and not {"*", "{"} & set(str(path))
            if single and not Path(path).exists():
                typer.echo(f"note: data.{table}.{name} is not there yet: {source.path}")


@app.command()
def schema(
    out: Annotated[Path | None, typer.Option(help="Write it here instead of printing it.")] = None,
) -> None:
    """Print the JSON schema of recipes, for the completion and checks of an editor."""
    text = json.dumps(recipe_schema(), indent=2) + "\n"
    if out is None:
        typer.echo(text, nl=False)
    else:
        out.write_text(text, encoding="utf-8")


def _summary(recipe: Recipe) -> str:
    towers = " + ".join(tower.kind for tower in recipe.model.towers)
    stages = ", ".join(stage.name for stage in recipe.stages)
    return (
        f"towers: {towers}; connector: {recipe.model.connector.kind}; "
        f"language: {recipe.model.language.kind}; stages: {stages}"
    )
