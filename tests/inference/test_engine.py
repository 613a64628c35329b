from pathlib import Path
from typing import Any

import pytest
import torch
from tests.inference.tiny import save_model, tiny_engine, user

from triptych.errors import CheckpointError, ContextError, ImageError
from triptych.inference.engine import Engine, load_engine
from triptych.inference.sampling import SamplingSpec

SHORT = SamplingSpec(max_new_tokens=12)


def conversations(pictures: list[Path]) -> list[list[dict[str, Any]]]:
    """Text alone, one image, several images, images in a later round: lengths well mixed."""
    first, second, third, fourth = pictures
    return [
        [user("compare them", first, second, third, fourth)],
        [{"role": "user", "content": "hello"}],
        [user("what is this?", second)],
        [
            user("what is this?", first),
            {"role": "assistant", "content": "a circle"},
            user("and image 2?", third),
        ],
        [{"role": "system", "content": "be short"}, user("is there a circle?", fourth, first)],
    ]


def test_a_batch_answers_like_one_by_one_and_in_order(engine: Engine, pictures: list[Path]) -> None:
    asked = conversations(pictures)
    alone = [engine.answer([one], SHORT)[0] for one in asked]
    assert len(set(alone)) > 2
    assert engine.answer(asked, SHORT) == alone
    assert engine.answer(asked[::-1], SHORT) == alone[::-1]


def test_small_batches_answer_like_large_ones(engine: Engine, pictures: list[Path]) -> None:
    asked = conversations(pictures)
    small = Engine(engine.model, engine.processor, batch_tokens=40)
    assert small.answer(asked, SHORT) == engine.answer(asked, SHORT)


def test_left_padding_leaves_the_next_token_as_it_is(engine: Engine) -> None:
    asked = [[{"role": "user", "content": text}] for text in ("hi", "a much longer question?")]
    prompts = [one.prompt for one in engine.requests(asked)]
    with torch.no_grad():
        batch = engine.processor.collate(prompts, [[], []], padding_side="left")
        together = engine.model(**batch).logits[:, -1]
        alone = [engine.model(torch.tensor([prompt.input_ids])).logits[0, -1] for prompt in prompts]
    assert not batch["attention_mask"].all()
    torch.testing.assert_close(together, torch.stack(alone))


def test_shared_prefixes_answer_like_whole_prompts(engine: Engine, pictures: list[Path]) -> None:
    asked = conversations(pictures)
    asked += [[user(text, pictures[0])] for text in ("red?", "is it red?", "is it red or blue?")]
    asked += [[user("is it red?", pictures[1])], asked[0]]
    plain = engine.respond(asked, SHORT)
    assert engine.respond(asked, SHORT, share_prefixes=True) == plain
    small = Engine(engine.model, engine.processor, batch_tokens=100)
    assert small.respond(asked, SHORT, share_prefixes=True) == plain


def test_the_answer_is_what_argmax_over_full_forwards_gives(
    engine: Engine, pictures: list[Path]
) -> None:
    request = engine.requests([[user("what is this?", pictures[0], pictures[1])]])[0]
    answer = engine.complete([request], SHORT)[0]
    ids = list(request.prompt.input_ids)
    tiles = [engine.processor.tiles(picture_image(p)) for p in pictures[:2]]
    for token in answer.tokens:
        pixels = torch.cat([torch.from_numpy(one) for one in tiles])
        with torch.no_grad():
            logits = engine.model(
                input_ids=torch.tensor([ids]),
                pixel_values=pixels,
                tiles_per_image=torch.tensor([1, 1]),
                images_per_sample=torch.tensor([2]),
            ).logits
        assert int(logits[0, -1].argmax()) == token
        ids.append(token)


def picture_image(path: Path) -> Any:
    from triptych.images.decode import open_image

    return open_image(path)


def test_every_image_is_encoded_once(engine: Engine, pictures: list[Path], tmp_path: Path) -> None:
    fresh = Engine(engine.model, engine.processor)
    copy = tmp_path / "copy.png"
    copy.write_bytes(pictures[0].read_bytes())
    looked = fresh.vision.look_all([pictures[0], str(copy), pictures[0].read_bytes(), pictures[1]])
    assert len({picture.key for picture in looked}) == 2
    first = fresh.vision.features(looked)
    again = fresh.vision.features(looked)
    assert all(one is other for one, other in zip(first, again, strict=True))
    assert first[0] is first[1] is first[2]


def test_forgetting_features_changes_no_answer(engine: Engine, pictures: list[Path]) -> None:
    asked = conversations(pictures)
    forgetful = Engine(engine.model, engine.processor)
    forgetful.vision._limit = 1
    assert forgetful.answer(asked, SHORT) == engine.answer(asked, SHORT)


def test_the_end_token_stops_and_is_not_part_of_the_answer(engine: Engine) -> None:
    end = engine.processor.end_token_id
    assert end in engine.stop_ids
    answer = engine.finish([40, 41, end, 42], 7, SHORT)
    assert answer.tokens == (40, 41)
    assert (answer.finish_reason, answer.prompt_tokens) == ("stop", 7)
    assert engine.finish([40, 41], 7, SHORT).finish_reason == "length"


def test_an_immediate_end_token_is_an_empty_answer(engine: Engine) -> None:
    answer = engine.finish([engine.processor.end_token_id], 7, SHORT)
    assert (answer.text, answer.tokens, answer.finish_reason) == ("", (), "stop")


def test_a_stop_string_cuts_the_answer(engine: Engine, pictures: list[Path]) -> None:
    asked = [[user("what is this?", picture)] for picture in pictures]
    whole = engine.answer(asked, SHORT)
    stop = next(text for text in whole if len(text) > 3)[2]
    cut = engine.answer(asked, SHORT.model_copy(update={"stop": (stop,)}))
    assert cut == [text.split(stop)[0].strip() for text in whole]


def test_sampling_follows_its_seed(engine: Engine) -> None:
    asked = [[{"role": "user", "content": "hello"}]]
    hot = SamplingSpec(max_new_tokens=16, temperature=1.5, top_p=0.95, top_k=50, seed=3)
    state = torch.random.get_rng_state()
    assert engine.answer(asked, hot) == engine.answer(asked, hot)
    assert torch.equal(state, torch.random.get_rng_state())
    assert engine.answer(asked, hot) != engine.answer(asked, hot.model_copy(update={"seed": 4}))


def test_a_full_context_is_refused_before_running() -> None:
    engine = tiny_engine(positions=32)
    asked = [[{"role": "user", "content": text}] for text in ("", "how are you today?")]
    with pytest.raises(ContextError, match=r"conversation 2: \d+ tokens .* 29 .* context of 32"):
        engine.answer(asked, SamplingSpec(max_new_tokens=29))


def test_a_missing_image_is_named(engine: Engine) -> None:
    with pytest.raises(ImageError, match=r"absent\.png"):
        engine.answer([[user("what?", "absent.png")]])


def test_answering_restores_the_training_mode(engine: Engine) -> None:
    engine.model.train()
    engine.answer([[{"role": "user", "content": "hi"}]], SHORT)
    assert engine.model.training
    engine.model.eval()


def test_a_model_folder_and_a_run_folder_open(
    engine: Engine, pictures: list[Path], tmp_path: Path
) -> None:
    save_model(engine, tmp_path / "run" / "model")
    asked = conversations(pictures)
    expected = engine.answer(asked, SHORT)
    for path in (tmp_path / "run", tmp_path / "run" / "model"):
        assert load_engine(path, device="cpu").answer(asked, SHORT) == expected


def test_what_was_looked_for_is_said(tmp_path: Path) -> None:
    (tmp_path / "unfinished" / "checkpoints").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"does not exist.*config\.json"):
        load_engine(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="has not finished"):
        load_engine(tmp_path / "unfinished")
