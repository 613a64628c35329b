"""Keys and values of images by themselves: every language-model family, and what is refused."""

from typing import Any

import pytest
import torch
from tests.model.tiny import FAMILIES, TEXTS, answer, picture, tiny_spec, turn
from torch import Tensor
from transformers import DynamicCache
from transformers.models.llama import modeling_llama

from triptych.errors import RecipeError
from triptych.language import TrainedTokenizer, TransformersLanguage
from triptych.model import TriptychForConditionalGeneration, TriptychProcessor
from triptych.model.build import initialise
from triptych.model.fingerprint import checksum, fingerprint, watch
from triptych.model.image_keys import ImageKeys

Pair = tuple[TriptychForConditionalGeneration, TriptychProcessor]

TALK = [turn("what color?", picture(0)), answer("yes"), turn("and here", picture(1), picture(2))]
ROPE = {
    "linear": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0},
    "llama3": {
        "rope_type": "llama3", "factor": 8.0, "rope_theta": 10000.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
    },
    "yarn": {
        "rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0,
        "original_max_position_embeddings": 128,
    },
}  # fmt: skip
MORE: dict[str, dict[str, Any]] = {
    **{name: {"model_type": "llama", "rope_parameters": rope} for name, rope in ROPE.items()},
    "pairs, cohere": {"model_type": "cohere"},
    "pairs, glm": {"model_type": "glm", "head_dim": 8, "pad_token_id": 0},
    "partial": {
        "model_type": "phi3",
        "rope_parameters": {
            "rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5
        },
    },
    "without, in places": {"model_type": "smollm3", "no_rope_layers": [1, 0]},
    "by layer type": {
        "model_type": "gemma3_text", "head_dim": 8, "sliding_window": 512,
        "layer_types": ["sliding_attention", "full_attention"],
    },
}  # fmt: skip


def make(family: str = "llama", scope: str = "self", **language: Any) -> Pair:
    base = tiny_spec(family if family in FAMILIES else "llama")
    assert isinstance(base.language, TransformersLanguage)
    config = {**(base.language.config or {}), **language}
    spec = base.model_copy(
        update={
            "attention": "mmca",
            "image_scope": scope,
            "language": TransformersLanguage(
                config=config, tokenizer=TrainedTokenizer(vocabulary=300)
            ),
        }
    )
    model, processor = initialise(spec, texts=TEXTS)
    return model.eval(), processor


def check(model: TriptychForConditionalGeneration, processor: TriptychProcessor) -> None:
    """Rotated to their places, they are those that a whole conversation puts into its cache."""
    batch = processor.apply_chat_template([TALK], tokenize=True, add_generation_prompt=True)
    cache = DynamicCache()
    with torch.no_grad():
        model(**batch, past_key_values=cache, use_cache=True)
        features = model.encode_tiles(batch["pixel_values"])
    images = ImageKeys(model)
    sizes = [tuple(size) for size in batch["image_sizes"].tolist()]
    entries = images.entries([features[:1], features[1:2], features[2:]], sizes)
    places = (batch["input_ids"][0] == model.config.image_token_id).nonzero()[:, 0]
    rotation = images.rotation.at(places, torch.float32)
    for layer, kept in enumerate(cache.layers):
        keys = torch.cat([entry.keys[layer] for entry in entries], 1)
        values = torch.cat([entry.values[layer] for entry in entries], 1)
        close(rotation.apply(layer, keys), kept.keys[0, :, places])
        close(values, kept.values[0, :, places])


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, atol=1e-5 * float(wanted.abs().max()), rtol=0)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family(family: str) -> None:
    check(*make(family))


@pytest.mark.parametrize("name", sorted(MORE))
def test_every_way_to_rotate(name: str) -> None:
    check(*make(**MORE[name]))


@pytest.mark.parametrize("family", ["llama", "smollm3", "gemma3_text"])
def test_images_whose_tokens_see_each_other(family: str) -> None:
    check(*make(family, "image"))


@pytest.mark.parametrize(
    ("language", "reason"),
    [
        (
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
            "'dynamic', which rotates a key by an angle that depends on the length",
        ),
        ({"model_type": "gpt2", "n_embd": 32, "n_head": 4}, "no rotary position embedding"),
    ],
)
def test_other_position_encodings_are_refused(language: dict[str, Any], reason: str) -> None:
    model, _ = make(**language)
    with pytest.raises(RecipeError, match=rf"cannot be computed once.*{reason}"):
        ImageKeys(model)


def test_what_is_no_rotation_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = modeling_llama.apply_rotary_pos_emb

    def other(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        return tuple(one.flip(-1) for one in plain(query.flip(-1), key.flip(-1), cos, sin))

    monkeypatch.setattr(modeling_llama, "apply_rotary_pos_emb", other)
    model, _ = make()
    with pytest.raises(RecipeError, match="'llama', because the keys of its layer 0 are no rot"):
        ImageKeys(model)


def test_a_fingerprint_names_weights_and_architecture(tmp_path: Any) -> None:
    model, _ = make()
    name = fingerprint(model)
    model.save_pretrained(tmp_path)
    assert fingerprint(load_pretrained_model(tmp_path)) == name
    assert fingerprint(make(scope="image")[0]) != name
    other = make()[0]
    assert fingerprint(other) == name
    seen = watch(other)
    assert watch(other) == seen
    with torch.no_grad():
        other.language_model.get_input_embeddings().weight[3, 5] += 1e-3
    assert fingerprint(other) != name
    assert watch(other) != seen


def load_pretrained_model(folder: Any) -> TriptychForConditionalGeneration:
    return TriptychForConditionalGeneration.from_pretrained(str(folder))


def test_a_checksum_sees_values_places_and_types() -> None:
    one = torch.randn(7, 3)
    swapped = one.clone()
    swapped[0], swapped[1] = one[1], one[0]
    assert checksum(one) == checksum(one.clone())
    assert checksum(one[:, :2]) == checksum(one[:, :2].contiguous())
    assert len({checksum(x) for x in (one, swapped, -one, one.bfloat16(), one[:6])}) == 5
    assert checksum(torch.zeros(0)) == 0
    assert checksum(torch.tensor(True)) != checksum(torch.tensor(False))
    large = torch.zeros((1 << 22) + 3, dtype=torch.uint8)
    early, late = large.clone(), large.clone()
    early[0], late[1 << 23 >> 1] = 1, 1
    assert len({checksum(x) for x in (large, early, late)}) == 3
