"""The ``vit`` connector's encoder layer is CLIP's."""

import torch
from transformers import CLIPVisionConfig
from transformers.models.clip.modeling_clip import CLIPEncoderLayer

from triptych.connectors import VitConnector
from triptych.images.layout import TileLayout

WIDTH = 24


@torch.no_grad()
def test_the_encoder_layer_equals_clip() -> None:
    """Largest difference seen: 5e-7."""
    config = CLIPVisionConfig(
        hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_attention_heads=4, hidden_act="gelu",
        attn_implementation="eager",
    )  # fmt: skip
    torch.manual_seed(0)
    theirs = CLIPEncoderLayer(config).eval()
    ours = VitConnector(heads=4).build(TileLayout(2, 3), WIDTH, 7).eval()
    for parameter in theirs.parameters():
        parameter.normal_(std=0.3)
    weights = theirs.state_dict()
    renamed = {
        "attention_norm": "layer_norm1",
        "mixed": "self_attn.out_proj",
        "feed_forward.0": "layer_norm2",
        "feed_forward.1": "mlp.fc1",
        "feed_forward.3": "mlp.fc2",
    }
    mine = dict(ours.state_dict())
    for part in ("weight", "bias"):
        rows = [weights[f"self_attn.{name}_proj.{part}"] for name in ("q", "k", "v")]
        mine[f"query_key_value.{part}"] = torch.cat(rows)
        for name, other in renamed.items():
            mine[f"{name}.{part}"] = weights[f"{other}.{part}"]
    ours.load_state_dict(mine)
    ours.out = torch.nn.Identity()
    features = torch.randn(2, 6, WIDTH)
    mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    for given in (None, mask):
        bias = None
        if given is not None:
            bias = torch.zeros(2, 1, 6, 6).masked_fill(~given[:, None, None], -torch.inf)
        expected = theirs(features, attention_mask=bias)
        assert torch.allclose(ours(features, given), expected, atol=1e-5)
