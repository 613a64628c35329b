"""Which runs can be exported as their trained parts, and what the parts are put onto."""

from triptych.errors import RecipeError
from triptych.export.source import Source
from triptych.language import TrainedTokenizer
from triptych.model.spec import ModelSpec


def base_of(source: Source) -> tuple[ModelSpec, int]:
    """The model that a run began with, cutting images as the trained one does, and its seed.

    Raises:
        RecipeError: the run began with another model than the pretrained weights of its recipe,
            or its language model has none.
    """
    recipe = source.recipe
    if recipe is None or recipe.run.start is not None:
        raise RecipeError(
            f"{source.name}: the run began with the model of another one, so its parts do not fit "
            "the pretrained weights of its recipe; export it whole, with --format triptych"
        )
    if isinstance(recipe.model.language.load_tokenizer(), TrainedTokenizer):
        raise RecipeError(
            f"{source.name}: the language model was trained from scratch, so there are no "
            "pretrained weights to put its parts onto; export it whole, with --format triptych"
        )
    tiling = source.model.config.parse_panels().tiling
    return recipe.model.model_copy(update={"tiling": tiling}), recipe.run.seed
