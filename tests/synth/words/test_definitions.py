from collections import Counter
from pathlib import Path

import pytest
from tests.synth.tiny_packages import SYNSETS, write_drawings, write_wordnet

from triptych.cli.main import main
from triptych.data.readers import open_reader
from triptych.data.schema import Record
from triptych.synth.drawings.catalogue import load_catalogue
from triptych.synth.pipeline import build
from triptych.synth.words.definitions import Words

SHARE = 0.3


def read(path: Path) -> list[Record]:
    records = open_reader(path, "jsonl", None)
    return [records[index] for index in range(len(records))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("words")
    write_wordnet(root / "wordnet" / "usr/share/wordnet", SYNSETS)
    build(Words(root / "wordnet", share=SHARE), root / "built")
    return root


def words(records: list[Record]) -> set[str]:
    return {str(record.metadata["word"]) for record in records if record.metadata}


def test_no_word_is_on_both_sides(folder: Path) -> None:
    train, test = (read(folder / "built" / f"{split}.jsonl") for split in ("train", "test"))
    assert words(train)
    assert words(test)
    assert words(train).isdisjoint(words(test))
    assert {record.messages[-1].category for record in train} == {
        "word", "kind", "yes-no", "meaning", "synonym"
    }  # fmt: skip
    assert {record.messages[-1].category for record in test} == {"word", "kind", "yes-no"}
    assert not any(record.images for record in train + test)
    assert {record.license for record in train + test} == {"WordNet-3.0"}


def test_the_split_is_that_of_the_drawings(folder: Path, tmp_path: Path) -> None:
    catalogue = load_catalogue(tuple(write_drawings(tmp_path).items()), SHARE)
    unseen = {one.concept.key for one in catalogue.roles["concept"]}
    assert words(read(folder / "built" / "train.jsonl")).isdisjoint(unseen)


def test_answers_are_right(folder: Path) -> None:
    parents = {words.split()[0]: parents for words, _, parents in SYNSETS}
    meanings = {word: meaning for words, meaning, _ in SYNSETS for word in words.split()}
    for split in ("train", "test"):
        for record in read(folder / "built" / f"{split}.jsonl"):
            text, answer = record.messages[0].text, record.messages[1]
            assert record.metadata is not None
            word = str(record.metadata["word"])
            if answer.category == "word":
                assert meanings[word.replace(" ", "_")].split(";")[0] in text
                assert answer.text == word
            if answer.category == "kind":
                assert answer.text.replace(" ", "_") in parents.get(word, (answer.text,))
            if answer.category == "yes-no":
                kind = text.split('kind of "')[1].rstrip('"?')
                above = list(parents.get(word.replace(" ", "_"), ()))
                for one in above:
                    above += parents[one]
                if word.replace(" ", "_") in parents:
                    assert (answer.text == "yes") == (kind in above)


def test_yes_and_no_are_equally_frequent(folder: Path) -> None:
    answers = Counter(
        record.messages[-1].text
        for record in read(folder / "built" / "train.jsonl")
        if record.messages[-1].category == "yes-no"
    )
    assert answers["yes"] == answers["no"] > 3


def test_the_verb(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["data", "build", "words", "--out", str(tmp_path / "w"), "--workers", "1"]
    assert main([*command, "--source", f"wordnet-base={folder / 'wordnet'}"]) == 0
    assert "WordNet-3.0" in capsys.readouterr().out
