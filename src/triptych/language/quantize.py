"""Frozen weights of a language model held in 4 or 8 bits (QLoRA: Dettmers et al., 2023)."""

import importlib
import importlib.util
from collections.abc import Iterator
from types import ModuleType
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from triptych.errors import RecipeError
from triptych.spec import Spec


class BnbQuantize(Spec):
    """Linear layers but the output layer quantised by bitsandbytes while a run trains."""

    kind: Literal["bnb"] = "bnb"
    """Names this quantisation."""

    bits: Literal[4, 8] = 4
    """Bits of a weight."""

    quant_type: Literal["nf4", "fp4"] = "nf4"
    """With 4 bits: values spaced as normally distributed weights are, or 4-bit floating point."""

    double: bool = True
    """With 4 bits: quantise the scales of the blocks too."""


def check_quantize(spec: BnbQuantize, device: torch.device) -> None:
    """Refuse to quantise where it cannot be done.

    Raises:
        RecipeError: there is no CUDA GPU, or bitsandbytes is not installed.
    """
    if device.type != "cuda":
        raise RecipeError(
            f"model.language.quantize: the {spec.bits}-bit layers of bitsandbytes are for a CUDA "
            f"GPU, but this process trains on '{device}'; leave quantize out (run.precision=bf16 "
            "holds frozen weights in 16 bits)"
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise RecipeError(
            "model.language.quantize: bitsandbytes is not installed; run 'pip install bitsandbytes'"
        )


def quantize(model: PreTrainedModel, spec: BnbQuantize, device: torch.device) -> None:
    """Quantise the linear layers of ``model`` in place, but its output layer.

    Args:
        model: a language model in its own precision, on the CPU.
        spec: how.
        device: where the quantised layers go.
    """
    bnb = importlib.import_module("bitsandbytes")
    for name, module in list(quantizable(model)):
        model.set_submodule(name, _quantized(bnb, module, spec).to(device))
    # By these peft knows which matrices stand beside such layers.
    model.is_loaded_in_4bit, model.is_loaded_in_8bit = spec.bits == 4, spec.bits == 8


def quantizable(model: PreTrainedModel) -> Iterator[tuple[str, nn.Linear]]:
    """Every linear layer but the output layer, with its name."""
    head = model.get_output_embeddings()
    for name, module in model.named_modules():
        if type(module) is nn.Linear and module is not head:
            yield name, module


def packed_bytes(spec: BnbQuantize, linear: nn.Linear) -> int:
    """Bytes that bitsandbytes holds in place of a layer's weights: values, scales and tables.

    With 8 bits each output has a scale; with 4 bits each block of 64 values, in float32 or, with
    ``double``, in 8 bits, of which each 256 share a scale in float32.
    """
    count = linear.weight.numel()
    if spec.bits == 8:
        return count + 4 * linear.out_features
    scales = -(-count // 64)
    outer = 4 * (-(-scales // 256)) + 4 * 256 + 4
    return -(-count // 2) + 4 * 16 + (scales + outer if spec.double else 4 * scales)


def dequantize(layer: nn.Module, weight: Tensor) -> nn.Linear:
    """A plain linear layer in float32 in place of a quantised one.

    Args:
        layer: the quantised layer.
        weight: its weights, dequantised (outputs, inputs).
    """
    bias = layer.bias
    outputs, inputs = weight.shape
    plain = nn.Linear(inputs, outputs, bias=bias is not None, device=weight.device)
    plain.weight = nn.Parameter(weight.detach().float(), requires_grad=False)
    if isinstance(bias, Tensor):
        plain.bias = nn.Parameter(bias.detach().float(), requires_grad=False)
    return plain


def _quantized(bnb: ModuleType, linear: nn.Linear, spec: BnbQuantize) -> nn.Module:
    size = (linear.in_features, linear.out_features)
    made: nn.Module
    if spec.bits == 4:
        made = bnb.nn.Linear4bit(
            *size,
            bias=linear.bias is not None,
            compute_dtype=torch.bfloat16,
            compress_statistics=spec.double,
            quant_type=spec.quant_type,
            device="meta",
        )
        made.weight = bnb.nn.Params4bit(
            linear.weight.data,
            requires_grad=False,
            compress_statistics=spec.double,
            quant_type=spec.quant_type,
            module=made,
        )
    else:
        made = bnb.nn.Linear8bitLt(
            *size,
            bias=linear.bias is not None,
            has_fp16_weights=False,
            threshold=6.0,
            device="meta",
        )
        made.weight = bnb.nn.Int8Params(
            linear.weight.data, requires_grad=False, has_fp16_weights=False
        )
    made.bias = linear.bias
    return made.requires_grad_(False)
