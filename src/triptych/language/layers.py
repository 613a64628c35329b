"""The decoder layers of a causal language model of transformers."""

from torch import nn
from transformers import PreTrainedModel

from triptych.errors import RecipeError


def decoder_layers(language_model: PreTrainedModel) -> nn.ModuleList:
    """Find the list of decoder layers, whatever the family calls it.

    Raises:
        RecipeError: there is none.
    """
    decoder = language_model.get_decoder()
    family, count = decoder.config.model_type, decoder.config.num_hidden_layers
    for module in decoder.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise RecipeError(f"model.language: '{family}' has no list of its {count} decoder layers")
