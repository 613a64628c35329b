"""Low-rank adaptation of the language model through peft (Hu et al., 2021).

Matrices are injected when a stage begins and merged when it ends, so no other code ever meets an
adapted model. The plain name of a parameter is its name in the model without adapters.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn

from triptych.errors import RecipeError
from triptych.training.stages import LanguagePartSpec


def add_lora(language: nn.Module, spec: LanguagePartSpec) -> None:
    """Put LoRA matrices beside the layers of ``language`` that ``spec.targets`` names, in place.

    Everything else in ``language`` is frozen.

    Raises:
        RecipeError: a target matches no linear layer.
    """
    targets = spec.targets
    if targets != "all-linear":
        _check_targets(language, targets)
    config = LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha,  # type: ignore[arg-type]  # peft annotates int, computes with float
        lora_dropout=spec.dropout,
        target_modules=targets if targets == "all-linear" else list(targets),
    )
    inject_adapter_in_model(config, language)
    for parameter in language.parameters():
        if parameter.requires_grad:  # made in the base's dtype, which may be bfloat16
            parameter.data = parameter.data.float()
    del language.peft_config  # injection leaves its settings on the model; the stage owns them


def merge_lora(language: nn.Module) -> list[str]:
    """Add every low-rank product to its layer in float32 and put the plain layer back.

    Returns:
        Names of the weights that changed, relative to ``language``.
    """
    merged = []
    for name, layer in _lora_layers(language):
        base = layer.get_base_layer()
        base.float()
        with torch.no_grad():
            layer.merge()
        language.set_submodule(name, base)
        merged.append(f"{name}.weight")
    return merged


@contextmanager
def adapters_off(language: nn.Module) -> Iterator[None]:
    """Let ``language`` compute for a while as if it had no LoRA matrices."""
    layers = [layer for _, layer in _lora_layers(language)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def plain_name(name: str) -> str:
    """``...q_proj.base_layer.weight`` -> ``...q_proj.weight``; other names are plain already."""
    return name.replace(".base_layer.", ".")


def _lora_layers(language: nn.Module) -> Iterator[tuple[str, LoraLayer]]:
    for name, module in list(language.named_modules()):
        if isinstance(module, LoraLayer):
            yield name, module


def _check_targets(language: nn.Module, targets: tuple[str, ...]) -> None:
    linear = [name for name, module in language.named_modules() if isinstance(module, nn.Linear)]
    known = sorted({name.rsplit(".", 1)[-1] for name in linear})
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in linear):
            raise RecipeError(
                f"train.language.targets: '{target}' matches no linear layer of the language "
                f"model; its linear layers are called {', '.join(known)}"
            )
