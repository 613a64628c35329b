"""Opening images that other people made: safe, upright, RGB.

Sizes are read from the header and checked before any pixel is decoded. Header and decoded image
always agree on the orientation, so a token count made from the header holds for the pixels.
"""

import base64
import binascii
import hashlib
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError
from pydantic import Field

from triptych.errors import ImageError
from triptych.spec import Spec

ImageInput: TypeAlias = str | Path | bytes | Image.Image

# Formats that Pillow decodes by itself: none that starts a program (EPS) or reads several files.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# What Pillow's decoders raise on damaged files, beside OSError.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    struct.error,
    RuntimeError,
    ArithmeticError,
    AssertionError,
)


class ImageLimits(Spec):
    """What an image may cost before it is decoded."""

    max_pixels: int = Field(89_000_000, ge=1)
    """Largest width x height accepted, read from the header before decoding."""

    max_bytes: int = Field(256 * 1024 * 1024, ge=1)
    """Largest encoded size accepted, in bytes."""


DEFAULT_LIMITS = ImageLimits()


def open_image(
    source: ImageInput, *, root: Path | None = None, limits: ImageLimits = DEFAULT_LIMITS
) -> Image.Image:
    """Decode an image into RGB.

    The EXIF orientation is applied, transparent parts become white, 16-bit grey is scaled to 8
    bits, and only the first frame of an animation is used.

    Args:
        source: a path, a data URI, encoded bytes, or an opened image.
        root: folder that relative paths start from; the working folder when not given.
        limits: what is refused before decoding.

    Raises:
        ImageError: naming the source, when it is missing, not an image, damaged or over a limit.
    """
    with _opened(source, root, limits) as (image, name):
        turn = _TURNS.get(_orientation(image))
        with _explained(name, "is damaged or truncated"):
            image.load()
            upright = image.copy() if turn is None else image.transpose(turn)
            return _to_rgb(upright, name)


def image_size(
    source: ImageInput, *, root: Path | None = None, limits: ImageLimits = DEFAULT_LIMITS
) -> tuple[int, int]:
    """Width and height that ``open_image`` would give, from the header alone.

    Raises:
        ImageError: when the source is missing, not an image, or over a limit.
    """
    with _opened(source, root, limits) as (image, _):
        width, height = image.size
        return (height, width) if _orientation(image) >= 5 else (width, height)


def content_hash(source: ImageInput, *, root: Path | None = None) -> str:
    """SHA-256 (hexadecimal) of the encoded bytes, or of the pixels of an opened image.

    Raises:
        ImageError: when the source is missing or not a file.
    """
    if isinstance(source, Image.Image):
        header = f"{source.mode} {source.width} {source.height} ".encode()
        return hashlib.sha256(header + source.tobytes()).hexdigest()
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    if _is_data_uri(source):
        return hashlib.sha256(_decode_data_uri(str(source))).hexdigest()
    path = _find(source, root)
    with _explained(str(path), "cannot be read"), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_encoded(source: str | Path | bytes, *, limits: ImageLimits = DEFAULT_LIMITS) -> bytes:
    """The bytes of an image file, as they are.

    Raises:
        ImageError: when the source is missing, no image, or over a limit.
    """
    with _opened(source, None, limits):
        pass
    if isinstance(source, bytes):
        return source
    return _decode_data_uri(str(source)) if _is_data_uri(source) else Path(source).read_bytes()


@contextmanager
def _opened(
    source: ImageInput, root: Path | None, limits: ImageLimits
) -> Iterator[tuple[Image.Image, str]]:
    """The image with its header read and its limits checked, and the name to use in messages."""
    if isinstance(source, Image.Image):
        name = f"PIL image {source.width}x{source.height}"
        _check_pixels(source, name, limits)
        yield source, name
        return
    stream: BinaryIO
    if isinstance(source, bytes):
        name, stream, size = f"image of {len(source)} bytes", BytesIO(source), len(source)
    elif _is_data_uri(source):
        data = _decode_data_uri(str(source))
        name, stream, size = f"data URI of {len(data)} bytes", BytesIO(data), len(data)
    else:
        path = _find(source, root)
        with _explained(str(path), "cannot be read"):
            name, stream, size = str(path), path.open("rb"), path.stat().st_size
    with stream:
        if size == 0:
            raise ImageError(f"{name}: is empty (0 bytes)")
        if size > limits.max_bytes:
            raise ImageError(f"{name}: has {size} bytes, more than max_bytes {limits.max_bytes}")
        with _explained(name, "is not an image that can be read"):
            Image.init()  # Image.open with named formats does not load their plugins
            image = Image.open(stream, formats=[known for known in FORMATS if known in Image.OPEN])
        with image:
            _check_pixels(image, name, limits)
            yield image, name


@contextmanager
def _explained(name: str, problem: str) -> Iterator[None]:
    """Turn what Pillow and the file system raise into an ImageError that names the image."""
    try:
        yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{name}: is too large to decode safely ({error})") from None
    except UnidentifiedImageError:
        known = ", ".join(FORMATS)
        raise ImageError(f"{name}: {problem}; the formats read are {known}") from None
    except MemoryError:
        raise ImageError(f"{name}: does not fit into memory") from None
    except _DAMAGE as error:
        raise ImageError(f"{name}: {problem} ({error})") from None


def _check_pixels(image: Image.Image, name: str, limits: ImageLimits) -> None:
    width, height = image.size
    if width < 1 or height < 1:
        raise ImageError(f"{name}: is {width}x{height} pixels, which is no picture")
    if width * height > limits.max_pixels:
        raise ImageError(
            f"{name}: is {width}x{height} = {width * height} pixels, more than max_pixels "
            f"{limits.max_pixels}; shrink it or raise the limit"
        )


def _is_data_uri(source: str | Path) -> bool:
    return isinstance(source, str) and source[:5].lower() == "data:"


def _decode_data_uri(uri: str) -> bytes:
    header, comma, payload = uri.partition(",")
    shown = header[:60]
    if not comma or not header.lower().endswith(";base64"):
        raise ImageError(f"data URI '{shown}...': expected 'data:image/TYPE;base64,DATA'")
    try:
        return base64.b64decode("".join(payload.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError(f"data URI '{shown}...': the base64 text is damaged ({error})") from None


def _find(source: str | Path, root: Path | None) -> Path:
    """The existing regular file that ``source`` names."""
    text = str(source)
    if "://" in text[:12]:
        raise ImageError(f"{text}: web addresses are not fetched; download the image first")
    path = Path(text) if root is None else root / text
    try:
        found, regular = path.exists(), path.is_file()
    except (OSError, ValueError) as error:
        raise ImageError(f"{text[:200]}: is not a usable path ({error})") from None
    if not found:
        raise ImageError(f"{path}: no such image file")
    if not regular:
        kind = "a folder" if path.is_dir() else "not a regular file"
        raise ImageError(f"{path}: is {kind}, expected an image file")
    return path


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1 to 8 as far as the header tells; 1 where the block is damaged."""
    # Pillow turns TIFF by itself, size included.
    if image.format == "TIFF":
        return 1
    try:
        if image.format == "PNG":
            # getexif() of a PNG would decode all pixels to look for a late block.
            exif = Image.Exif()
            exif.load(image.info.get("exif", b""))
        else:
            exif = image.getexif()
        value = exif.get(ExifTags.Base.Orientation, 1)
    except _DAMAGE:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "F":
        raise ImageError(f"{name}: holds floating-point pixels; convert it to 8 bits first")
    if image.mode.startswith("I"):
        return _wide_to_rgb(image, name)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _wide_to_rgb(image: Image.Image, name: str) -> Image.Image:
    """16-bit grey to RGB; Pillow's own conversion would clip at 255."""
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise ImageError(
            f"{name}: holds integers from {values.min()} to {values.max()}; "
            "convert it to 8 or 16 bits first"
        )
    scaled = (values.astype(np.uint32) * 255 + 32767) // 65535
    return Image.fromarray(scaled.astype(np.uint8)).convert("RGB")
