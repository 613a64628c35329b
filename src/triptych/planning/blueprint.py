"""The architecture of a recipe's model, made without weights, tokenizer or hub."""

from dataclasses import dataclass
from typing import Any

import torch

from triptych.errors import RecipeError
from triptych.fusion import CrossFusion, DeepStackFusion
from triptych.language import TrainedTokenizer, TransformersLanguage
from triptych.model.build import make_panels
from triptych.model.configuration import Panels, TriptychConfig
from triptych.model.modeling import TriptychForConditionalGeneration
from triptych.model.spec import ModelSpec

_DEPTH = "num_hidden_layers"


@dataclass(frozen=True)
class Blueprint:
    """A model whose every size is known.

    Attributes:
        spec: what it was drawn from.
        panels: towers, connector, tiling and fusion, resolved.
        text: the whole config of the language model.
        image_token: id of the image placeholder, the first of the new tokens.
        new_tokens: embeddings that triptych adds.
    """

    spec: ModelSpec
    panels: Panels
    text: dict[str, Any]
    image_token: int
    new_tokens: int

    @property
    def layers(self) -> int:
        """Decoder layers."""
        return int(self.text[_DEPTH])

    @property
    def vocabulary(self) -> int:
        """Rows of the output layer."""
        return int(self.text["vocab_size"])

    @property
    def context(self) -> int | None:
        """Tokens that the language model was made for, where its config says so."""
        found = self.text.get("max_position_embeddings")
        return None if found is None else int(found)

    def shallow_depths(self) -> tuple[int, int] | None:
        """Two depths between and beyond which every layer costs the same; None if all differ.

        With gated layers before every fourth decoder layer they lie four apart.
        """
        fusion, kinds = self.spec.fusion, self.text.get("layer_types")
        if isinstance(fusion, CrossFusion):
            first = fusion.start + ((self.layers - fusion.start) % fusion.every or fusion.every)
            depths = (first, first + fusion.every)
        elif isinstance(fusion, DeepStackFusion) and not fusion.in_tower:
            depths = (max(fusion.places) + 1, max(fusion.places) + 2)
        else:
            depths = (1, 2)
        mixed = kinds is not None and len(set(kinds)) > 1
        return None if mixed or depths[1] >= self.layers else depths

    def build(
        self, layers: int | None = None, device: str = "meta"
    ) -> TriptychForConditionalGeneration:
        """The model, by default on the meta device, where tensors have shapes and no memory.

        Args:
            layers: build so many decoder layers instead of all.
            device: where its weights are.
        """
        text = self.text if layers is None else _cut(self.text, layers)
        config = TriptychConfig(
            panels=self.panels.model_dump(mode="json"),
            text_config=text,
            image_token_id=self.image_token,
            first_new_token_id=self.image_token,
            new_tokens=self.new_tokens,
            attention=self.spec.attention,
            image_scope=self.spec.image_scope,
        )
        with torch.device(device):
            return TriptychForConditionalGeneration(config)


def draw(spec: ModelSpec) -> Blueprint:
    """Read every size of a model.

    A config with its ``model_type`` in the recipe is taken as it stands, without a look at the
    source that has the weights.

    Raises:
        RecipeError: a config is neither in the recipe nor to be read from its source, or the
            panels do not fit together.
    """
    panels = make_panels(spec)
    added = 3 if spec.template.tags else 1
    language = spec.language
    if isinstance(language, TransformersLanguage) and "model_type" in (language.config or {}):
        language = language.model_copy(update={"source": None})
    try:
        text = language.read_config()
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise RecipeError(
            f"model.language: the config cannot be read ({reason}); write it into the recipe as "
            "model.language.config with its model_type, and nothing is asked of a hub"
        ) from None
    image_token = int(text["vocab_size"])
    tokenizer = language.tokenizer if isinstance(language, TransformersLanguage) else None
    if isinstance(tokenizer, TrainedTokenizer):
        image_token = tokenizer.vocabulary
        text["vocab_size"] = image_token + added
    text |= {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
    return Blueprint(spec, panels, text, image_token, added)


def _cut(text: dict[str, Any], layers: int) -> dict[str, Any]:
    """The config with fewer layers; what it lists by layer is cut too."""
    whole = int(text[_DEPTH])
    shorter = {
        name: value[:layers] if isinstance(value, list) and len(value) == whole else value
        for name, value in text.items()
    }
    return shorter | {_DEPTH: layers}
