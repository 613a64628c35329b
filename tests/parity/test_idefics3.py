import torch
from transformers import Idefics3Config
from transformers.models.idefics3.modeling_idefics3 import Idefics3Connector

from triptych.connectors.pixel_shuffle import PixelShuffle


def test_pixel_shuffle_orders_channels_as_idefics3() -> None:
    config = Idefics3Config(
        scale_factor=2,
        text_config={"model_type": "llama", "hidden_size": 32},
        vision_config={"hidden_size": 3},
    )
    features = torch.randn(2, 16, 3)
    theirs = Idefics3Connector(config).pixel_shuffle(features, 2)
    assert torch.equal(PixelShuffle(4, 4, 2)(features), theirs)
