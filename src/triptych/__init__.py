"""triptych: build, train, judge and serve large multimodal models over many images and rounds."""

__version__ = "0.1.0"


def register() -> None:
    """Make the Auto classes of transformers know triptych models.

    Call it once before ``AutoModelForImageTextToText.from_pretrained`` or
    ``AutoProcessor.from_pretrained`` on a triptych folder. Nothing is registered by importing.
    """
    from triptych.model.auto import register as register_auto_classes

    register_auto_classes()
