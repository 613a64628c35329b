import pytest
from hypothesis import given
from hypothesis import strategies as st

from triptych.evaluation.metrics import exact_match, normalise


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Yes", "yes"),
        (" yes.\n", "yes"),
        ("Yes!", "yes"),
        ("the  red\tcar", "red car"),
        ("An apple", "apple"),
        ("two", "2"),
        ("none", "0"),
        ("ten dogs", "10 dogs"),
        ("eleven", "eleven"),
        ("1,000", "1000"),
        ("3.5", "3.5"),
        ("3.5.", "3.5"),
        ("U.S.A.", "usa"),
        ("black-and-white", "black and white"),
        ("black, white", "black white"),
        ("salt - pepper-mill", "salt peppermill"),
        ("(left)", "left"),
        ("dont", "don't"),
        ("don't", "don't"),
        ("couldntve", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("its", "its"),
        ("were", "were"),
        ("The two-tone, isnt it?", "2 tone isn't it"),
        ("A", "a"),
        ("the", "the"),
        ("", ""),
        ("...", ""),
        ("12:30", "12:30"),
        ("ROT grün", "rot grün"),
    ],
)
def test_normalisation(answer: str, expected: str) -> None:
    assert normalise(answer) == expected


def test_exact_match_compares_normal_forms() -> None:
    assert exact_match("The Circle.", "circle")
    assert exact_match("2", "two")
    assert not exact_match("a circle and a square", "circle")
    assert not exact_match("", "no")


@given(st.text("ab1,.' -?the", max_size=20))
def test_white_space_and_case_never_matter(text: str) -> None:
    assert normalise(f"  {text.upper()}\n") == normalise(text)
