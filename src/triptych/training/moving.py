"""Batches to a device, and the precision computations run in there."""

from collections.abc import Mapping

import torch
from torch import Tensor

COUNTS = ("tiles_per_image", "images_per_sample", "image_sizes")


def to_device(batch: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Move a batch; counts of images and tiles stay on the CPU, where they are read."""
    return {
        name: value if name in COUNTS else value.to(device, non_blocking=True)
        for name, value in batch.items()
    }


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Context that computes in bfloat16 where that is safe, when ``precision`` is "bf16"."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
