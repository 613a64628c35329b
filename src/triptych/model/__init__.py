"""The composed model, its configuration and its processor, as transformers knows them."""

from triptych.model.auto import register
from triptych.model.configuration import TriptychConfig
from triptych.model.modeling import TriptychForConditionalGeneration
from triptych.model.processing import TriptychProcessor

__all__ = ["TriptychConfig", "TriptychForConditionalGeneration", "TriptychProcessor", "register"]
