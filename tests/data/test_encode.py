from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.data.tiny import answer, data_spec, many, paint, tiny_processor, user

from triptych.data.encode import Encoder, RecordImageError, SampleSize
from triptych.data.readers import open_reader
from triptych.data.schema import Record, parse_record
from triptych.errors import DataError
from triptych.model.processing import TriptychProcessor

SHADES = {"a.png": 10, "b.png": 120, "c.png": 230}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures")
    for name, shade in SHADES.items():
        paint(path, name, shade)
    return path


def record(folder: Path, *messages: dict[str, Any]) -> Record:
    return parse_record({"messages": list(messages)}, "f.jsonl:3", folder)


def encoder(processor: TriptychProcessor, folder: Path, **fields: Any) -> Encoder:
    return Encoder(processor, data_spec(folder / "none.jsonl", **fields))


def rounds(folder: Path) -> Record:
    """A system message, then three rounds with one, none and two images."""
    return record(
        folder,
        {"role": "system", "content": "Be brief."},
        user("is there a circle?", "a.png"),
        answer("no"),
        user("what color?"),
        answer("yes"),
        user("compare", "b.png", "c.png"),
        answer("no no"),
    )


def test_a_prompt_is_what_the_processor_makes(processor: TriptychProcessor, folder: Path) -> None:
    sample = encoder(processor, folder).sample(rounds(folder))
    assert sample is not None
    direct = processor.encode(rounds(folder).to_messages(), [(10, 12)] * 3)
    assert sample.prompt == direct
    assert (sample.tiles, sample.trimmed) == (3, 0)
    assert [stop - start for start, stop in sample.prompt.spans] == [4, 4, 4]


def test_tiles_come_in_the_order_of_the_record(processor: TriptychProcessor, folder: Path) -> None:
    part = record(
        folder, user("x", "c.png", "a.png"), answer("no"), user("y", "b.png"), answer("no")
    )
    tiles = encoder(processor, folder).tiles(part)
    assert [int(tile.mean().round()) for tile in tiles] == [230, 10, 120]
    assert tiles[0].shape == (1, 3, 8, 8)
    assert tiles[0].dtype == np.uint8


def length(processor: TriptychProcessor, messages: list[dict[str, object]]) -> int:
    images = sum(
        part["type"] == "image"
        for message in messages if isinstance(message["content"], list)
        for part in message["content"]
    )  # fmt: skip
    return len(processor.encode(messages, [(10, 12)] * images))


@pytest.mark.parametrize("dropped", [0, 1, 2])
def test_trimming_drops_the_oldest_rounds_and_keeps_images_with_their_rounds(
    processor: TriptychProcessor, folder: Path, dropped: int
) -> None:
    whole = rounds(folder).to_messages()
    left = [whole[0], *whole[1 + 2 * dropped :]]
    limit = length(processor, left)
    cut = encoder(processor, folder, max_tokens=limit, overflow="trim_rounds")
    sample = cut.sample(rounds(folder))
    assert sample is not None
    assert sample.trimmed == dropped
    assert sample.record.to_messages() == left
    assert len(sample.prompt) == limit
    names = ["a.png", "b.png", "c.png"] if dropped == 0 else ["b.png", "c.png"]
    assert len(sample.prompt.spans) == sample.tiles == len(names)
    shades = [int(tile.mean().round()) for tile in cut.tiles(sample.record)]
    assert shades == [SHADES[name] for name in names]


def test_after_trimming_each_image_keeps_its_own_size(
    processor: TriptychProcessor, tmp_path: Path
) -> None:
    for width in (10, 20, 30):
        Image.new("RGB", (width, 12)).save(tmp_path / f"{width}.png")
    tiling = {"kind": "anyres", "grids": [[1, 1], [1, 2], [1, 3]], "overview": "none"}
    wide = TriptychProcessor(
        processor.tokenizer,
        processor.vision | {"tiling": tiling},
        processor.end_token,
        str(processor.chat_template),
    )
    part = record(
        tmp_path, user("x", "10.png"), answer("no"), user("y", "20.png", "30.png"), answer("no")
    )
    whole = encoder(wide, tmp_path).sample(part)
    assert whole is not None
    assert [stop - start for start, stop in whole.prompt.spans] == [4, 8, 12]
    limit = len(whole.prompt) - 1
    cut = encoder(wide, tmp_path, max_tokens=limit, overflow="trim_rounds").sample(part)
    assert cut is not None
    assert [stop - start for start, stop in cut.prompt.spans] == [8, 12]
    assert cut.tiles == 5


def test_no_image_is_ever_cut(processor: TriptychProcessor, folder: Path) -> None:
    for limit in range(1, length(processor, rounds(folder).to_messages()) + 1):
        cut = encoder(processor, folder, max_tokens=limit, overflow="trim_rounds")
        try:
            sample = cut.sample(rounds(folder))
        except DataError:
            continue
        assert sample is not None
        assert len(sample.prompt) <= limit
        ids = sample.prompt.input_ids
        assert ids.count(processor.image_token_id) == 4 * len(sample.record.images)


def test_a_last_round_over_the_context_is_an_error(
    processor: TriptychProcessor, folder: Path
) -> None:
    cut = encoder(processor, folder, max_tokens=20, overflow="trim_rounds")
    with pytest.raises(DataError, match=r"f.jsonl:3: has .* its last round alone has \d+"):
        cut.sample(rounds(folder))


def test_overflow_is_an_error_that_counts_or_a_drop(
    processor: TriptychProcessor, folder: Path
) -> None:
    with pytest.raises(DataError, match=r"f.jsonl:3: has \d+ tokens \(12 of them for 3 images\)"):
        encoder(processor, folder, max_tokens=20).sample(rounds(folder))
    assert encoder(processor, folder, max_tokens=20, overflow="drop").prompt(rounds(folder)) is None


def test_nothing_supervised_is_an_error_that_names_the_record(
    processor: TriptychProcessor, folder: Path
) -> None:
    unlearned = record(folder, user("x", "a.png"), answer("no", loss=False))
    with pytest.raises(DataError, match=r"f.jsonl:3: nothing is supervised"):
        encoder(processor, folder).sample(unlearned)


def test_loss_false_takes_one_answer_out(processor: TriptychProcessor, folder: Path) -> None:
    messages = [user("x"), answer("no"), user("y"), answer("yes")]
    both = encoder(processor, folder).prompt(record(folder, *messages))
    messages[1] = answer("no", loss=False)
    one = encoder(processor, folder).prompt(record(folder, *messages))
    assert both is not None
    assert one is not None
    assert both.input_ids == one.input_ids
    assert 0 < sum(one.supervised) < sum(both.supervised)


def test_documents_are_supervised(processor: TriptychProcessor, folder: Path) -> None:
    document = user("a circle", "a.png", "b.png")
    document["role"] = "document"
    sample = encoder(processor, folder).sample(record(folder, document))
    assert sample is not None
    assert sample.tiles == 2
    assert any(sample.prompt.supervised)


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([answer("no")], "begins with a user message"),
        ([user("x <image> y"), answer("no")], "placeholder '<image>'"),
    ],
)
def test_a_bad_conversation_is_named(
    processor: TriptychProcessor, folder: Path, messages: list[dict[str, Any]], expected: str
) -> None:
    with pytest.raises(DataError, match=expected) as caught:
        encoder(processor, folder).sample(record(folder, *messages))
    assert str(caught.value).startswith("f.jsonl:3")


def test_a_bad_image_is_named_with_its_number(processor: TriptychProcessor, folder: Path) -> None:
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:48])
    for name in ("gone.png", "cut.png"):
        bad = record(folder, user("x", "a.png", name), answer("no"))
        with pytest.raises(RecordImageError, match=r"f.jsonl:3: image 2: ") as caught:
            encoder(processor, folder).tiles(bad)
        assert name in str(caught.value)
        assert caught.value.image == name


def test_the_size_pass_agrees_with_tokenising_each_record(
    processor: TriptychProcessor, tmp_path: Path
) -> None:
    """Sizes and tokens from texts seen before equal those of a processor that remembers nothing."""
    path = many(tmp_path, 60)
    reader = open_reader(path)
    quick, plain = Encoder(processor, data_spec(path)), tiny_processor()
    for index in [*range(60), *range(0, 60, 7)]:
        record = reader[index]
        prompt = plain.encode(record.to_messages(), [(10, 12)] * len(record.images))
        assert quick.size(record) == SampleSize(len(prompt), len(record.images), len(record.images))
        assert quick.prompt(record) == prompt
