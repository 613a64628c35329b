"""LoRA matrices by themselves, as a folder that peft loads onto the exported base.

Shape suffixes: R rank, N inputs, M outputs of a layer.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import Tensor, nn

from triptych.errors import CheckpointError
from triptych.training.lora import ADAPTER, lora_layers


@dataclass(frozen=True)
class AdaptedLayer:
    """The matrices beside one linear layer.

    Attributes:
        down: (R, N).
        up: (M, R).
        lengths: lengths of the rows of the adapted weights (M,); None without DoRA.
        alpha: the product is multiplied by alpha / R.
    """

    down: Tensor
    up: Tensor
    lengths: Tensor | None
    alpha: float

    @property
    def rank(self) -> int:
        """Rank of the product."""
        return len(self.down)


@dataclass(frozen=True)
class Adapter:
    """All adapted layers of a model by the names they have in it."""

    layers: Mapping[str, AdaptedLayer] = field(default_factory=dict)

    def write(self, folder: Path, rename: Callable[[str], str | None], dtype: torch.dtype) -> None:
        """Write a folder for peft.

        Args:
            folder: made here.
            rename: from the name of a layer in our model to its name in the exported one.
            dtype: precision of the matrices written; lengths are always float32.

        Raises:
            CheckpointError: an adapted layer is not in the exported model.
        """
        weights, ranks, alphas = {}, {}, {}
        for name, layer in self.layers.items():
            target = rename(name)
            if target is None:
                raise CheckpointError(f"the adapted layer '{name}' is not in the exported model")
            prefix = f"base_model.model.{target}"
            weights[f"{prefix}.lora_A.weight"] = layer.down.to(dtype)
            weights[f"{prefix}.lora_B.weight"] = layer.up.to(dtype)
            if layer.lengths is not None:
                weights[f"{prefix}.lora_magnitude_vector"] = layer.lengths
            ranks[target], alphas[target] = layer.rank, layer.alpha
        first = next(iter(self.layers.values()))
        config = LoraConfig(
            r=first.rank,
            lora_alpha=first.alpha,  # type: ignore[arg-type]  # annotated int, computed as float
            target_modules=sorted(ranks),
            rank_pattern={name: rank for name, rank in ranks.items() if rank != first.rank},
            alpha_pattern={name: one for name, one in alphas.items() if one != first.alpha},  # type: ignore[misc]
            use_dora=first.lengths is not None,
            inference_mode=True,
        )
        folder.mkdir()
        config.save_pretrained(folder)
        save_file(
            {name: value.contiguous() for name, value in weights.items()},
            folder / "adapter_model.safetensors",
            {"format": "pt"},
        )


@torch.no_grad()
def take_adapter(model: nn.Module) -> Adapter:
    """Take the LoRA matrices out of ``model``, in place; what is left is the base.

    Where only some layers are DoRA's, the others become DoRA's too, which changes no result: the
    lengths are those that their adapted weights have.
    """
    layers = dict(lora_layers(model))
    dora = any(ADAPTER in layer.lora_magnitude_vector for layer in layers.values())
    taken = {}
    for name, layer in layers.items():
        taken[name] = _read(layer, dora=dora)
        model.set_submodule(name, layer.get_base_layer())
    return Adapter(taken)


def _read(layer: LoraLayer, *, dora: bool) -> AdaptedLayer:
    down, up = layer.lora_A[ADAPTER].weight.detach(), layer.lora_B[ADAPTER].weight.detach()
    lengths = None
    if ADAPTER in layer.lora_magnitude_vector:
        lengths = layer.lora_magnitude_vector[ADAPTER].weight.detach()
    elif dora:
        adapted = layer.get_base_layer().weight.detach() + layer.get_delta_weight(ADAPTER)
        lengths = torch.linalg.norm(adapted, dim=1)
    return AdaptedLayer(down, up, lengths, float(layer.scaling[ADAPTER] * len(down)))
