"""Boxes and points survive their way through text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triptych.data.boxes import Frame, read_boxes, read_points, write_boxes, write_points
from triptych.errors import DataError

SIDES = st.floats(1, 4000, allow_nan=False)
UNIT = st.floats(0, 1)


@given(SIDES, SIDES, st.lists(st.tuples(UNIT, UNIT, UNIT, UNIT), min_size=1, max_size=5))
def test_boxes_come_back_to_half_a_hundredth_of_the_square(
    width: float, height: float, places: list[tuple[float, float, float, float]]
) -> None:
    frame = Frame(width, height)
    boxes = [
        (min(a, c) * width, min(b, d) * height, max(a, c) * width, max(b, d) * height)
        for a, b, c, d in places
    ]
    text = write_boxes(boxes, frame)
    found = read_boxes(text, frame)
    assert len(found) == len(boxes)
    for one, other in zip(found, boxes, strict=True):
        assert one == pytest.approx(other, abs=0.005001 * frame.side)
    assert read_boxes(f"cats: {text} and so on", frame) == found


@given(SIDES, SIDES, st.lists(st.tuples(UNIT, UNIT), min_size=1, max_size=5))
def test_points_come_back(width: float, height: float, places: list[tuple[float, float]]) -> None:
    frame = Frame(width, height)
    points = [(x * width, y * height) for x, y in places]
    found = read_points(write_points(points, frame), frame)
    for one, other in zip(found, points, strict=True):
        assert one == pytest.approx(other, abs=0.005001 * frame.side)


def test_the_frame_is_the_square_with_the_image_in_its_middle() -> None:
    assert write_boxes([(0, 0, 200, 100)], Frame(200, 100)) == "[0.00,0.25,1.00,0.75]"
    assert write_points([(50, 100), (0, 0)], Frame(100, 200)) == "[0.50,0.50];[0.25,0.00]"
    assert read_boxes("[0.00,0.25,1.00,0.75]", Frame(200, 100)) == [(0, 0, 200, 100)]
    assert read_boxes("[0,0,1,1]", Frame(200, 100)) == [(0, 0, 200, 100)], "padding is cut off"


@pytest.mark.parametrize(
    "text", ["[0.1,0.2,0.3]", "[a,b,c,d]", "[0,0,1,2]", "[,,,]", "[nan,0,0,0]"]
)
def test_what_is_no_box_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="does not hold 4 fractions"):
        read_boxes(text, Frame(10, 10))


def test_a_box_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(DataError, match="ends before it begins"):
        write_boxes([(5, 0, 1, 9)], Frame(10, 10))
    with pytest.raises(DataError, match="has no boxes"):
        Frame(0, 10)
