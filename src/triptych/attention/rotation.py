"""Rotary position embedding (RoFormer, arXiv 2104.09864) applied to keys that are kept without it.

Keys are kept before rotation, not rotated to some place and later turned by the difference: cosine
and sine of a difference are not those that the language model itself uses at the new place (their
arguments are rounded, by up to 4e-4 radian near position 10 000), and in bfloat16 every further
turn rounds the keys once more. Turned once, from the start, they equal the model's own.

Shape suffixes: B batch, H heads, S tokens, D head width, F frequencies, L layers.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Style = Literal["none", "halves", "pairs"]


@dataclass(frozen=True)
class LayerRotation:
    """How one layer rotates its keys.

    Attributes:
        style: "none"; "halves": channel f turns with channel f + F; "pairs": 2f with 2f + 1.
            Channels behind the first 2F stay as they are.
        table: which of the tables of cosines and sines it uses.
    """

    style: Style
    table: int


@dataclass(frozen=True)
class Rotation:
    """The rotation of S tokens at their places, in every layer.

    Attributes:
        layers: L of them.
        cos: (S, F) for each table.
        sin: (S, F) for each table.
    """

    layers: tuple[LayerRotation, ...]
    cos: tuple[Tensor, ...]
    sin: tuple[Tensor, ...]

    def part(self, start: int, stop: int) -> "Rotation":
        """The rotation of the tokens [start, stop)."""
        return Rotation(
            self.layers,
            tuple(one[start:stop] for one in self.cos),
            tuple(one[start:stop] for one in self.sin),
        )

    def apply(self, layer: int, states: Tensor) -> Tensor:
        """Rotate queries or keys (..., S, D) as ``layer`` does."""
        out = torch.empty_like(states)
        self.write(layer, states, out)
        return out

    def write(self, layer: int, states: Tensor, out: Tensor) -> None:
        """Like ``apply``, but write the result (..., S, D) to ``out``."""
        how = self.layers[layer]
        if how.style == "none":
            out.copy_(states)
            return
        cos, sin = self.cos[how.table], self.sin[how.table]
        turned = 2 * cos.shape[-1]
        first, second = _planes(states, how.style, cos.shape[-1])
        to_first, to_second = _planes(out, how.style, cos.shape[-1])
        torch.mul(first, cos, out=to_first)
        to_first.sub_(second * sin)
        torch.mul(second, cos, out=to_second)
        to_second.add_(first * sin)
        out[..., turned:].copy_(states[..., turned:])


def _planes(states: Tensor, style: Style, frequencies: int) -> tuple[Tensor, Tensor]:
    """The two channels of each plane that is turned, as views."""
    if style == "halves":
        return states[..., :frequencies], states[..., frequencies : 2 * frequencies]
    return states[..., 0 : 2 * frequencies : 2], states[..., 1 : 2 * frequencies : 2]
