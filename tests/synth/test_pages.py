import json
from pathlib import Path

import numpy as np
import pytest
from tests.synth.pdfs import Sheet, Text, prose, write_pdf

from triptych.cli.main import main
from triptych.data.boxes import Frame, read_boxes
from triptych.data.readers import open_reader
from triptych.data.schema import Record
from triptych.images.decode import content_hash, open_image
from triptych.synth.ocr.packages import OTHER_TERMS, R_MANUALS, TEXLIVE, collections
from triptych.synth.ocr.pages import Collection, PdfPages
from triptych.synth.packages import Shelf
from triptych.synth.pipeline import build

pytest.importorskip("pypdfium2")

SIDES = (300, 600, 900)


def records(folder: Path, pattern: str) -> list[Record]:
    found = []
    for file in sorted(folder.glob(pattern)):
        reader = open_reader(file)
        found += [reader[index] for index in range(len(reader))]
    return found


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight files of two pages; one is no PDF, one is cut, one has a blank page and a copy."""
    folder = tmp_path_factory.mktemp("files")
    for number in range(8):
        write_pdf(
            folder / f"part{number % 2}" / f"{number}.pdf",
            [prose(2 * number), prose(2 * number + 1)],
        )
    write_pdf(folder / "blank.pdf", [prose(90), Sheet([Text(40, 300, "Almost nothing")])])
    (folder / "part0" / "copy.PDF").write_bytes((folder / "part0" / "0.pdf").read_bytes())
    (folder / "no.pdf").write_text("this is a letter")
    whole = write_pdf(folder / "cut.pdf", [prose(95)])
    whole.write_bytes(whole.read_bytes()[:700])
    return folder


@pytest.fixture(scope="module")
def built(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "pdf"
    own = (Collection("papers", "CC0-1.0", files),)
    build(PdfPages(own, sides=SIDES, test_share=0.4), out)
    return out


def test_files_are_held_out_whole(built: Path, files: Path) -> None:
    sides = {
        split: {
            str(record.metadata and record.metadata["file"])
            for record in records(built, f"{split}-*")
        }
        for split in ("train", "test")
    }
    assert sides["train"].isdisjoint(sides["test"])
    assert min(map(len, sides.values())) >= 2
    good = {f"part{number % 2}/{number}.pdf" for number in range(8)} | {"blank.pdf"}
    assert sides["train"] | sides["test"] == good, "a copy is read once"


def test_splits_share_no_picture(built: Path) -> None:
    hashes = {
        split: {
            content_hash(open_image(image.location))
            for record in records(built, f"{split}-*")
            for image in record.images
        }
        for split in ("train", "test")
    }
    assert hashes["train"].isdisjoint(hashes["test"])


def test_what_cannot_be_used_is_listed_with_its_reason(built: Path) -> None:
    lines = map(json.loads, (built / "quarantine.jsonl").read_text().splitlines())
    reasons = {line["where"]: line["reason"] for line in lines}
    assert set(reasons) == {"0/no.pdf", "0/cut.pdf", "blank.pdf: page 2"}
    assert "is not a PDF file that can be opened" in reasons["0/no.pdf"]
    assert "is not a PDF file that can be opened" in reasons["0/cut.pdf"]
    assert "has 13 characters, fewer than 300" in reasons["blank.pdf: page 2"]


def test_every_record_says_where_it_comes_from(built: Path) -> None:
    for record in records(built, "t*.jsonl"):
        assert (record.source, record.license) == ("papers", "CC0-1.0")
        assert set(record.metadata or {}) == {"file", "page"}
    manifest = json.loads((built / "build.json").read_text())
    assert manifest["licenses"] == {"CC0-1.0": {"papers": sum(manifest["files"].values())}}


def test_training_pages_can_be_read_at_their_size(built: Path) -> None:
    """12 points on a page of 600 are 6 pixels at 300: too few."""
    for record in records(built, "train-page.jsonl"):
        assert max(open_image(record.images[0].location).size) in SIDES[1:]


def test_held_out_words_are_asked_for_at_every_size(built: Path) -> None:
    asked: dict[str, list[tuple[str, str]]] = {}
    for record in records(built, "test-word.jsonl"):
        (image,) = record.images
        side = max(open_image(image.location).size)
        for question, answer in zip(record.messages[::2], record.messages[1::2], strict=True):
            assert answer.category == f"{side} px"
            asked.setdefault(answer.category, []).append((question.text, answer.text))
    assert set(asked) == {f"{side} px" for side in SIDES}
    assert len({tuple(pairs) for pairs in asked.values()}) == 1


def test_the_boxes_of_places_hold_ink(built: Path) -> None:
    for record in records(built, "*-place.jsonl"):
        picture = open_image(record.images[0].location)
        pixels = np.asarray(picture.convert("L"))
        for answer in record.messages[1::2]:
            left, top, right, bottom = read_boxes(answer.text, Frame(*picture.size))[0]
            part = pixels[int(top) : int(bottom) + 1, int(left) : int(right) + 1]
            assert part.min() < 100 < 200 < part.max()


def test_line_crops_are_as_wide_as_their_text(built: Path) -> None:
    for record in records(built, "*-line.jsonl"):
        width, height = open_image(record.images[0].location).size
        assert 0.2 < width / height / len(record.messages[1].text) < 0.8


def test_the_verb_builds_from_a_folder(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["data", "build", "pdf", "--out", str(tmp_path / "x"), "--folder", str(files)]
    command += ["--license", "CC0-1.0", "--sides", "640", "--workers", "1", "--pages", "1"]
    assert main([*command, "--test-share", "0.4"]) == 0
    printed = capsys.readouterr().out
    assert "train-word.jsonl" in printed
    assert "CC0-1.0" in printed
    assert "things left out" in printed
    assert main([*command, "--sides", "9"]) == 2
    assert "--sides 9: expected numbers from 64" in capsys.readouterr().err
    assert main(["data", "build", "pdf", "--out", str(tmp_path / "y"), "--folder", "gone"]) == 2
    assert "gone: no such folder" in capsys.readouterr().err


def test_packaged_manuals_are_told_apart_by_licence(tmp_path: Path) -> None:
    latex = tmp_path / "tex"
    for name in ("booktabs/booktabs.pdf", "mdwtools/syntax.pdf"):
        write_pdf(latex / "usr/share/doc/texlive-doc/latex" / name, [prose(len(name))])
    shelf = Shelf(tmp_path, {TEXLIVE.name: latex, R_MANUALS.name: tmp_path})
    (core,) = collections(shelf, copyleft=False)
    assert [name.rpartition("/")[2] for name in core.files()] == ["booktabs.pdf"]
    assert core.license == "LPPL-1.3c"
    _, other, manuals = collections(shelf, copyleft=True)
    assert [name.rpartition("/")[2] for name in other.files()] == ["syntax.pdf"]
    assert other.files()[0].startswith(OTHER_TERMS)
    assert (other.license, manuals.license) == ("GPL or GFDL", "GPL-2")
