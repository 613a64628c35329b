"""Spec: the strict base of every part of a recipe.

A Spec is an immutable pydantic model. Unknown keys are refused with the nearest known name, and
the docstring under each field is its documentation (``triptych recipe schema`` prints it).
"""

import difflib
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from triptych.errors import RecipeError


class Spec(BaseModel):
    """Base class: frozen, no unknown keys, field docstrings become descriptions."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        validate_default=True,
        protected_namespaces=(),
    )


T = TypeVar("T")


def validate(kind: type[T], data: object, where: str) -> T:
    """Build ``kind`` (a Spec or a union of Specs) from plain ``data``.

    Args:
        kind: what to build.
        data: nested dicts and lists, as read from YAML or JSON.
        where: the name of the file or object, put before every message.

    Raises:
        RecipeError: with one line per problem: the dotted path, what was found, what is expected,
            and for an unknown key the nearest known one.
    """
    try:
        return TypeAdapter(kind).validate_python(data)
    except ValidationError as error:
        problems = error.errors()
        lines = [_explain(kind, one) for one in problems if not _follows(one, problems)]
        raise RecipeError(f"{where}: " + "; ".join(lines)) from None


def _follows(problem: Mapping[str, Any], problems: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a list is called too short only because pydantic dropped its wrong items."""
    place = problem["loc"]
    return problem["type"] == "too_short" and any(
        len(one["loc"]) > len(place) and one["loc"][: len(place)] == place for one in problems
    )


def _explain(kind: type[Any], problem: Mapping[str, Any]) -> str:
    location = [str(part) for part in problem["loc"]]
    path = ".".join(location) or "(top level)"
    if problem["type"] == "extra_forbidden":
        known = sorted(_field_names(kind, location[:-1]))
        close = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
        hint = f"did you mean '{close[0]}'?" if close else f"known keys: {', '.join(known)}"
        return f"unknown key '{path}' ({hint})"
    if problem["type"] == "missing":
        return f"'{path}' is missing"
    if problem["type"] == "value_error":
        return f"'{path}': {problem['ctx']['error']}" if location else str(problem["ctx"]["error"])
    return f"'{path}' is {reprlib.repr(problem['input'])}: {problem['msg']}"


def _field_names(kind: type[Any], location: Sequence[str]) -> set[str]:
    """Names of the fields that may stand at ``location`` inside ``kind``."""
    schema: Mapping[str, Any] = TypeAdapter(kind).json_schema()
    definitions = schema.get("$defs", {})
    nodes: list[Mapping[str, Any]] = [schema]
    for part in location:
        nodes = [child for node in nodes for child in _children(node, part, definitions)]
    return {
        name
        for node in nodes
        for leaf in _leaves(node, definitions)
        for name in leaf.get("properties", {})
    }


def _leaves(node: Mapping[str, Any], definitions: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    """Follow references and unions down to plain schemas."""
    if "$ref" in node:
        yield from _leaves(definitions[node["$ref"].rsplit("/", 1)[-1]], definitions)
        return
    branches = node.get("anyOf", []) + node.get("oneOf", []) + node.get("allOf", [])
    for branch in branches:
        yield from _leaves(branch, definitions)
    if not branches:
        yield node


def _children(
    node: Mapping[str, Any], part: str, definitions: Mapping[str, Any]
) -> Iterable[Mapping[str, Any]]:
    """Schemas reached from ``node`` by a key, a list index, or the tag of a union branch."""
    for leaf in _leaves(node, definitions):
        if part in leaf.get("properties", {}):
            yield leaf["properties"][part]
        elif part.isdigit() and "items" in leaf:
            yield leaf["items"]
        elif leaf.get("properties", {}).get("kind", {}).get("const") == part:
            yield leaf
        elif isinstance(leaf.get("additionalProperties"), dict):
            yield leaf["additionalProperties"]
