from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from tests.synth.pdfs import Sheet, Text, prose, write_pdf
from tests.synth.squares import seeded

from triptych.data.boxes import Box, Frame, read_boxes
from triptych.errors import DataError
from triptych.synth.ocr.layout import regions
from triptych.synth.ocr.pages import read_page
from triptych.synth.ocr.pdf import Page, open_pdf
from triptych.synth.ocr.tasks import PageTasks, share
from triptych.synth.ocr.text import clean, why_unusable

pytest.importorskip("pypdfium2")

SIDE = 1200


def read(tmp_path: Path, texts: Sequence[Text]) -> Page:
    with open_pdf(write_pdf(tmp_path / "x.pdf", [Sheet(texts)])) as pdf:
        return pdf.read(1)


def ink(path: Path) -> tuple[Box, tuple[int, int]]:
    """What is printed on page 1, in pixels, and the size of its picture."""
    with open_pdf(path) as pdf:
        picture = pdf.render(1, SIDE)
    rows, columns = np.nonzero(np.asarray(picture.convert("L")) < 128)
    box = float(columns.min()), float(rows.min()), columns.max() + 1.0, rows.max() + 1.0
    return box, picture.size


@pytest.mark.parametrize("rotate", [0, 90, 180, 270])
@pytest.mark.parametrize("crop", [(0, 0, 400, 600), (50, 100, 390, 480)])
def test_the_box_of_a_word_is_that_of_its_glyphs(
    tmp_path: Path, rotate: int, crop: tuple[float, float, float, float]
) -> None:
    sheet = Sheet([Text(120, 300, "Bypath", 24)], rotate, crop)
    path = write_pdf(tmp_path / "x.pdf", [sheet])
    printed, (width, height) = ink(path)
    with open_pdf(path) as pdf:
        (word,) = pdf.read(1).words
    left, top, right, bottom = word.box
    found = left * width, top * height, right * width, bottom * height
    assert np.abs(np.subtract(found, printed)).max() <= 2, (found, printed)
    assert max(width, height) == SIDE


def test_words_lines_and_columns(tmp_path: Path) -> None:
    texts = [
        Text(40, 500, "One line of words"),
        Text(40, 485, "and another"),
        Text(250, 485, "a column"),
        Text(40, 460, "broken at a hy-"),
        Text(40, 445, "phen here"),
    ]
    page = read(tmp_path, texts)
    assert [line.text for line in page.lines] == [
        "One line of words",
        "and another",
        "a column",
        "broken at a hy-",
        "phen here",
    ]
    assert [round(word.size) for word in page.words] == [12] * 14
    first = page.lines[0]
    assert first.box[0] == min(word.box[0] for word in first.words)


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("e\ufb03cient", "efficient"),
        ("doc\x02", "doc-"),
        ("doc\ufffe", "doc-"),
        ("a\x07b\x00", "ab"),
    ],
)
def test_cleaning(raw: str, cleaned: str) -> None:
    assert clean(raw) == cleaned


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("words " * 20, "has 100 characters, fewer than 300"),
        ("words " * 1000, "has 5000 characters, more than 4500"),
        ("wo\u222bds " * 100, "only 83% of its characters are ASCII"),
    ],
)
def test_pages_of_no_use(text: str, reason: str) -> None:
    assert reason in (why_unusable(text) or "")
    assert why_unusable("words " * 100) is None


def test_a_text_layer_that_is_not_printed_is_found(tmp_path: Path) -> None:
    path = write_pdf(tmp_path / "x.pdf", [prose(1), prose(2, hidden=True)])
    with open_pdf(path) as pdf:
        assert len(read_page(pdf, 1).lines) == 31
        with pytest.raises(DataError, match="100% of the words in its text layer are not printed"):
            read_page(pdf, 2)


def test_regions(tmp_path: Path) -> None:
    texts = [
        Text(40, 550, "A large title", 20),
        *(Text(40, 500 - 14 * k, f"line {k} of the first part") for k in range(4)),
        *(Text(40, 400 - 14 * k, f"line {k} of the second part") for k in range(3)),
        Text(40, 330, "1. first of all"),
        Text(40, 316, "2. and then"),
    ]
    found = regions(read(tmp_path, texts))
    assert [(one.kind, len(one.lines)) for one in found] == [
        ("title", 1),
        ("text", 4),
        ("text", 3),
        ("list", 1),
        ("list", 1),
    ]
    title, first = found[0].box, found[1].box
    assert title[3] < first[1] < first[3] < found[2].box[1]


@pytest.mark.parametrize("seed", range(3))
def test_tasks_say_what_is_on_the_page(tmp_path: Path, seed: int) -> None:
    with open_pdf(write_pdf(tmp_path / "x.pdf", [prose(seed)])) as pdf:
        page = pdf.read(1)
    size = (597, 896)
    tasks = PageTasks(page, size, seeded(seed))
    frame, (width, height) = Frame(*size), size

    def overlaps(text: str) -> list[str]:
        """Words by how well they fit the box in a text, best first."""
        left, top, right, bottom = read_boxes(text, frame)[0]
        box = left / width, top / height, right / width, bottom / height
        return [word.text for word in sorted(page.words, key=lambda w: -share(w.box, box))]

    for asked in tasks.words(8):
        assert overlaps(asked.question)[0] == asked.answer
    places = tasks.places(8)
    assert places
    for asked in places:
        assert f'"{overlaps(asked.answer)[0]}"' in asked.question
        assert page.text.lower().split().count(overlaps(asked.answer)[0].lower()) == 1
    (whole,) = tasks.whole()
    assert whole.answer.splitlines() == [line.text for line in page.lines]
    for asked in tasks.boxes(8):
        assert asked.answer in page.text
        assert overlaps(asked.question)[0] in asked.answer
    for asked, (left, top, right, bottom) in tasks.crops(8):
        line = next(line for line in page.lines if line.text == asked.answer)
        assert left <= line.box[0] * width
        assert line.box[2] * width <= right
        assert top <= line.box[1] * height
        assert line.box[3] * height <= bottom
    (layout,) = tasks.layout()
    assert layout.answer.splitlines()[0].startswith("1 title: [")
    assert layout.answer.splitlines()[1].startswith("1 text: [")
