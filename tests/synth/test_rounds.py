import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from triptych.synth.dialogue.rounds import (
    Conversation,
    Question,
    Style,
    balanced,
    conversations,
    converse,
)


def questions(images: int, each: int = 4) -> list[Question]:
    """``each`` questions about every image; the texts say which image and which question."""
    return [
        Question(image, f"question {index} of {image}?", "red", "colour")
        for image in range(images)
        for index in range(each)
    ]


def check(conversation: Conversation, style: Style) -> None:
    """Every round asks about an image that is there, and names it by its number."""
    arrived: list[int] = []
    for one in conversation.rounds:
        arrived += one.arrivals
        number = conversation.images.index(one.question.image) + 1
        assert number in arrived
        if len(conversation.images) > 1:
            assert f"image {number}" in one.text.lower()
        assert one.question.text in one.text
    assert arrived == sorted(arrived)
    assert len(set(arrived)) == len(arrived)
    assert len(conversation.rounds) <= style.rounds
    asked = Counter(one.question.image for one in conversation.rounds)
    assert max(asked.values()) <= style.rounds_per_image


@given(
    st.integers(1, 6),
    st.integers(1, 4),
    st.integers(1, 12),
    st.floats(0, 1),
    st.integers(0, 1000),
)
def test_rounds_ask_about_images_that_are_there(
    count: int, per_image: int, rounds: int, late: float, seed: int
) -> None:
    style = Style({count: 1}, rounds_per_image=per_image, rounds=rounds, late=late)
    table = {image: [q for q in questions(count) if q.image == image] for image in range(count)}
    conversation = converse(range(count), table, style, random.Random(seed))
    check(conversation, style)
    assert len(conversation.rounds) == min(rounds, count * per_image)
    if rounds >= count * per_image:
        assert sum(len(one.arrivals) for one in conversation.rounds) == count


def test_an_image_is_brought_forward_when_nothing_else_can_be_asked() -> None:
    table = {0: questions(1, each=1), 1: [Question(1, "and this?", "blue", "colour")]}
    style = Style({2: 1}, late=1.0)
    for seed in range(20):
        rounds = converse([0, 1], table, style, random.Random(seed)).rounds
        assert [one.arrivals for one in rounds] == [(1,), (2,)]


def test_late_images_come_in_a_later_round() -> None:
    style = Style({3: 1}, late=1.0)
    firsts = [
        len(one.rounds[0].arrivals)
        for one in conversations(questions(30), style, 1, random.Random(0))
    ]
    assert set(firsts) == {1, 2}


def test_each_image_takes_part_once_per_pass() -> None:
    style = Style({1: 1, 2: 1})
    found = list(conversations(questions(50), style, 3, random.Random(0)))
    taken = Counter(image for one in found for image in one.images)
    assert taken == dict.fromkeys(range(50), 3)


def test_passes_differ() -> None:
    style = Style({2: 1})
    found = list(conversations(questions(20), style, 2, random.Random(0)))
    assert {one.images for one in found[:10]} != {one.images for one in found[10:]}


def test_images_left_over_are_left_out() -> None:
    found = list(conversations(questions(7), Style({3: 1}), 1, random.Random(0)))
    assert [len(one.images) for one in found] == [3, 3]


def test_balance_keeps_as_many_of_one_answer_as_of_the_other() -> None:
    asked = [Question(i, "is it red?", "no" if i % 4 else "yes", "yes-no") for i in range(4000)]
    kept = Counter(one.answer for one in balanced(asked, Style(), random.Random(0)))
    assert kept["yes"] == 1000
    assert 900 < kept["no"] < 1100


def test_no_balance_keeps_everything() -> None:
    asked = [Question(i, "is it red?", "no" if i % 4 else "yes", "yes-no") for i in range(40)]
    assert list(balanced(asked, Style(balance=None), random.Random(0))) == asked


def test_a_question_with_one_answer_only_teaches_nothing_and_goes() -> None:
    asked = [Question(0, "is it red?", "no", "yes-no"), Question(0, "which?", "red", "colour")]
    assert list(balanced(asked, Style(), random.Random(0))) == asked[1:]


def test_other_categories_are_left_out() -> None:
    asked = [Question(0, "what shape?", "circle", "shape"), Question(0, "which?", "red", "colour")]
    style = Style(categories=frozenset({"shape"}))
    assert list(balanced(asked, style, random.Random(0))) == asked[:1]
