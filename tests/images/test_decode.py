"""Images as users have them: turned, transparent, deep, damaged, missing."""

import base64
import contextlib
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from triptych.errors import ImageError
from triptych.images import ImageInput, ImageLimits, content_hash, image_size, open_image


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


@pytest.fixture
def corner() -> Image.Image:
    """6 wide, 4 high, black but for a red corner at the top left."""
    image = Image.new("RGB", (6, 4))
    image.putpixel((0, 0), (255, 0, 0))
    return image


def png_of(width: int, height: int) -> bytes:
    """A PNG whose header claims a size and whose pixels are not there."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = b"\x89PNG\r\n\x1a\n"
    for name, body in ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b"")):
        parts += struct.pack(">I", len(body)) + name + body
        parts += struct.pack(">I", zlib.crc32(name + body))
    return parts


def test_every_kind_of_source_gives_the_same_picture(tmp_path: Path, corner: Image.Image) -> None:
    data = encoded(corner)
    (tmp_path / "a b.png").write_bytes(data)
    uri = "data:image/png;base64," + base64.b64encode(data).decode()
    sources = [tmp_path / "a b.png", str(tmp_path / "a b.png"), data, uri, corner]
    for source in sources:
        assert image_size(source) == (6, 4)
        np.testing.assert_array_equal(np.asarray(open_image(source)), np.asarray(corner))
    assert open_image("a b.png", root=tmp_path).size == (6, 4)
    assert len({content_hash(source) for source in sources[:4]}) == 1


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_header_and_pixels_agree_on_the_orientation(format: str, orientation: int) -> None:
    pixels = np.zeros((32, 48, 3), dtype=np.uint8)
    pixels[:16, :16] = (255, 0, 0)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(pixels), format, exif=exif)
    upright = open_image(data)
    assert image_size(data) == upright.size
    assert upright.size == ((32, 48) if orientation >= 5 else (48, 32))
    corners = {1: (4, 4), 2: (44, 4), 3: (44, 28), 4: (4, 28)}
    corners |= {5: (4, 4), 6: (28, 4), 7: (28, 44), 8: (4, 44)}
    red, green, _ = upright.getpixel(corners[orientation])
    assert red > 200
    assert green < 60


def test_a_damaged_exif_block_is_ignored(corner: Image.Image) -> None:
    for format in ("PNG", "JPEG", "WEBP"):
        data = encoded(corner, format, exif=b"Exif\0\0MM\0*\xff\xff\xff\xff garbage")
        assert image_size(data) == open_image(data).size == (6, 4)


@pytest.mark.parametrize("mode", ["LA", "RGBA", "PA"])
def test_transparent_parts_become_white(mode: str) -> None:
    image = Image.new("RGBA", (2, 1), (10, 20, 30, 0))
    image.putpixel((1, 0), (0, 0, 0, 255))
    opened = open_image(image.convert(mode))
    assert opened.getpixel((0, 0)) == (255, 255, 255)
    assert max(opened.getpixel((1, 0))) < 30


def test_a_transparent_palette_colour_becomes_white() -> None:
    image = Image.new("P", (2, 1), 0)
    image.putpalette([9, 9, 9, 0, 0, 200])
    image.putpixel((1, 0), 1)
    opened = open_image(encoded(image, transparency=0))
    assert [opened.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (0, 0, 200)]


def test_sixteen_bit_grey_keeps_its_shades() -> None:
    deep = Image.fromarray(np.array([[0, 257, 32896, 65535]], dtype=np.uint16))
    for source in (encoded(deep), encoded(deep, "TIFF"), deep):
        shades = [open_image(source).getpixel((x, 0)) for x in range(4)]
        assert shades == [(v, v, v) for v in (0, 1, 128, 255)]


@pytest.mark.parametrize("mode", ["1", "L", "CMYK", "YCbCr", "HSV", "LAB"])
def test_other_modes_become_rgb(mode: str) -> None:
    grey = Image.new("L", (3, 2), 255)
    image = grey if mode == "L" else Image.new(mode, (3, 2), 0)
    assert open_image(image).mode == "RGB"


def test_cmyk_white_is_white() -> None:
    data = encoded(Image.new("CMYK", (16, 16), (0, 0, 0, 0)), "JPEG")
    assert min(open_image(data).getpixel((8, 8))) > 250


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert open_image(data).getpixel((1, 1)) == (255, 0, 0)


def test_float_and_wide_integer_pixels_are_refused() -> None:
    with pytest.raises(ImageError, match="floating-point"):
        open_image(Image.new("F", (2, 2), 0.5))
    with pytest.raises(ImageError, match="70000"):
        open_image(Image.new("I", (2, 2), 70000))


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("kept", [0.02, 0.3, 0.7])
def test_truncated_files_name_themselves(tmp_path: Path, format: str, kept: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), format)
    path = tmp_path / "half.img"
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(ImageError, match=r"half\.img"):
        open_image(path)


@pytest.mark.parametrize("seed", range(48))
@pytest.mark.skipif("AVIF" not in Image.registered_extensions().values(), reason="no AVIF")
def test_damaged_bytes_never_raise_anything_else(seed: int) -> None:
    generator = np.random.default_rng(seed)
    noise = generator.integers(0, 256, (24, 24, 3), dtype=np.uint8)
    format = ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "AVIF"][seed % 6]
    data = bytearray(encoded(Image.fromarray(noise), format))
    for position in generator.integers(0, len(data), 12):
        data[position] = generator.integers(0, 256)
    with contextlib.suppress(ImageError):
        size = image_size(bytes(data))
        assert open_image(bytes(data)).size == size


def test_bombs_are_refused_by_their_header() -> None:
    with pytest.raises(ImageError, match=r"too large|max_pixels"):
        open_image(png_of(60000, 60000))
    with pytest.raises(ImageError, match=r"9450x9450 = 89302500 pixels"):
        image_size(png_of(9450, 9450))
    small = ImageLimits(max_pixels=23)
    with pytest.raises(ImageError, match="6x4 = 24 pixels, more than max_pixels 23"):
        open_image(Image.new("RGB", (6, 4)), limits=small)


def test_bytes_are_limited_before_decoding(tmp_path: Path, corner: Image.Image) -> None:
    data = encoded(corner)
    (tmp_path / "a.png").write_bytes(data)
    limits = ImageLimits(max_bytes=len(data) - 1)
    for source in (data, tmp_path / "a.png"):
        with pytest.raises(ImageError, match="max_bytes"):
            open_image(source, limits=limits)
    assert open_image(data, limits=ImageLimits(max_bytes=len(data))).size == (6, 4)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (b"", "empty"),
        (b"this is text", "not an image"),
        ("", "folder"),
        ("nowhere/cat.png", "nowhere/cat.png: no such image"),
        ("a\0b.png", "not a usable path|no such image"),
        ("x" * 5000, "not a usable path"),
        ("https://example.org/cat.png", "not fetched"),
        ("data:image/png;base64,@@@@", "base64"),
        ("data:image/png;base64,abc", "base64"),
        ("data:image/png;base64,", "empty"),
        ("data:image/png,rawtext", "expected 'data:image"),
        ("data:nothing", "expected 'data:image"),
    ],
)
def test_bad_sources_are_explained(tmp_path: Path, source: ImageInput, message: str) -> None:
    for function in (open_image, image_size):
        with pytest.raises(ImageError, match=message):
            function(source, root=tmp_path)


def test_folders_and_empty_files_are_explained(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    for source, message in ((tmp_path, "is a folder"), (tmp_path / "empty.png", "is empty")):
        with pytest.raises(ImageError, match=message):
            image_size(source)
    with pytest.raises(ImageError, match="is a folder"):
        content_hash(tmp_path)


def test_postscript_is_not_run() -> None:
    with pytest.raises(ImageError, match="formats read"):
        open_image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")


def test_hash_of_pixels_tells_images_apart(corner: Image.Image) -> None:
    other = corner.copy()
    other.putpixel((5, 3), (0, 0, 1))
    assert content_hash(corner) == content_hash(corner.copy()) != content_hash(other)
