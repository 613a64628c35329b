"""What a model with DeepStack fusion adds to its language model's arguments.

Shape suffixes: B batch, S sequence, N visual tokens of the batch, G groups, D width.
"""

from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from triptych.errors import SpanError
from triptych.fusion import DeepStackFusion
from triptych.fusion.deepstack import StackInputs
from triptych.fusion.injection import ARGUMENT, check_reached, inject
from triptych.language.layers import decoder_layers


class StackArguments:
    """Puts the additions before the decoder layers and prepares what they add.

    Args:
        fusion: which layers.
        language_model: the language model, whose decoder layers get their hooks here.

    Attributes:
        groups: how many groups there are.
    """

    def __init__(self, fusion: DeepStackFusion, language_model: PreTrainedModel) -> None:
        self.groups = len(fusion.places)
        self._family = str(language_model.config.model_type)
        self._layers: nn.ModuleDict = fusion.build(language_model.config.num_hidden_layers)
        inject(decoder_layers(language_model), self._layers)

    def prepare(self, stacks: Tensor | None, embeddings: Tensor) -> dict[str, Any]:
        """The argument that carries the stacks to the layers: always there, zeros without images.

        Args:
            stacks: (B, G, S, D), or None where no image is among the tokens.
            embeddings: (B, S, D).

        Raises:
            SpanError: the stacks are of another shape.
        """
        batch, tokens, width = embeddings.shape
        expected = (batch, self.groups, tokens, width)
        if stacks is None:
            stacks = embeddings.new_zeros(1).expand(expected)
        if tuple(stacks.shape) != expected:
            raise SpanError(
                f"stacks are {tuple(stacks.shape)} (batch, groups, tokens, width), but the tokens "
                f"given need {expected}; cut them where the embeddings are cut"
            )
        return {ARGUMENT: StackInputs(stacks.unbind(1))}

    def check(self, arguments: dict[str, Any]) -> None:
        """Make sure after a pass that every group has been added.

        Raises:
            RecipeError: the language model did not pass the argument on.
        """
        check_reached(arguments[ARGUMENT], self._layers, self._family)


def spread(stacks: Tensor, placeholders: Tensor) -> Tensor:
    """Put the groups of a batch where its visual tokens stand.

    Args:
        stacks: (G, N, D), in order of appearance.
        placeholders: bool (B, S) with N True entries.

    Returns:
        (B, G, S, D), zeros elsewhere; gradients reach ``stacks``.
    """
    groups, _, width = stacks.shape
    whole = stacks.new_zeros(groups, *placeholders.shape, width)
    return whole.masked_scatter(placeholders[None, ..., None], stacks).transpose(0, 1)


def check_given(stacks: Tensor | None, *, wanted: bool, embedded: bool) -> None:
    """Check that stacks come with embeddings, and only with them.

    Args:
        stacks: what a caller of the model gave.
        wanted: whether the model's fusion has stacks.
        embedded: whether the caller gave embeddings in place of ids.

    Raises:
        SpanError: they are missing or have no use.
    """
    if wanted and embedded and stacks is None:
        raise SpanError(
            "fusion 'deepstack' needs stacks beside inputs_embeds, or what images add in deeper "
            "layers would be lost; model.embed_stacked makes both (stacks of text alone: zeros)"
        )
    if stacks is not None and not (wanted and embedded):
        why = "come with inputs_embeds" if wanted else "belong to fusion 'deepstack'"
        raise SpanError(f"stacks {why}; leave them out")
