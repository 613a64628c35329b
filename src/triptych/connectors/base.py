"""What every connector offers.

Shape suffixes: T tiles, P tokens of a tile, I images, V visual tokens, D width.
"""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from triptych.spec import Spec


class ConnectorSpecBase(Spec):
    """What every connector spec says."""

    @property
    def masks_padding(self) -> bool:
        """Whether the connector keeps tokens of padding out, so that it wants a mask of them."""
        return False

    @property
    def block(self) -> int | None:
        """Side of the block of the tower's tokens whose place a visual token has; None without."""
        return None


class Connector(nn.Module, ABC):
    """From the tokens of the towers to visual tokens of the language model's width."""

    @abstractmethod
    def forward(
        self,
        features: Tensor,
        mask: Tensor | None = None,
        tiles_per_image: Tensor | None = None,
    ) -> Tensor:
        """Connect tiles.

        Args:
            features: (T, P, D) tokens of all tiles of a batch, those of an image together.
            mask: bool (T, P), False on tokens of padding; every tile has one that is True.
            tiles_per_image: (I,), or None when each tile is an image.

        Returns:
            Visual tokens (T, V, D), or (I, V, D) where the layout says ``whole_image``.
        """


class Chain(nn.Sequential, Connector):
    """Modules one after the other. They see tokens of padding like all others."""

    def forward(
        self,
        features: Tensor,
        mask: Tensor | None = None,
        tiles_per_image: Tensor | None = None,
    ) -> Tensor:
        """(T, P, D) to (T, V, D)."""
        for module in self:
            features = module(features)
        return features
