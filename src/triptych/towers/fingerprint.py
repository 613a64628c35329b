"""A name for exactly one tower: its architecture and its weights."""

import hashlib

import torch

from triptych.towers.base import Tower

# Raised whenever tiles are resized or normalised differently, so that cached features expire.
ENCODING = 1


def fingerprint(tower: Tower) -> str:
    """SHA-256 (hexadecimal) over the architecture and the bytes of every parameter and buffer.

    Two towers with the same fingerprint give the same features; where a tower came from, and on
    which device it is, does not matter.
    """
    digest = hashlib.sha256(f"{ENCODING} {type(tower).__name__} {tower.identity}".encode())
    for name, value in sorted(tower.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        flat = value.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()
