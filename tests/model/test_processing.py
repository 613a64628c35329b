from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.model.tiny import answer, picture, tiny_model, turn

from triptych.errors import DataError
from triptych.model.build import load_processor
from triptych.model.spec import TemplateSpec

_, PROCESSOR = tiny_model(template=TemplateSpec(family="compact", numbered="before", tags=True))

WORDS = st.text(alphabet="abc ?\n", max_size=8)
ROUNDS = st.lists(st.tuples(WORDS, st.integers(0, 2), WORDS, st.booleans()), min_size=1, max_size=4)


def build(rounds: list[tuple[str, int, str, bool]]) -> tuple[list[Any], list[tuple[int, int]]]:
    messages: list[Any] = []
    sizes: list[tuple[int, int]] = []
    for question, images, reply, loss in rounds:
        messages += [turn(question, *[picture(0)] * images), {**answer(reply), "loss": loss}]
        sizes += [(20, 16)] * images
    return messages, sizes


@given(ROUNDS)
def test_prompt_tokens_are_a_prefix_of_training_tokens(
    rounds: list[tuple[str, int, str, bool]],
) -> None:
    """Golden: tokens of rounds 1..k in training equal the prompt tokens at inference."""
    messages, sizes = build(rounds)
    whole = PROCESSOR.encode(messages, sizes)
    for k in range(len(rounds)):
        images = sum(r[1] for r in rounds[: k + 1])
        prompt = PROCESSOR.encode(messages[: 2 * k + 1], sizes[:images], add_generation_prompt=True)
        assert whole.input_ids[: len(prompt)] == prompt.input_ids
        assert not any(prompt.supervised[-1:])


@given(ROUNDS)
def test_only_answers_with_loss_are_supervised(rounds: list[tuple[str, int, str, bool]]) -> None:
    prompt = PROCESSOR.encode(*build(rounds))
    supervised = [t for t, s in zip(prompt.input_ids, prompt.supervised, strict=True) if s]
    expected: list[int] = []
    for _, _, reply, loss in rounds:
        if loss:
            expected += PROCESSOR.tokenizer(reply)["input_ids"] + [PROCESSOR.end_token_id]
    assert supervised == expected


@given(ROUNDS)
def test_spans_cover_exactly_the_placeholders(rounds: list[tuple[str, int, str, bool]]) -> None:
    prompt = PROCESSOR.encode(*build(rounds))
    places = [i for i, t in enumerate(prompt.input_ids) if t == PROCESSOR.image_token_id]
    assert places == [i for start, stop in prompt.spans for i in range(start, stop)]
    assert all(stop - start == PROCESSOR.count(20, 16) for start, stop in prompt.spans)


@pytest.mark.parametrize(("parts", "sizes"), [(1, 0), (1, 2), (0, 1)])
def test_images_and_sizes_must_agree(parts: int, sizes: int) -> None:
    with pytest.raises(DataError, match="image"):
        PROCESSOR.encode([turn("a", *[picture(0)] * parts)], [(20, 16)] * sizes)


def test_collate_pads_masks_and_labels_on_the_asked_side() -> None:
    prompts = [PROCESSOR.encode([turn("a"), answer("b")], []), PROCESSOR.encode([turn("abc")], [])]
    for side in ("left", "right"):
        batch = PROCESSOR.collate(prompts, [[], []], padding_side=side, labels=True)  # type: ignore[arg-type]
        for row, prompt in enumerate(prompts):
            kept = batch["attention_mask"][row].bool()
            assert batch["input_ids"][row][kept].tolist() == prompt.input_ids
            assert (batch["labels"][row] != -100).sum() == sum(prompt.supervised)
            assert bool(kept[-1 if side == "left" else 0])
        assert batch["images_per_sample"].tolist() == [0, 0]
        assert "pixel_values" not in batch


def test_features_travel_instead_of_pixels() -> None:
    prompt = PROCESSOR.encode([turn("a", picture(0))], [(20, 16)])
    features = np.zeros((1, 4, 16), dtype=np.float16)
    batch = PROCESSOR.collate([prompt], [[features]])
    assert batch["tile_features"].dtype == torch.float16
    assert "pixel_values" not in batch


def test_saved_processor_equals_the_original(tmp_path: Path) -> None:
    PROCESSOR.save_pretrained(tmp_path)
    loaded = load_processor(tmp_path)
    messages, sizes = build([("what", 2, "yes", True)])
    assert loaded.encode(messages, sizes) == PROCESSOR.encode(messages, sizes)
    assert loaded.settings == PROCESSOR.settings
    assert np.array_equal(loaded.tiles(picture(1)), PROCESSOR.tiles(picture(1)))


def test_call_and_template_give_the_same_inputs() -> None:
    messages = [turn("what", picture(0), picture(1))]
    text = PROCESSOR.apply_chat_template(messages, add_generation_prompt=True)
    called = PROCESSOR(images=[picture(0), picture(1)], text=text)  # type: ignore[arg-type]
    made: Any = PROCESSOR.apply_chat_template(messages, tokenize=True, add_generation_prompt=True)
    assert set(called) == set(made)
    assert all(torch.equal(called[name], made[name]) for name in made)


def test_chat_completions_image_urls_are_understood(tmp_path: Path) -> None:
    picture(0).save(tmp_path / "a b.png")
    part = {"type": "image_url", "image_url": {"url": str(tmp_path / "a b.png")}}
    message = {"role": "user", "content": [part, {"type": "text", "text": "what"}]}
    made: Any = PROCESSOR.apply_chat_template([message], tokenize=True)
    assert torch.equal(made["pixel_values"], torch.from_numpy(PROCESSOR.tiles(picture(0))))


def test_an_image_part_without_an_image_is_named() -> None:
    message = {"role": "user", "content": [{"type": "image", "file": "a.png"}]}
    with pytest.raises(DataError, match="message 1: an image part carries no image"):
        PROCESSOR.apply_chat_template([message], tokenize=True)
