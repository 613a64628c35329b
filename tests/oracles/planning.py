"""Sizes of language models by hand, from their configs."""

from collections.abc import Mapping
from typing import Any


def decoder_parameters(config: Mapping[str, Any]) -> int:
    """Parameters of an untied Llama, Phi-3 or Mixtral: three products feed forward, no biases."""
    width, inner, layers = (
        config["hidden_size"],
        config["intermediate_size"],
        config["num_hidden_layers"],
    )
    head = width // config["num_attention_heads"]
    attention = 2 * width * width + 2 * width * head * config["num_key_value_heads"]
    experts = config.get("num_local_experts", 1)
    router = width * experts if experts > 1 else 0
    layer = attention + router + experts * 3 * width * inner + 2 * width
    return 2 * config["vocab_size"] * width + layers * layer + width


def bigg_parameters() -> int:
    """Parameters of Qwen-VL's ViT-bigG and resampler, the last projection left out."""
    width, inner, out, patches = 1664, 8192, 4096, 256
    attention = width * 3 * width + 3 * width + width * width + width
    block = attention + width * inner + inner + inner * width + width + 4 * width
    stem = 3 * 14 * 14 * width + patches * width + 2 * width
    reader = patches * out + width * out + 4 * (out * out + out) + 4 * out
    return stem + 48 * block + reader + 2 * out
