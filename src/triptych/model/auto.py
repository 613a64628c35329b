"""Registration with the Auto classes of transformers."""

from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from triptych.model.configuration import TriptychConfig
from triptych.model.modeling import TriptychForConditionalGeneration
from triptych.model.processing import TriptychProcessor


def register() -> None:
    """Make the Auto classes know triptych models; calling it again is harmless."""
    AutoConfig.register(TriptychConfig.model_type, TriptychConfig, exist_ok=True)
    AutoModelForImageTextToText.register(
        TriptychConfig, TriptychForConditionalGeneration, exist_ok=True
    )
    AutoProcessor.register(TriptychConfig, TriptychProcessor, exist_ok=True)
