"""Low-rank adaptation through peft: LoRA (Hu et al., 2021) and DoRA (Liu et al., 2024).

Matrices are injected when a stage begins and merged when it ends, so no other code ever meets an
adapted model. The plain name of a parameter is its name in the model without adapters.
"""

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from triptych.errors import RecipeError
from triptych.language.quantize import dequantize
from triptych.training.tuning import ALL, LoraScope, TunedPartSpec

if TYPE_CHECKING:
    from peft.tuners.lora import LoraLayer

ADAPTER, MATRIX = "default", ".lora_"


def add_lora(part: nn.Module, spec: TunedPartSpec, name: str = "language") -> None:
    """Put LoRA matrices beside the linear layers of ``part`` that ``spec`` chooses, in place.

    Everything else in ``part`` is frozen.

    Args:
        part: a tower or the language model.
        spec: scopes, ranks and scales.
        name: of the part, for messages.

    Raises:
        RecipeError: a scope matches no linear layer, or the table of tied embeddings.
    """
    from peft import LoraConfig, inject_adapter_in_model  # brings torch's compiler: seconds

    chosen: dict[LoraScope, list[str]] = {}
    for layer, scope in choose_layers(part, spec, name).items():
        chosen.setdefault(scope, []).append(layer)
    for scope, layers in chosen.items():
        rank, alpha = scope.rank or spec.rank, scope.alpha or spec.alpha
        config = LoraConfig(
            r=rank,
            lora_alpha=alpha,  # type: ignore[arg-type]  # peft annotates int, computes with float
            lora_dropout=spec.dropout if scope.dropout is None else scope.dropout,
            use_dora=spec.dora,
            target_modules="|".join(map(re.escape, layers)),
        )
        inject_adapter_in_model(config, part)
        del part.peft_config  # injection leaves its settings on the model; the stage owns them
    part.requires_grad_(False)
    for parameter_name, parameter in part.named_parameters():
        if MATRIX in parameter_name:
            parameter.requires_grad_(True)
            parameter.data = parameter.data.float()  # made in the base's dtype, maybe bfloat16


def choose_layers(part: nn.Module, spec: TunedPartSpec, name: str) -> dict[str, LoraScope]:
    """The linear layers of ``part`` that get LoRA, each with the scope that it belongs to.

    Raises:
        RecipeError: a scope matches no linear layer, or the table of tied embeddings.
    """
    output, tied = _output_layer(part)
    linear = [
        layer
        for layer, module in part.named_modules()
        # The layer in MultiheadAttention is read by that module, which would not see the matrices.
        if isinstance(module, (nn.Linear, Conv1D))
        and not isinstance(module, NonDynamicallyQuantizableLinear)
    ]
    chosen: dict[str, LoraScope] = {}
    for scope, settings in spec.targets.items():
        found = [layer for layer in linear if matches(layer, scope)]
        if scope == ALL:
            found = [layer for layer in linear if layer != output]
        if not found:
            raise RecipeError(_no_match(scope, name, linear))
        if tied and output in found:
            raise RecipeError(
                f"train.{name}.targets: '{scope}' is the output layer, whose weights are those of "
                "the embedding table (tie_word_embeddings); leave it out"
            )
        chosen |= dict.fromkeys(found, settings)
    return chosen


def matches(layer: str, scope: str) -> bool:
    """Whether the dotted name of a layer holds all names of ``scope`` one after the other."""
    names, wanted = layer.split("."), scope.split(".")
    return any(
        all(map(fnmatchcase, names[start:], wanted))
        for start in range(len(names) - len(wanted) + 1)
    )


def merge_lora(model: nn.Module) -> list[str]:
    """Add every low-rank product to its layer in float32 and put the plain layer back.

    Returns:
        Names of the weights that changed, relative to ``model``.
    """
    merged = []
    for name, layer in lora_layers(model):
        base = layer.get_base_layer()
        if base.weight.is_floating_point():
            base.float()
            with torch.no_grad():
                layer.merge()
        else:
            base = _merge_quantized(layer)
        model.set_submodule(name, base)
        merged.append(f"{name}.weight")
    return merged


@contextmanager
def adapters_off(language: nn.Module) -> Iterator[None]:
    """Let ``language`` compute for a while as if it had no LoRA matrices."""
    layers = [layer for _, layer in lora_layers(language)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


@torch.no_grad()
def _merge_quantized(layer: "LoraLayer") -> nn.Linear:
    """A plain layer with the dequantised weights, which were trained with, and the product."""
    from peft.utils.integrations import dequantize_module_weight

    base = layer.get_base_layer()
    plain = dequantize(base, dequantize_module_weight(base))
    plain.weight += layer.get_delta_weight(ADAPTER)
    if ADAPTER in layer.lora_magnitude_vector:
        lengths = layer.lora_magnitude_vector[ADAPTER].weight
        plain.weight *= (lengths / torch.linalg.norm(plain.weight, dim=1))[:, None]
    return plain


def plain_name(name: str) -> str:
    """``...q_proj.base_layer.weight`` -> ``...q_proj.weight``; other names are plain already."""
    return name.replace(".base_layer.", ".")


def is_matrix(name: str) -> bool:
    """Whether a parameter is one of the two factors of a low-rank product."""
    return f"{MATRIX}A." in name or f"{MATRIX}B." in name


def lora_layers(model: nn.Module) -> Iterator[tuple[str, "LoraLayer"]]:
    """The adapted layers of ``model`` and their names."""
    if not any(MATRIX in name for name, _ in model.named_parameters()):
        return
    from peft.tuners.lora import LoraLayer

    for name, module in list(model.named_modules()):
        if isinstance(module, LoraLayer):
            yield name, module


def _output_layer(part: nn.Module) -> tuple[str | None, bool]:
    """Name of the output layer, and whether its weights are the embedding table too."""
    if not isinstance(part, PreTrainedModel):
        return None, False
    head, table = part.get_output_embeddings(), part.get_input_embeddings()
    if head is None:
        return None, False
    name = next(name for name, module in part.named_modules() if module is head)
    return name, head.weight is table.weight


def _no_match(scope: str, name: str, linear: Sequence[str]) -> str:
    known = sorted({layer.rsplit(".", 1)[-1] for layer in linear})
    close = difflib.get_close_matches(scope, _scopes(linear), n=3, cutoff=0.5)
    hint = f"the nearest scopes are {', '.join(close)}; " if close else ""
    return (
        f"train.{name}.targets: '{scope}' matches no linear layer; {hint}the linear layers of this "
        f"part are called {', '.join(known) or '(it has none)'}"
    )


def _scopes(linear: Iterable[str]) -> list[str]:
    """Every name that would match: of layers, of the modules around them, and whole paths."""
    names = {part for layer in linear for part in layer.split(".") if not part.isdigit()}
    return sorted(names | set(linear))
