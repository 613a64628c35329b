"""A recipe: one YAML file that describes a whole run.

The recipe composes the specs of the rooms and adds nothing of its own. Relative paths inside it
are relative to the current directory, wherever the file itself lies. ``${a.b}`` copies the value
at another dotted path of the same recipe.
"""

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import Field, model_validator

from triptych.data.spec import DataSpec
from triptych.errors import RecipeError
from triptych.model.spec import ModelSpec
from triptych.spec import Spec, validate
from triptych.training.checks import check_cache, check_parallel
from triptych.training.quantized import check_quantized
from triptych.training.stages import ParallelSpec, RunSpec, StageSpec

_REFERENCE = re.compile(r"(\\*)\$\{")
T = TypeVar("T", bound=Spec)
SCHEMA_DIALECT = "https://json-schema.org/draft/2020-12/schema"


class Recipe(Spec):
    """A run: the model, its data, the stages of training, and where the results go."""

    model: ModelSpec
    """The three panels of the model: towers, connector, language model."""

    data: DataSpec
    """Training sources, held-out sources and the budgets of a batch."""

    stages: Annotated[tuple[StageSpec, ...], Field(min_length=1)]
    """Stages of training in order: what trains, on which data, for how long."""

    parallel: ParallelSpec = ParallelSpec()
    """Over how many processes the run is spread."""

    run: RunSpec
    """The run folder, the seed, logging and checkpoints."""

    @model_validator(mode="after")
    def _names_agree(self) -> Self:
        for index, stage in enumerate(self.stages):
            for name in stage.data or ():
                _known(name, self.data.sources, f"stages.{index}.data", "data.sources")
        if self.run.best is not None:
            _known(self.run.best, self.data.held_out, "run.best", "data.held_out")
        return self

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        try:
            check_cache(self.data, self.stages)
            check_parallel(self.parallel, self.run)
            check_quantized(self.model, self.stages, self.parallel, self.run)
        except RecipeError as error:
            raise ValueError(str(error)) from None
        return self


def _known(name: str, table: Mapping[str, object], where: str, table_name: str) -> None:
    if name in table:
        return
    close = difflib.get_close_matches(name, list(table), n=1, cutoff=0.5)
    hint = f"did you mean '{close[0]}'?" if close else f"known names: {', '.join(table) or 'none'}"
    raise ValueError(f"{where} names '{name}', which is not in {table_name} ({hint})")


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        path: the YAML file.
        overrides: ``a.b.c=value`` each, applied in order. The value is read as YAML and replaces
            what stands at its path; a number in the path is an index into a list:
            ``stages.0.steps=10``, ``model.connector={kind: linear}``, ``run.wandb=true``.

    Raises:
        RecipeError: no such file, not YAML (with the line), an unknown key (with the nearest known
            one), or a value of the wrong kind.
    """
    return load_spec(Recipe, path, overrides)


def load_spec(kind: type[T], path: Path, overrides: Sequence[str] = ()) -> T:
    """Read a YAML file of any kind of Spec, as ``load_recipe`` reads a recipe."""
    tree = _read_yaml(path, kind)
    for override in overrides:
        _apply(tree, override)
    try:
        plain = OmegaConf.to_container(tree, resolve=True)
    except OmegaConfBaseException as error:
        raise RecipeError(f"{path}: {_first_line(error)}") from None
    return validate(kind, plain, str(path))


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Write every field of ``recipe`` as YAML; ``load_recipe`` gives back an equal recipe.

    The file appears whole or not at all: it is written under another name, then renamed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(recipe_yaml(recipe), encoding="utf-8")
    partial.replace(path)


def recipe_yaml(recipe: Recipe) -> str:
    """Every field of ``recipe``, defaults included, as YAML in the order of the specs."""
    plain = {key: _escape(part) for key, part in recipe.model_dump(mode="json").items()}
    return OmegaConf.to_yaml(OmegaConf.create(plain))


def recipe_schema() -> dict[str, Any]:
    """The JSON schema of a recipe, for editors and other tools."""
    return {"$schema": SCHEMA_DIALECT} | Recipe.model_json_schema()


def _read_yaml(path: Path, kind: type[Spec]) -> DictConfig:
    name = kind.__name__.removesuffix("Spec").lower()
    try:
        tree = OmegaConf.load(path)
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such {name}{_neighbours(path)}") from None
    except (IsADirectoryError, PermissionError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read as a {name}: {error}") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise RecipeError(f"{path}, line {line}: not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, OSError, OmegaConfBaseException) as error:
        raise RecipeError(f"{path}: not a {name}: {_first_line(error)}") from None
    if not isinstance(tree, DictConfig) or not tree:
        raise RecipeError(f"{path}: a {name} has the keys {', '.join(kind.model_fields)}")
    return tree


def _neighbours(path: Path) -> str:
    names = sorted(file.name for file in path.parent.glob("*.y*ml")) if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, names, n=1, cutoff=0.5)
    return f"; did you mean '{path.parent / close[0]}'?" if close else ""


def _apply(tree: DictConfig, override: str) -> None:
    """Write one ``path=value`` into ``tree``."""
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals or not key or not all(key.split(".")):
        raise RecipeError(f"override '{override}': write it as key=value, such as run.seed=1")
    try:
        value: Any = OmegaConf.to_container(OmegaConf.create(f"- {text.strip() or repr('')}"))
        _check_path(tree, key.split("."), override)
        OmegaConf.update(tree, key, value[0], merge=False, force_add=True)
    except yaml.YAMLError:
        raise RecipeError(f"override '{override}': the value is not valid YAML") from None
    except (OmegaConfBaseException, TypeError, ValueError) as error:
        raise RecipeError(f"override '{override}': {_first_line(error)}") from None


def _check_path(tree: DictConfig, steps: Sequence[str], override: str) -> None:
    """Refuse a path that leaves a list by a name or by an index that is not there."""
    node: Any = tree
    for depth, step in enumerate(steps):
        if isinstance(node, ListConfig):
            if not step.isdecimal() or int(step) >= len(node):
                raise RecipeError(
                    f"override '{override}': '{'.'.join(steps[:depth])}' is a list of {len(node)}; "
                    f"expected an index from 0 to {len(node) - 1}, found '{step}'"
                )
            node = node[int(step)]
        elif isinstance(node, DictConfig):
            node = node.get(step)
        else:
            return


def _escape(value: object) -> object:
    """Protect texts that hold ``${``, which would otherwise be read as a reference."""
    if isinstance(value, dict):
        return {key: _escape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_escape(item) for item in value]
    if isinstance(value, str):
        return _REFERENCE.sub(lambda found: found[1] * 2 + "\\${", value)
    return value


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
