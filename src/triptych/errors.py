"""The exceptions a user can meet. Each message says what is wrong, where, and what to do.

The command line prints the message without a traceback and exits with code 2.
"""


class TriptychError(Exception):
    """Base of every error that a user can cause and mend."""


class RecipeError(TriptychError):
    """A recipe or an override is not valid."""


class DataError(TriptychError):
    """A file, a record or one of its messages is not valid."""


class ImageError(DataError):
    """An image is missing, unreadable, or larger than the limits allow."""


class SpanError(TriptychError):
    """The image placeholders of a sequence do not match the visual tokens given for it."""


class ContextError(TriptychError):
    """A conversation does not fit the context of the model."""


class CheckpointError(TriptychError):
    """A checkpoint or a run folder is missing, incomplete, or of another model."""
