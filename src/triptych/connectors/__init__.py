"""Connectors: from the tokens of a tile to visual tokens of the language model's width."""

from typing import Annotated

from pydantic import Field

from triptych.connectors.base import Connector, ConnectorSpecBase
from triptych.connectors.mlp import LinearConnector, MlpConnector
from triptych.connectors.perceiver import PerceiverConnector
from triptych.connectors.pixel_shuffle import PixelShuffleConnector
from triptych.connectors.qformer import QFormerConnector
from triptych.connectors.vit import VitConnector

ConnectorSpec = Annotated[
    LinearConnector
    | MlpConnector
    | PixelShuffleConnector
    | PerceiverConnector
    | QFormerConnector
    | VitConnector,
    Field(discriminator="kind"),
]

__all__ = [
    "Connector",
    "ConnectorSpec",
    "ConnectorSpecBase",
    "LinearConnector",
    "MlpConnector",
    "PerceiverConnector",
    "PixelShuffleConnector",
    "QFormerConnector",
    "VitConnector",
]
