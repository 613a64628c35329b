"""Opening the processor that a path on the command line names."""

from pathlib import Path

from triptych.errors import TriptychError
from triptych.inference.folder import SHIPPED, find_model
from triptych.model.build import initialise, load_processor
from triptych.model.processing import TriptychProcessor
from triptych.recipe import load_recipe
from triptych.training.run import training_texts


def open_processor(path: Path) -> tuple[TriptychProcessor, int | None]:
    """The processor of a model folder, a run folder or a recipe, and a recipe's max_tokens.

    Raises:
        TriptychError: when ``path`` is none of these.
    """
    if path.suffix in (".yaml", ".yml"):
        recipe = load_recipe(path)
        _, processor = initialise(recipe.model, texts=training_texts(recipe.data))
        return processor, recipe.data.max_tokens
    if not path.exists() and str(path) not in SHIPPED:
        raise TriptychError(f"{path}: no such model folder, run folder or recipe")
    # A run that has not ended has no model yet, but the processor it began with.
    start = path / "start"
    unfinished = start.is_dir() and not (path / "model").is_dir()
    return load_processor(start if unfinished else find_model(path)), None
