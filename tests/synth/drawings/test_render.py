import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.synth.tiny_packages import SVG

from triptych.errors import DataError
from triptych.synth.drawings.render import flatten, render, visible_box

RED = '<rect x="8" y="0" width="16" height="32" fill="red"/>'
SMALL = '<rect x="20" y="20" width="4" height="4" fill="blue"/>'


def pixels(art: str | Path, size: int, *, loose: bool = False) -> np.ndarray:
    return np.asarray(flatten(render(art, size, loose=loose)))


def test_a_drawing_keeps_its_place_and_its_shape() -> None:
    found = pixels(SVG.format(more="", body=RED), 64)
    assert found.shape == (64, 64, 3)
    assert (found[32, 17:47] == (255, 0, 0)).all()
    assert (found[:, :15] == 255).all()
    wide = SVG.format(more="", body=RED).replace("0 0 32 32", "0 0 32 16")
    assert (pixels(wide, 64)[:15] == 255).all(), "half as high as wide: centred"


def test_a_loose_drawing_is_cut_out_of_its_sheet() -> None:
    found = pixels(SVG.format(more="", body=SMALL), 100, loose=True)
    box = visible_box(Image.fromarray(found))
    assert box is not None
    assert box[:2] == pytest.approx((5, 5), abs=2)
    assert box[2:] == pytest.approx((95, 95), abs=2)


def libcairo() -> bool:
    try:
        import cairosvg  # noqa: F401
    except OSError:
        return False
    return True


@pytest.mark.skipif(not libcairo(), reason="libcairo is not installed")
@pytest.mark.parametrize("without", ["cairosvg", "resvg_py"])
def test_either_renderer_draws_the_same(without: str, monkeypatch: pytest.MonkeyPatch) -> None:
    svg = SVG.format(more="", body=RED + SMALL)
    both = pixels(svg, 64).astype(int)
    monkeypatch.setitem(sys.modules, without, None)
    assert np.abs(pixels(svg, 64).astype(int) - both).mean() < 1


def test_without_any_renderer_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cairosvg", "resvg_py"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(DataError, match=r"CairoSVG or libcairo .* resvg-py is not installed"):
        render(SVG.format(more="", body=RED), 16)


@pytest.mark.parametrize(
    ("svg", "message"),
    [
        (SVG.format(more="", body=""), "it renders blank"),
        (SVG.format(more="", body=RED.replace("red", "#fefefe")), "it renders blank"),
        ("<svg", "it does not render"),
        ('<!DOCTYPE svg [<!ENTITY a "b">]><svg>&a;</svg>', "it (does not render|renders blank)"),
    ],
)
def test_what_shows_nothing_is_refused(svg: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        render(svg, 32)


def test_nothing_is_read_that_a_file_points_at(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "secret.png")
    link = f'<image href="{tmp_path / "secret.png"}" width="32" height="32"/>'
    assert (pixels(SVG.format(more="", body=link + SMALL), 32)[:16] == 255).all()


def test_image_files_keep_their_transparency(tmp_path: Path) -> None:
    sheet = Image.new("RGBA", (20, 40), (0, 0, 0, 0))
    sheet.paste((0, 128, 0, 255), (5, 5, 15, 35))
    sheet.save(tmp_path / "a.png")
    picture = render(tmp_path / "a.png", 50, loose=True)
    assert picture.getpixel((2, 25)) == (255, 255, 255, 0)
    assert picture.getpixel((25, 25)) == (0, 128, 0, 255)
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    with pytest.raises(DataError, match=r"b\.png: not an image"):
        render(tmp_path / "b.png", 50)
