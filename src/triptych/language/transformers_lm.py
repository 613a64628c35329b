"""Any decoder-only causal language model of transformers."""

from typing import Any, Literal, Self

from pydantic import model_validator
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from triptych.errors import RecipeError
from triptych.language.quantize import BnbQuantize
from triptych.language.tokenizer import TrainedTokenizer
from triptych.spec import Spec


class TransformersLanguage(Spec):
    """A causal language model of transformers: from a hub id, a local folder, or a config."""

    kind: Literal["transformers"] = "transformers"
    """Names this language model."""
    source: str | None = None
    """Hub id or local folder with weights and config; leave out to start from random weights."""
    config: dict[str, Any] | None = None
    """Configuration with its 'model_type', when there is no source, or to override its values."""
    tokenizer: str | TrainedTokenizer | None = None
    """Hub id or folder of the tokenizer, or one trained on the data; default: the source's own."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision in which the weights are held."""
    quantize: BnbQuantize | None = None
    """Hold the weights in 4 or 8 bits while a run trains; needs a CUDA GPU and LoRA."""

    @model_validator(mode="after")
    def _has_an_origin(self) -> Self:
        if self.source is None and (self.config is None or "model_type" not in self.config):
            raise ValueError("give either 'source' or a 'config' with its 'model_type'")
        if self.source is None and self.tokenizer is None:
            raise ValueError("without a 'source', give a 'tokenizer'")
        return self

    def read_config(self) -> dict[str, Any]:
        """Read the whole configuration, from the source where there is one."""
        overrides = dict(self.config or {})
        if self.source is None:
            model_type = str(overrides.pop("model_type"))
            try:
                config = AutoConfig.for_model(model_type, **overrides)
            except ValueError as error:
                raise RecipeError(f"model.language.config: {error}") from error
        else:
            config = AutoConfig.from_pretrained(self.source, **overrides)
        return dict(config.get_text_config(decoder=True).to_dict())

    def load_tokenizer(self) -> PreTrainedTokenizerFast | TrainedTokenizer:
        """Load the tokenizer, or return the plan of one that has to be trained first."""
        if isinstance(self.tokenizer, TrainedTokenizer):
            return self.tokenizer
        tokenizer = AutoTokenizer.from_pretrained(self.tokenizer or self.source)
        if not isinstance(tokenizer, PreTrainedTokenizerFast):
            raise RecipeError(
                f"model.language.tokenizer: {self.tokenizer or self.source} has no fast tokenizer "
                "(tokenizer.json); convert it first"
            )
        return tokenizer

    def load_weights(self) -> PreTrainedModel | None:
        """Load the pretrained model; None when it starts from random weights."""
        if self.source is None:
            return None
        overrides = {k: v for k, v in (self.config or {}).items() if k != "model_type"}
        return AutoModelForCausalLM.from_pretrained(self.source, dtype=self.dtype, **overrides)
