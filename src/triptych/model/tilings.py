"""One model, several tilings: how a stage of training sees images in another way than the last.

Shape suffixes: K learnable tokens, D width.
"""

from collections.abc import Sequence

import torch

from triptych.errors import RecipeError
from triptych.images.tiling import TilingSpec
from triptych.model.modeling import TriptychForConditionalGeneration
from triptych.model.processing import TriptychProcessor


def learn_tilings(
    model: TriptychForConditionalGeneration, tilings: Sequence[TilingSpec], *, seed: int
) -> None:
    """Make ``model`` know ``tilings`` beside its own: add the learnable tokens that they need.

    Those it has keep their values, new ones are drawn from ``seed``.

    Raises:
        RecipeError: a tiling asks for what the visual tokens cannot give.
    """
    panels = model.config.parse_panels()
    known = [panels.tiling, *panels.other_tilings]
    others = [one for place, one in enumerate(tilings) if one not in [*known, *tilings[:place]]]
    for one in others:
        # Checks the tiling against the visual tokens.
        _ = panels.model_copy(update={"tiling": one}).layout
    if not others:
        return
    whole = panels.model_copy(update={"other_tilings": (*panels.other_tilings, *others)})
    old = model.tile_tokens
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        new = type(old)(whole, model.config.get_text_config().hidden_size, 0.02)
    if old.weight is not None and new.weight is not None:
        rows = [new.learned.index(token) for token in old.learned]
        with torch.no_grad():
            new.weight[rows] = old.weight
    model.tile_tokens = new
    model.config.panels = whole.model_dump(mode="json")


def use_tiling(model: TriptychForConditionalGeneration, tiling: TilingSpec) -> None:
    """Expect images that are cut as ``tiling`` says from now on; saved with the model.

    Raises:
        RecipeError: ``tiling`` is none that ``learn_tilings`` has been told.
    """
    panels = model.config.parse_panels()
    if tiling == panels.tiling:
        return
    if tiling not in panels.other_tilings:
        raise RecipeError(f"the model does not know the tiling {tiling!r}; learn_tilings adds it")
    others = tuple(one for one in panels.other_tilings if one != tiling)
    changed = panels.model_copy(
        update={"tiling": tiling, "other_tilings": (*others, panels.tiling)}
    )
    model.config.panels = changed.model_dump(mode="json")
    model.tile_tokens.cut(tiling)


def with_tiling(processor: TriptychProcessor, tiling: TilingSpec) -> TriptychProcessor:
    """The processor that cuts images as ``tiling`` says; itself where that is so already."""
    if processor.settings.tiling == tiling:
        return processor
    return TriptychProcessor(
        processor.tokenizer,
        vision={**processor.vision, "tiling": tiling.model_dump(mode="json")},
        end_token=processor.end_token,
        chat_template=str(processor.chat_template),
    )
