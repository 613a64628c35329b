"""A name for exactly one model: its architecture and its weights.

The weights are summed up where they are, on their own device, in integers modulo 2**64, so that a
large model on a GPU is not copied to be named.
"""

import hashlib
import json
from typing import Any

import torch
from torch import Tensor, nn

from triptych.model.modeling import TriptychForConditionalGeneration

_CHUNK = 1 << 20
_SAMPLES = 16
_INCIDENTAL = ("architectures", "dtype", "text_config", "transformers_version")
_MULTIPLIER = 0x9E3779B97F4A7C15 - (1 << 64)


def fingerprint(model: TriptychForConditionalGeneration) -> str:
    """SHA-256 (hexadecimal) over the architecture and a checksum of every weight and buffer.

    Two models with the same fingerprint compute the same; where a model came from, and on which
    device it is, does not matter.
    """
    config = model.config.to_dict()
    parts = [_settings(config), _settings(config["text_config"])]
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)} {checksum(value)}".encode())
    return digest.hexdigest()


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration without what says only where and how it was saved."""
    return {
        name: value
        for name, value in config.items()
        if not name.startswith("_") and name not in _INCIDENTAL
    }


def checksum(tensor: Tensor) -> int:
    """Sum of the bytes of a tensor, eight at a time, each times an odd number of its place."""
    flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    flat = torch.nn.functional.pad(flat, (0, -len(flat) % 8)).view(torch.int64)
    weights = torch.arange(min(_CHUNK, len(flat)), device=flat.device) * _MULTIPLIER | 1
    sums = [(part * weights[: len(part)]).sum() for part in flat.split(_CHUNK)]
    total = 0
    for part in torch.stack(sums).tolist() if sums else []:
        total = (total * 0x100000001B3 + part) % (1 << 64)
    return total


def watch(module: nn.Module) -> tuple[object, ...]:
    """Something that is no longer equal once the weights of ``module`` have changed.

    Costs little, so that it can be looked at before every use: memory addresses, the counters of
    in-place changes, and a few values of each tensor, because code may write past the counters.
    """
    tensors = [*module.parameters(), *module.buffers()]
    few = [_sample(one).to(torch.float64).cpu() for one in tensors if one.numel()]
    places = tuple((one.data_ptr(), one._version, one.shape, one.dtype) for one in tensors)
    return places, torch.cat(few).numpy().tobytes() if few else b""


def _sample(tensor: Tensor) -> Tensor:
    flat = tensor.detach().reshape(-1)
    return flat[:: max(1, len(flat) // _SAMPLES)][:_SAMPLES]
