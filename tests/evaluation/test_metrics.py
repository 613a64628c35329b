import pytest
from hypothesis import given
from hypothesis import strategies as st

from triptych.evaluation.metrics import anls, exact_match, normalise


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


def edits(left: str, right: str) -> int:
    """Edit distance from its definition."""
    row = list(range(len(right) + 1))
    for place, letter in enumerate(left, start=1):
        above, row[0] = row[0], place
        for at, other in enumerate(right, start=1):
            above, row[at] = row[at], min(row[at] + 1, row[at - 1] + 1, above + (letter != other))
    return row[-1]


@given(st.text("abAB ", max_size=7), st.text("abAB ", max_size=7))
def test_anls_is_its_definition(left: str, right: str) -> None:
    one, two = (" ".join(side.lower().split()) for side in (left, right))
    share = edits(one, two) / max(len(one), len(two), 1)
    assert anls(left, right) == pytest.approx(1 - share if share < 0.5 else 0)


def test_anls_gives_a_part_for_a_part() -> None:
    assert anls("384915", "384916") == pytest.approx(5 / 6)
    assert anls("384", "384916") == 0
    assert anls("", "384916") == 0
