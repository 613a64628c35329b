import json
from pathlib import Path

import pytest
import torch
from tests.inference.tiny import tiny_engine, user

from triptych.data.schema import parse_record
from triptych.errors import ContextError, DataError, ImageError
from triptych.images.decode import open_image
from triptych.inference.conversation import Conversation
from triptych.inference.engine import Engine
from triptych.inference.sampling import SamplingSpec
from triptych.model.spec import TemplateSpec

SHORT = SamplingSpec(max_new_tokens=8)
FAMILIES = ("compact", "plain", "mistral")


def full_logits(talk: Conversation, images: list[Path]) -> torch.Tensor:
    """Logits of the next token by one forward over all tokens, from pixels, without a cache."""
    engine = talk.engine
    tiles = [torch.from_numpy(engine.processor.tiles(open_image(image))) for image in images]
    with torch.no_grad():
        return engine.model(
            input_ids=torch.tensor([talk.ids]),
            pixel_values=torch.cat(tiles) if tiles else None,
            tiles_per_image=torch.tensor([len(one) for one in tiles]),
            images_per_sample=torch.tensor([len(tiles)]),
        ).logits[:, -1]


@pytest.mark.parametrize("family", FAMILIES)
def test_cached_rounds_give_the_logits_of_a_full_forward(family: str, pictures: list[Path]) -> None:
    template = TemplateSpec.model_validate({"family": family, "numbered": "before"})
    talk = Conversation(tiny_engine(template=template), "be short", SHORT)
    talk.reply("what is this?", pictures[:2])
    talk.reply("and now, in words?")
    talk.ask("what about image 3?", [pictures[2]])
    assert 0 < talk.cached_tokens < len(talk.ids)
    logits = talk._run()
    assert talk.cached_tokens == len(talk.ids)
    torch.testing.assert_close(logits, full_logits(talk, pictures[:3]))


LANGUAGES = {
    "mistral with a window": {"model_type": "mistral", "sliding_window": 24},
    "qwen2": {"model_type": "qwen2"},
    "qwen3": {"model_type": "qwen3", "head_dim": 8},
    "gemma": {"model_type": "gemma", "head_dim": 8},
    "gemma3 with windows": {
        "model_type": "gemma3_text",
        "head_dim": 8,
        "sliding_window": 24,
        "layer_types": ["sliding_attention", "full_attention"],
    },
}


@pytest.mark.parametrize("name", LANGUAGES)
def test_other_language_models_keep_their_cache_too(name: str, pictures: list[Path]) -> None:
    engine = tiny_engine(**LANGUAGES[name])
    assert engine.shares_prefixes == ("window" not in name)
    talk = Conversation(engine, sampling=SHORT)
    talk.reply("what is this, and what is that?", pictures[:2])
    talk.reply("never mind", pictures[2:3])
    talk.undo()
    talk.reply("and now, in words?")
    assert len(talk.ids) > 48
    talk.ask("what about image 3?", pictures[3:])
    torch.testing.assert_close(talk._run(), full_logits(talk, [*pictures[:2], pictures[3]]))
    asked = [[user(text, *pictures[:2])] for text in ("red?", "is it red?", "is it blue?")]
    plain = engine.respond(asked, SHORT)
    assert engine.respond(asked, SHORT, share_prefixes=True) == plain
    assert [engine.respond([one], SHORT)[0] for one in asked] == plain


def test_a_round_runs_only_its_own_tokens(engine: Engine, pictures: list[Path]) -> None:
    talk = Conversation(engine, sampling=SHORT)
    talk.reply("what is this?", pictures[:1])
    before, known = talk.cached_tokens, list(talk.ids)
    talk.ask("and this?", pictures[1:2])
    assert talk.ids[: len(known)] == known
    assert talk.cached_tokens == before
    assert before >= len(known) - 1


def test_generated_tokens_are_kept_where_their_text_encodes_otherwise(engine: Engine) -> None:
    talk = Conversation(engine, sampling=SHORT)
    talk.reply("hello")
    first = talk.rounds[0]
    letters = [engine.processor.tokenizer.convert_tokens_to_ids(letter) for letter in "yes"]
    merged = engine.processor.tokenizer("yes")["input_ids"]
    assert letters != merged
    talk.ids = talk.ids[: first.prompt_tokens] + letters
    first.stream.ids[:] = letters
    talk._kept.crop(first.prompt_tokens)
    assert first.answer.text == "yes"
    talk.ask("why?")
    fresh = engine.processor.encode(talk.messages()[:-1], [], add_generation_prompt=True).input_ids
    assert talk.ids == [
        *fresh[: first.prompt_tokens],
        *letters,
        *fresh[first.prompt_tokens + len(merged) :],
    ]


def test_first_round_answers_like_the_engine(engine: Engine, pictures: list[Path]) -> None:
    talk = Conversation(engine, sampling=SHORT)
    answer = talk.reply("compare image 1 and image 2", pictures[:2])
    assert (
        answer == engine.respond([[user("compare image 1 and image 2", *pictures[:2])]], SHORT)[0]
    )


def test_pieces_join_to_the_answer(engine: Engine, pictures: list[Path]) -> None:
    talk = Conversation(engine, sampling=SamplingSpec(max_new_tokens=40, temperature=2.0, seed=1))
    pieces = list(talk.ask("go on", pictures[:1]))
    assert len(pieces) > 3
    assert "".join(pieces) == talk.rounds[-1].answer.text


def test_images_are_numbered_over_the_conversation(engine: Engine, pictures: list[Path]) -> None:
    talk = Conversation(engine, sampling=SHORT)
    talk.reply("one", pictures[:2])
    parts = [{"type": "text", "text": "two"}, {"type": "image", "image": pictures[2]}]
    talk.reply(parts)
    assert [(image.number, image.picture.source) for image in talk.images] == [
        (1, pictures[0]),
        (2, pictures[1]),
        (3, pictures[2]),
    ]
    assert "two" + "Image 3:" in engine.processor.tokenizer.decode(talk.ids)


def test_undo_equals_never_having_asked(engine: Engine, pictures: list[Path]) -> None:
    talk, other = (Conversation(engine, "system", SHORT) for _ in range(2))
    for one in (talk, other):
        one.reply("what is this?", pictures[:1])
    talk.reply("something else", pictures[1:3])
    assert talk.undo()
    assert talk.ids == other.ids
    assert talk.cached_tokens <= len(talk.ids)
    assert talk.reply("and this?", pictures[3:]) == other.reply("and this?", pictures[3:])
    torch.testing.assert_close(talk._kept._cache.layers[0].keys, other._kept._cache.layers[0].keys)


def test_undo_to_the_start_and_clear_equal_a_fresh_conversation(
    engine: Engine, pictures: list[Path]
) -> None:
    expected = Conversation(engine, "system", SHORT).reply("what is this?", pictures[:1])
    for empty in ("undo", "clear"):
        talk = Conversation(engine, "system", SHORT)
        talk.reply("other", pictures[2:])
        assert talk.undo() if empty == "undo" else talk.clear() is None
        assert not talk.images
        assert talk.reply("what is this?", pictures[:1]) == expected
    assert not Conversation(engine).undo()


@pytest.mark.parametrize("pieces", [0, 1, 2])
def test_an_interrupted_stream_leaves_a_conversation_that_goes_on(
    engine: Engine, pictures: list[Path], pieces: int
) -> None:
    talk = Conversation(engine, sampling=SHORT)
    stream = talk.ask("tell me", pictures[:1])
    got = [next(stream) for _ in range(pieces)]
    stream.close()
    assert talk.rounds[-1].answer.finish_reason == "interrupted"
    assert talk.rounds[-1].answer.text.startswith("".join(got))
    talk.ask("and then?", pictures[1:2])
    torch.testing.assert_close(talk._run(), full_logits(talk, pictures[:2]))


def test_a_stale_stream_adds_nothing(engine: Engine) -> None:
    talk = Conversation(engine, sampling=SHORT)
    old = talk.ask("one")
    talk.reply("two")
    ids = list(talk.ids)
    assert list(old) == []
    assert talk.ids == ids


def test_a_failure_inside_the_model_leaves_a_conversation_that_goes_on(
    engine: Engine, pictures: list[Path]
) -> None:
    talk = Conversation(engine, sampling=SHORT)
    talk.reply("one", pictures[:1])

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    hook = engine.model.language_model.get_decoder().layers[1].register_forward_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        talk.reply("two", pictures[1:2])
    hook.remove()
    assert talk.undo()
    talk.ask("three", pictures[2:3])
    torch.testing.assert_close(talk._run(), full_logits(talk, [pictures[0], pictures[2]]))


def test_an_empty_answer_is_a_round_like_others(engine: Engine, pictures: list[Path]) -> None:
    talk = Conversation(engine, sampling=SHORT)
    talk.engine = Engine(engine.model, engine.processor)
    talk.engine.stop_ids = frozenset(range(len(engine.processor.tokenizer)))
    answer = talk.reply("say nothing", pictures[:1])
    assert (answer.text, answer.finish_reason, answer.tokens) == ("", "stop", ())
    talk.engine = engine
    talk.ask("and now?", pictures[1:2])
    torch.testing.assert_close(talk._run(), full_logits(talk, pictures[:2]))
    talk.reply("say something")
    losses = [one.get("loss") for one in talk.record()["messages"] if one["role"] == "assistant"]
    assert losses == [False, False, None]


def test_a_full_context_is_said_before_running_and_changes_nothing(pictures: list[Path]) -> None:
    talk = Conversation(tiny_engine(positions=120), sampling=SHORT)
    talk.reply("what is this?", pictures[:1])
    state = (list(talk.ids), talk.cached_tokens, len(talk.rounds))
    with pytest.raises(ContextError, match=r"\d+ tokens .* 8 for the answer .* context of 120"):
        talk.ask("a very long question " * 10, pictures[1:2])
    assert state == (talk.ids, talk.cached_tokens, len(talk.rounds))
    talk.reply("short?")


def test_the_oldest_rounds_go_where_that_is_allowed(pictures: list[Path]) -> None:
    engine = tiny_engine(positions=120)
    talk = Conversation(engine, "system", SHORT, drop_oldest=True)
    for picture in pictures:
        talk.reply("what is this picture of, please?", [picture])
        assert len(talk.ids) <= 120
    assert talk.dropped > 0
    assert len(talk.rounds) + talk.dropped == 4
    kept = pictures[talk.dropped :]
    assert [image.number for image in talk.images] == list(range(1, len(kept) + 1))
    talk.ask("last?")
    torch.testing.assert_close(talk._run(), full_logits(talk, kept[-len(talk.images) :]))
    assert talk.undo()
    assert talk.messages()[0]["role"] == "system"


def test_undo_after_dropping_crops_at_the_right_token(pictures: list[Path]) -> None:
    talk = Conversation(tiny_engine(positions=150), sampling=SHORT, drop_oldest=True)
    while not talk.dropped:
        talk.reply("what is this?", pictures[:1])
    assert len(talk.rounds) > 1
    talk.undo()
    talk.ask("and?", pictures[1:2])
    shown = [Path(str(image.picture.source)) for image in talk.images]
    torch.testing.assert_close(talk._run(), full_logits(talk, shown))


def test_a_round_too_large_alone_is_refused_even_with_dropping(pictures: list[Path]) -> None:
    talk = Conversation(tiny_engine(positions=100), sampling=SHORT, drop_oldest=True)
    talk.reply("hello")
    with pytest.raises(ContextError):
        talk.ask("long " * 60)
    assert len(talk.rounds) == 1


def test_a_bad_image_changes_nothing(engine: Engine, tmp_path: Path) -> None:
    talk = Conversation(engine, sampling=SHORT)
    talk.reply("hello")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    ids = list(talk.ids)
    for bad in (broken, tmp_path / "absent.png"):
        with pytest.raises(ImageError, match=bad.name):
            talk.ask("what?", [bad])
    assert talk.ids == ids
    assert len(talk.rounds) == 1


def test_an_unanswered_conversation_has_no_record(engine: Engine) -> None:
    with pytest.raises(DataError, match="no answered round"):
        Conversation(engine).record()


def test_images_of_every_kind_come_back_from_a_record(engine: Engine, pictures: list[Path]) -> None:
    sources = [pictures[0], pictures[0].read_bytes(), open_image(pictures[0])]
    talk = Conversation(engine, sampling=SHORT)
    talk.reply("compare them", sources)
    record = parse_record(json.loads(json.dumps(talk.record())), "talk")
    opened = [open_image(part.location) for part in record.images]
    assert len(opened) == 3
    assert all(image.tobytes() == opened[0].tobytes() for image in opened)
    assert record.messages[0].text == "compare them"
