from pathlib import Path

import pytest
from tests.synth.tiny_packages import SYNSETS, write_wordnet

from triptych.errors import DataError
from triptych.synth.words.wordnet import WordNet


@pytest.fixture(scope="module")
def wordnet(tmp_path_factory: pytest.TempPathFactory) -> WordNet:
    folder = tmp_path_factory.mktemp("wordnet") / "wordnet"
    write_wordnet(folder, SYNSETS)
    return WordNet(folder)


def test_a_noun_has_its_meaning_and_what_it_is_a_kind_of(wordnet: WordNet) -> None:
    (dog,) = wordnet.senses("dog")
    assert dog.words == ("dog", "barker")
    assert dog.meaning == "a member of the genus Canis", "without the example"
    assert [kind.words[0] for kind in wordnet.kinds(dog)] == ["animal", "organism", "entity"]
    assert wordnet.senses("barker") == [dog]
    assert "apple tree" in wordnet
    assert "Canis" not in wordnet


@pytest.mark.parametrize(
    ("label", "noun"),
    [
        ("red apple", "apple"),
        ("cherries", "cherry"),
        ("mice", "mouse"),
        ("foxes", "fox"),
        ("buses", "bus"),
        ("old apple tree", "apple tree"),
        ("apple with car", "apple"),
        ("Dog", "dog"),
        ("ciliegia rossa", None),
        ("of", None),
        ("", None),
    ],
)
def test_the_head_of_a_label(wordnet: WordNet, label: str, noun: str | None) -> None:
    assert wordnet.head(label) == noun


def test_words_of_any_kind(wordnet: WordNet) -> None:
    known = [word for word in ("red", "run", "apples", "with", "rossa") if wordnet.is_word(word)]
    assert known == ["red", "run", "apples", "with"]


def test_every_noun_comes_with_the_senses_that_texts_have(wordnet: WordNet) -> None:
    nouns = dict(wordnet.nouns())
    assert nouns["apple tree"] == 1
    assert len(nouns) == 26


def test_another_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"index\.noun: no such file"):
        WordNet(tmp_path)
    write_wordnet(tmp_path / "w", SYNSETS)
    data = tmp_path / "w" / "data.noun"
    data.write_text(data.read_text().replace(" 05 n ", " 05 n x"))
    with pytest.raises(DataError, match="not a line of WordNet's"):
        WordNet(tmp_path / "w").senses("dog")
