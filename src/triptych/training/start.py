"""Beginning a run with the model of another one."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from triptych.errors import RecipeError
from triptych.inference.folder import find_model
from triptych.model.build import load_pretrained
from triptych.model.modeling import TriptychForConditionalGeneration
from triptych.model.processing import TriptychProcessor
from triptych.model.spec import ModelSpec
from triptych.model.tilings import learn_tilings, use_tiling, with_tiling


def take_over(
    folder: Path, spec: ModelSpec, *, seed: int
) -> tuple[TriptychForConditionalGeneration, TriptychProcessor]:
    """The trained model of ``folder``, cutting images as ``spec`` says.

    Args:
        folder: a model folder or a run folder.
        spec: the model of the recipe.
        seed: of learnable tokens that the tiling needs and the model has not yet.

    Raises:
        CheckpointError: no model is there.
        RecipeError: it has another architecture than ``spec``.
    """
    path = find_model(folder)
    model, processor = load_pretrained(path)
    for name, found, expected in _differences(model, spec):
        raise RecipeError(
            f"run.start: the model in {path} has {name} {found}, but the recipe says {expected}; "
            "a run that starts from a model keeps its architecture (all but the tiling)"
        )
    learn_tilings(model, [spec.tiling], seed=seed)
    use_tiling(model, spec.tiling)
    return model, with_tiling(processor, spec.tiling)


def _differences(
    model: TriptychForConditionalGeneration, spec: ModelSpec
) -> Iterator[tuple[str, Any, Any]]:
    """Name, found and expected value of what is not the same."""
    panels, config = model.config.parse_panels(), model.config
    text = config.get_text_config().to_dict()
    pairs: dict[str, tuple[Any, Any]] = {
        "towers (number)": (len(panels.towers), len(spec.towers)),
        "tower_grid": (panels.tower_grid, spec.tower_grid),
        "connector": (panels.connector, spec.connector),
        "fusion": (panels.fusion, spec.fusion),
        "attention": (config.attention, spec.attention),
        "image_scope": (config.image_scope, spec.image_scope),
    }
    given = spec.language.model_dump().get("config") or {}
    pairs |= {
        f"language.config.{name}": (text[name], value)
        for name, value in given.items()
        if name in text and name != "vocab_size"
    }
    for name, (found, expected) in pairs.items():
        if found != expected:
            yield name, found, expected
