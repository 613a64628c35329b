from pathlib import Path
from typing import Any

import pytest
import torch
from tests.model.tiny import answer, picture, tiny_model, tiny_spec, turn
from transformers import AutoModelForImageTextToText, AutoProcessor

import triptych
from triptych.errors import CheckpointError, RecipeError, SpanError
from triptych.model import TriptychForConditionalGeneration, TriptychProcessor
from triptych.model.build import initialise, load_pretrained
from triptych.model.spec import TemplateSpec

MANY = [turn("a", picture(0), picture(1)), answer("b"), turn("c", picture(2))]
ONE = [turn("is there", picture(3))]
GREEDY: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None}


@pytest.fixture
def pair() -> tuple[TriptychForConditionalGeneration, TriptychProcessor]:
    model, processor = tiny_model(template=TemplateSpec(family="compact", tags=True))
    return model.eval(), processor


def inputs(processor: TriptychProcessor, *conversations: Any) -> Any:
    return processor.apply_chat_template(
        list(conversations), tokenize=True, add_generation_prompt=True
    )


def training_batch(processor: TriptychProcessor, images: bool = True) -> dict[str, torch.Tensor]:
    conversation = [turn("a", *([picture(0)] if images else [])), answer("b")]
    prompt = processor.encode(conversation, [(20, 16)] * images)
    tiles = [processor.tiles(picture(0))] if images else []
    return processor.collate([prompt], [tiles], labels=True)


@torch.no_grad()
def test_each_image_stands_at_its_own_place(pair: Any) -> None:
    """DeepSpeed-VisualChat D1: features reached the placeholders in reverse order."""
    model, processor = pair
    batch = inputs(processor, MANY, ONE)
    model.language_model.model.layers = torch.nn.ModuleList()
    model.language_model.model.norm = torch.nn.Identity()
    out = model.language_model.model(inputs_embeds=model.embed(batch["input_ids"], _images(batch)))
    features = model.get_image_features(batch["pixel_values"])
    placeholders = batch["input_ids"] == model.config.image_token_id
    assert torch.equal(out.last_hidden_state[placeholders], features.flatten(0, 1))
    alone = [model.get_image_features(processor_tiles(processor, seed)) for seed in range(4)]
    assert torch.allclose(features, torch.cat(alone), atol=1e-6)


def processor_tiles(processor: TriptychProcessor, seed: int) -> torch.Tensor:
    return torch.from_numpy(processor.tiles(picture(seed)))


def _images(batch: Any) -> Any:
    from triptych.model.vision import Images

    names = ("pixel_values", "tile_features", "tiles_per_image", "images_per_sample")
    return Images(*[batch.get(name) for name in names])


@torch.no_grad()
def test_a_later_image_does_not_change_earlier_logits(pair: Any) -> None:
    model, processor = pair
    batch = inputs(processor, MANY)
    before = model(**batch).logits
    last = (batch["input_ids"] == model.config.image_token_id)[0].nonzero()[-4, 0]
    batch["pixel_values"][-1] = 0
    after = model(**batch).logits
    assert torch.equal(before[:, :last], after[:, :last])
    assert not torch.equal(before[:, last:], after[:, last:])


@torch.no_grad()
def test_text_alone_equals_the_language_model_bit_for_bit(pair: Any) -> None:
    model, processor = pair
    batch = inputs(processor, [turn("no image")])
    ours = model(batch["input_ids"]).logits
    theirs = model.language_model(batch["input_ids"]).logits
    new = slice(model.new_tokens.first, model.new_tokens.first + model.new_tokens.count)
    assert ours[..., new].eq(float("-inf")).all()
    assert torch.equal(ours[..., : new.start], theirs[..., : new.start])


@torch.no_grad()
@pytest.mark.parametrize("change", [{"num_beams": 3}, {"num_return_sequences": 2, "num_beams": 2}])
def test_beams_repeat_whole_samples(pair: Any, change: dict[str, int]) -> None:
    """Repeating tiles one by one would mix up the images of a sample with several."""
    model, processor = pair
    together = model.generate(**inputs(processor, MANY, ONE), **GREEDY, **change)
    copies = change.get("num_return_sequences", 1)
    for row, conversation in enumerate((MANY, ONE)):
        alone = model.generate(**inputs(processor, conversation), **GREEDY, **change)
        found = together[row * copies : (row + 1) * copies, -5:]
        assert found.tolist() == alone[:, -5:].tolist()


@torch.no_grad()
def test_sampling_and_penalties_never_emit_an_image_token(pair: Any) -> None:
    model, processor = pair
    out = model.generate(
        **inputs(processor, MANY), max_new_tokens=40, do_sample=True, temperature=5.0,
        repetition_penalty=1.3, num_return_sequences=4, eos_token_id=None,
    )  # fmt: skip
    assert out[:, -40:].max() < model.new_tokens.first


@torch.no_grad()
def test_cached_features_equal_pixels(pair: Any) -> None:
    model, processor = pair
    batch = inputs(processor, MANY, ONE)
    expected = model(**batch).logits
    batch["tile_features"] = model.encode_tiles(batch.pop("pixel_values"))
    assert torch.equal(model(**batch).logits, expected)


def test_wrong_counts_name_sample_and_image(pair: Any) -> None:
    model, processor = pair
    batch = inputs(processor, [turn("is there a circle in it?", picture(3))], MANY)
    cut = batch["input_ids"][:, :-8]
    mask = batch["attention_mask"][:, :-8]
    with pytest.raises(SpanError, match="sample 1, image 3: expected 4 placeholders"):
        model(**{**batch, "input_ids": cut, "attention_mask": mask})
    batch.pop("pixel_values")
    with pytest.raises(SpanError, match="tiles_per_image sums to 4, found 0 tiles"):
        model(**batch)


def test_images_of_a_batch_need_their_samples(pair: Any) -> None:
    model, processor = pair
    batch = inputs(processor, ONE, ONE)
    batch.pop("images_per_sample")
    with pytest.raises(SpanError, match="needs images_per_sample"):
        model(**batch)


def test_new_rows_train_and_the_table_does_not(pair: Any) -> None:
    model, processor = pair
    model.train().requires_grad_(False)
    model.new_tokens.requires_grad_(True)
    table = model.get_input_embeddings().weight.clone()
    start, rows = model.new_tokens.weight.clone(), slice(1, 3)
    optimizer = torch.optim.AdamW([model.new_tokens.weight], lr=0.1, weight_decay=0.0)
    model(**training_batch(processor)).loss.backward()
    optimizer.step()
    assert torch.equal(model.get_input_embeddings().weight, table)
    assert (model.new_tokens.weight[rows] != start[rows]).all()
    assert torch.equal(model.new_tokens.weight[0], start[0]), "the placeholder is always replaced"


def test_gradient_checkpointing_changes_nothing(pair: Any) -> None:
    model, processor = pair
    gradients = []
    for checkpointing in (False, True):
        model.train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.zero_grad()
        model(**training_batch(processor)).loss.backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert model.is_gradient_checkpointing
    assert len(gradients[0]) == len(list(model.parameters()))
    assert all(torch.allclose(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("freeze_towers", [False, True])
def test_text_batches_give_every_trainable_part_a_gradient(pair: Any, freeze_towers: bool) -> None:
    """Without it, a rank whose batch has no image hangs the others."""
    model, processor = pair
    model.train()
    model.towers.requires_grad_(not freeze_towers)
    batch = training_batch(processor, images=False)
    model(**batch).loss.backward()
    missing = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []
    assert all(p.grad.eq(0).all() for p in model.connector.parameters())
    expected = model.eval()(**batch).loss
    assert torch.equal(model.train()(**batch).loss, expected)


def test_frozen_towers_run_without_autograd(pair: Any) -> None:
    model, processor = pair
    model.towers.requires_grad_(False)
    pixels = processor_tiles(processor, 0)
    assert not model.encode_tiles(pixels).requires_grad
    model.towers.requires_grad_(True)
    assert model.encode_tiles(pixels).requires_grad


@torch.no_grad()
def test_sharded_checkpoint_restores_architecture_and_logits(tmp_path: Path) -> None:
    model, processor = tiny_model(template=TemplateSpec(family="plain", tags=True))
    model.save_pretrained(tmp_path, max_shard_size="50KB")
    processor.save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    loaded, reread = load_pretrained(tmp_path)
    batch = inputs(reread, MANY, ONE)
    expected = model.eval()(**inputs(processor, MANY, ONE)).logits
    assert torch.equal(loaded(**batch).logits, expected)
    triptych.register()
    auto = AutoModelForImageTextToText.from_pretrained(tmp_path, device_map={"": "cpu"})
    assert isinstance(auto, TriptychForConditionalGeneration)
    assert isinstance(AutoProcessor.from_pretrained(tmp_path), TriptychProcessor)
    assert torch.equal(auto(**batch).logits, expected)
    assert auto.generation_config.eos_token_id == processor.end_token_id


def test_a_checkpoint_with_missing_weights_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model, processor = tiny_model()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    kept = {k: v for k, v in load_file(file).items() if not k.startswith("connector")}
    save_file(kept, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="4 weights are missing, the first is 'connector"):
        load_pretrained(tmp_path)


def test_the_seed_decides_the_weights_and_leaves_the_caller_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, _ = tiny_model(seed=1)
    assert torch.equal(torch.rand(3), expected)
    again, _ = tiny_model(seed=1)
    other, _ = tiny_model(seed=2)
    weights = [m.connector[0].weight for m in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_trained_tokenizer_needs_texts() -> None:
    with pytest.raises(RecipeError, match="trained on the texts of the data"):
        initialise(tiny_spec())


def test_loading_builds_on_the_meta_device() -> None:
    model, _ = tiny_model()
    with torch.device("meta"):
        empty = TriptychForConditionalGeneration(model.config)
    assert all(p.is_meta for p in empty.parameters())
    assert set(empty.state_dict()) == set(model.state_dict())
