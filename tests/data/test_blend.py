from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.data.tiny import answer, data_spec, many, user, write_jsonl

from triptych.data.blend import (
    Concatenate,
    ConcatenatedReader,
    DifferenceReader,
    Differences,
    match_name,
)
from triptych.data.corpus import measure, open_sources
from triptych.data.encode import Encoder
from triptych.data.readers import open_reader
from triptych.data.record import ImagePart, Record
from triptych.data.spec import SourceSpec
from triptych.errors import DataError
from triptych.model.processing import TriptychProcessor

SYSTEM = {"role": "system", "content": "Be brief."}


def singles(folder: Path, count: int) -> Path:
    talks = [
        [SYSTEM, user(f"q{k}", f"{k}.png"), answer(f"a{k}"), user(f"r{k}"), answer(f"b{k}")]
        for k in range(count)
    ]
    return write_jsonl(folder / "singles.jsonl", talks)


def texts(record: Record) -> list[str]:
    return [message.text for message in record.messages]


def names(record: Record) -> list[str]:
    return [str(image.image) for image in record.images]


@pytest.mark.parametrize("count", [1, 2, 7, 50])
@pytest.mark.parametrize("most", [1, 2, 4])
def test_every_record_is_in_one_group_of_each_draw(tmp_path: Path, count: int, most: int) -> None:
    reader = open_reader(singles(tmp_path, count))
    joined = ConcatenatedReader(reader, Concatenate(most=most, draws=3))
    used: Counter[int] = Counter()
    for index in range(len(joined)):
        members = joined.members(index)
        used.update(members)
        assert 1 <= len(members) <= most
        record = joined[index]
        assert names(record) == [f"{k}.png" for k in members]
        wanted = [text for k in members for text in (f"q{k}", f"a{k}", f"r{k}", f"b{k}")]
        assert texts(record) == ["Be brief.", *wanted]
    assert used == dict.fromkeys(range(count), 3)
    if count == 50 and most > 1:
        again = ConcatenatedReader(reader, Concatenate(most=most, draws=3))
        assert [again.members(k) for k in range(len(again))] == [
            joined.members(k) for k in range(len(joined))
        ]
        other = ConcatenatedReader(reader, Concatenate(most=most, draws=3, seed=1))
        assert other.members(0) != joined.members(0)


def test_a_document_cannot_be_joined(tmp_path: Path) -> None:
    document = [{"role": "document", "content": "x"}]
    path = write_jsonl(tmp_path / "a.jsonl", [document, document])
    reader = ConcatenatedReader(open_reader(path), Concatenate(most=2, draws=20))
    with pytest.raises(DataError, match=r"a\.jsonl:\d: only conversations can be joined"):
        [reader[index] for index in range(len(reader))]


def pairs(folder: Path) -> tuple[Path, Path]:
    """Images 1 and 2 with two and one conversations, 3 with none; pairs 1-2, 2-3 and 3-1."""

    def name(k: int) -> str:
        return f"{k:012d}.jpg"

    talks = [
        [SYSTEM, user("one?", f"COCO_train2014_{name(1)}"), answer("1")],
        [user("uno?", name(1)), answer("1"), user("sure?"), answer("yes")],
        [user("two?", name(2)), answer("2")],
    ]
    differ = [
        [user("d0", *(f"CGD_IMG_{name(i)}" for i in (a, b))), answer("x"), user("d1"), answer("y")]
        for a, b in ((1, 2), (2, 3), (3, 1))
    ]
    return write_jsonl(folder / "t.jsonl", talks), write_jsonl(folder / "d.jsonl", differ)


@pytest.mark.parametrize("follow_up", [False, True])
def test_differences_follow_conversations_about_their_images(
    tmp_path: Path, follow_up: bool
) -> None:
    talks, differ = (open_reader(path) for path in pairs(tmp_path))
    spec = Differences(dialogues="t", draws=40, follow_up=follow_up)
    reader = DifferenceReader(differ, talks, spec)
    assert len(reader) == 80, "the pair whose first image has no conversation is left out"
    seen: set[str] = set()
    for index in range(len(reader)):
        record = reader[index]
        asked = [m.text for m in record.messages if m.role == "user"]
        first, last = names(differ[index % 2])
        assert names(record) == [first, last], "each image once, in order"
        shown = {m.text: [str(i.image) for i in m.images] for m in record.messages if m.images}
        opening = asked[0]
        assert opening in (("one?", "uno?") if index % 2 == 0 else ("two?",))
        assert shown[opening] == [first]
        questions = [text for text in asked if text in ("d0", "d1")]
        assert questions in (["d0"], ["d1"], ["d0", "d1"])
        if index % 2:
            assert shown[questions[0]] == [last], "an image without conversation comes with these"
        follow = [text for text in asked if text.startswith("About the ")]
        assert follow_up or not follow
        assert all(asked.index(text) > asked.index(questions[-1]) for text in follow)
        assert [m.role for m in record.messages] == ["user", "assistant"] * len(asked)
        seen.update(asked)
    assert {"one?", "uno?", "two?", "d0", "d1", "sure?"} <= seen
    if follow_up:
        assert {"About the first image: one?", "About the first image: uno?"} & seen


def test_pictures_are_matched_by_the_number_in_their_name() -> None:
    assert match_name(ImagePart("a/COCO_val2014_000000000123.jpg")) == "000000000123"
    assert match_name(ImagePart("CGD_IMG_000000000123")) == "000000000123"
    assert match_name(ImagePart("x/cat.png")) == "cat"


def test_a_recipe_blends_a_source(processor: TriptychProcessor, tmp_path: Path) -> None:
    path = many(tmp_path, 20)
    sources: dict[str, Any] = {
        "plain": SourceSpec(path=path),
        "joined": SourceSpec(path=path, blend=Concatenate(most=2)),
    }
    spec = data_spec(path, sources=sources)
    corpus = measure(spec.sources, Encoder(processor, spec))
    plain, joined = corpus.reports
    assert joined.images == plain.images == sum(k % 4 for k in range(20))
    assert joined.records < plain.records
    wrong = SourceSpec(path=path, blend=Differences(dialogues="none"))
    with pytest.raises(DataError, match="unknown source 'none'"):
        open_sources({"a": wrong})
