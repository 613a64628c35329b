"""Modules that run before decoder layers of a language model, which itself stays as it is.

They are forward pre-hooks of torch: no weight of the language model changes its name, LoRA and
gradient checkpointing see the layers they know, and what the modules need travels as an argument
of the forward pass.
"""

from typing import Any, Protocol

from torch import Tensor, nn

from triptych.errors import RecipeError

ARGUMENT = "injected"


class Injected(Protocol):
    """What a forward pass hands to the modules, as the language model's argument ``ARGUMENT``."""

    reached: set[int]


class _Hook:
    """What happens before one decoder layer; an object, so that a copied model has its own."""

    def __init__(self, layer: int, module: nn.Module | None) -> None:
        self.layer = layer
        self.module = module

    def __call__(
        self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        kept = dict(kwargs)
        inputs: Injected | None = kept.pop(ARGUMENT, None)
        if inputs is None or self.module is None:
            return args, kept
        inputs.reached.add(self.layer)
        hidden: Tensor = self.module(args[0], inputs, self.layer)
        return (hidden, *args[1:]), kept


def inject(layers: nn.ModuleList, modules: nn.ModuleDict) -> None:
    """Run each of ``modules`` before the decoder layer that its name numbers, from 0.

    A module is called with the hidden states (B, S, D), the argument and the number, and gives
    hidden states. Decoder layers never see the argument.
    """
    for number, layer in enumerate(layers):
        hook = _Hook(number, dict(modules).get(str(number)))
        layer.register_forward_pre_hook(hook, with_kwargs=True)


def check_reached(inputs: Injected, modules: nn.ModuleDict, family: str) -> None:
    """Make sure that no module was left out by a language model that drops unknown arguments.

    Raises:
        RecipeError: names the decoder layers that the argument did not come to.
    """
    missed = sorted({int(name) for name in modules} - inputs.reached)
    if missed:
        raise RecipeError(
            f"model.language: '{family}' does not pass arguments on to its decoder layers "
            f"{missed}, which this fusion needs; choose another language model, or fusion 'splice'"
        )
