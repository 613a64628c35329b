"""Connectors: from the tokens of a tile to visual tokens of the language model's width."""

from typing import Annotated

from pydantic import Field

from triptych.connectors.base import Connector
from triptych.connectors.mlp import LinearConnector, MlpConnector
from triptych.connectors.pixel_shuffle import PixelShuffleConnector

ConnectorSpec = Annotated[
    LinearConnector | MlpConnector | PixelShuffleConnector, Field(discriminator="kind")
]

__all__ = [
    "Connector",
    "ConnectorSpec",
    "LinearConnector",
    "MlpConnector",
    "PixelShuffleConnector",
]
