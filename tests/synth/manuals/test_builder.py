import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from triptych.cli.main import main
from triptych.data.readers import open_reader
from triptych.data.schema import Record
from triptych.errors import DataError
from triptych.images.decode import content_hash, open_image
from triptych.synth.manuals.builder import Manuals
from triptych.synth.manuals.library import find_picture, open_library
from triptych.synth.pipeline import build

ROOT = "usr/share/doc/python-sklearn-doc/html"


def draw(path: Path, number: int, side: int = 60) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (side, side), (number % 256, 7 * number % 256, 90)).save(path)


def write_page(folder: Path, name: str, pictures: Sequence[str]) -> None:
    texts = "".join(f'<p>About {one}.</p><img src="{one}" alt="{one}">' for one in pictures)
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        '<html><body><img src="logo.png"><div role="main">'
        f'<h1>{name}</h1><img src="logo.png"><img src="_images/icon.png">{texts}'
        "<p>The end.</p></div></body></html>"
    )


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    package = tmp_path_factory.mktemp("sklearn")
    folder = package / ROOT
    draw(folder / "logo.png", 255)
    draw(folder / "_images" / "icon.png", 254, side=16)
    for number in range(24):
        names = [f"_images/{number}_{one}.png" for one in range(3)]
        for one, name in enumerate(names):
            draw(folder / name, 10 * number + one)
        write_page(folder, f"page{number:02d}.html", names)
    # The same bytes under another name tie two pages together.
    for number in range(24, 34):
        names = [f"_images/{number}_{one}.png" for one in range(2)]
        draw(folder / names[0], 100 + number)
        (folder / names[1]).write_bytes((folder / f"_images/{number - 24}_0.png").read_bytes())
        write_page(folder, f"page{number:02d}.html", names)
    write_page(folder, "missing.html", ["_images/0_0.png", "_images/gone.png"])
    (folder / "_images" / "cut.png").write_bytes((folder / "_images/1_1.png").read_bytes()[:40])
    write_page(folder, "cut.html", ["_images/1_0.png", "_images/cut.png"])
    write_page(folder, "about.html", ["_images/3_0.png", "_images/4_0.png"])
    write_page(folder, "alone.html", ["_images/2_0.png"])
    write_page(folder, "elsewhere.html", ["http://a/b.png", "../../../../../../x.png", "a.svg"])
    return package


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, package: Path) -> Path:
    out = tmp_path_factory.mktemp("built") / "manuals"
    build(Manuals((("python-sklearn-doc", package),), share=0.3), out)
    return out


def read(path: Path) -> list[Record]:
    records = open_reader(path, "jsonl", None)
    return [records[index] for index in range(len(records))]


def pages(records: Sequence[Record]) -> set[str]:
    return {str(record.metadata["file"]) for record in records if record.metadata}


def test_documents_interleave_text_and_pictures(built: Path) -> None:
    for record in read(built / "train.jsonl") + read(built / "test.jsonl"):
        (message,) = record.messages
        assert message.role == "document"
        assert record.license == "BSD-3-Clause"
        assert record.source == "python-sklearn-doc 1.2.1+dfsg-1"
        assert 2 <= len(record.images) <= 6
        kinds = [type(part).__name__ for part in message.content]
        assert kinds == ["TextPart", "ImagePart"] * len(record.images) + ["TextPart"]
        assert message.text.endswith("\nThe end.")
        assert "logo.png" not in message.text


def test_pages_and_pictures_are_on_one_side(built: Path) -> None:
    train, test = (read(built / f"{split}.jsonl") for split in ("train", "test"))
    assert pages(train)
    assert pages(test)
    assert pages(train).isdisjoint(pages(test))
    hashes = [
        {content_hash(open_image(str(image.location))) for one in records for image in one.images}
        for records in (train, test)
    ]
    assert hashes[0].isdisjoint(hashes[1])
    assert len(pages(train) | pages(test)) == 34, "none was lost for a picture of both sides"


def test_pages_that_share_a_picture_are_one_family(package: Path) -> None:
    library = open_library(package / ROOT, frozenset({"about.html"}))
    assert library.family["page24.html"] == library.family["page00.html"]
    assert library.family["page33.html"] == "page09.html"
    assert library.family["page20.html"] == "page20.html"
    assert {path.name for path in library.frequent} == {"logo.png", "icon.png"}
    assert not {"alone.html", "about.html"} & set(library.pages)
    assert library.family["page04.html"] == "page04.html", "a page that is not used ties nothing"


def test_bad_pages_are_in_the_quarantine(built: Path) -> None:
    lines = (built / "quarantine.jsonl").read_text().splitlines()
    reasons = {line["where"]: line["reason"] for line in map(json.loads, lines)}
    assert reasons["python-sklearn-doc missing.html"] == (
        "missing.html: the picture _images/gone.png is missing"
    )
    assert "cut.png" in reasons["python-sklearn-doc cut.html"]
    assert not {"_images/gone.png", "missing.html"} & pages(read(built / "train.jsonl"))


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("../_images/a%20b.png", "_images/a b.png"),
        ("a.png", "sub/a.png"),
        ("../../a.png", None),
        ("/etc/a.png", None),
        ("http://x/a.png", None),
        ("data:image/png;base64,AAAA", None),
        ("a.svg", None),
    ],
)
def test_addresses_of_pictures(source: str, found: str | None) -> None:
    path = find_picture(source, "sub/page.html", Path("/r"))
    assert path == (None if found is None else Path("/r") / found)


def test_another_package_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no HTML page"):
        open_library(tmp_path, frozenset())


def test_the_verb(tmp_path: Path, package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    skimage = tmp_path / "skimage"
    write_page(skimage / ROOT.replace("sklearn", "skimage"), "a.html", ["b.png", "c.png"])
    command = ["data", "build", "manuals", "--out", str(tmp_path / "m"), "--workers", "1"]
    command += ["--source", f"python-sklearn-doc={package}"]
    assert main([*command, "--source", f"python-skimage-doc={skimage}"]) == 0
    printed = capsys.readouterr().out
    assert "BSD-3-Clause" in printed
    assert "gimp-help-en" not in printed
    assert "things left out" in printed
