"""What an image costs in tokens. Nothing else in the house does this arithmetic."""

from triptych.images.arrange import arrange
from triptych.images.layout import TileLayout
from triptych.images.plan import TilePlan


def image_tokens(plan: TilePlan, layout: TileLayout) -> int:
    """Visual tokens of an image.

    Args:
        plan: the tiles of the image.
        layout: tokens of one tile as the language model sees them, behind the connector.

    Returns:
        One tile of a 24 x 24 layout costs 576 tokens; learnable tokens count like the others.
    """
    return sum(run.stop - run.start for run in arrange(plan, layout))


def sequence_tokens(visual: int, *, outside: bool) -> int:
    """Tokens of the sequence that an image takes.

    Args:
        visual: its visual tokens.
        outside: whether these stay outside the sequence, where one placeholder marks its place.
    """
    return 1 if outside else visual
