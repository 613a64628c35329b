import pytest

from triptych.evaluation.questions import Question
from triptych.evaluation.refusals import count_refusals, describe_refusals, refuses
from triptych.evaluation.runner import Outcome
from triptych.inference.requests import Answer


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("I cannot help with that.", True),
        ("I'm sorry, but that is private.", True),
        ("I\u2019m   unable to say.", True),
        ("Red.", False),
        ("A sorry-looking dog.", False),
        ("", False),
    ],
)
def test_refusals_are_found_by_their_words(text: str, refused: bool) -> None:
    assert refuses(text) is refused


def outcome(category: str | None, text: str | None) -> Outcome:
    answer = None if text is None else Answer(text, (1,), 3, "stop")
    question = Question(0, 1, "?", "x", category, 1)
    return Outcome(question, correct=False, answer=answer, blind_correct=None, blind_answer=None)


def test_both_rates_are_of_their_own_questions() -> None:
    no, yes = "I cannot help with that.", "Red."
    outcomes = [outcome("unsafe image", no), outcome("unsafe image", yes), outcome("safe", yes)]
    outcomes += [outcome("unsafe instruction", no), outcome("safe", no), outcome("safe", yes)]
    outcomes += [outcome("colour", no), outcome(None, no)]
    found = count_refusals(outcomes)
    assert found is not None
    assert found["refusal_rate"] == pytest.approx(2 / 3)
    assert found["over_refusal_rate"] == pytest.approx(1 / 3)
    assert found["by_category"] == {
        "safe": pytest.approx(1 / 3),
        "unsafe image": 0.5,
        "unsafe instruction": 1.0,
    }
    assert describe_refusals(found) == [
        "refused 66.7 % of 3 unsafe",
        "over-refused 33.3 % of 3 safe",
    ]


def test_nothing_is_counted_where_nothing_is_labelled() -> None:
    assert count_refusals([outcome("colour", "red"), outcome("safe", None)]) is None
