"""SVG and image files as square pictures with a transparent ground.

CairoSVG draws; where its library libcairo is missing, or a file is too much for it, resvg does.
Neither fetches anything that a file points at.
"""

from io import BytesIO
from pathlib import Path
from xml.etree.ElementTree import ParseError

from PIL import Image

from triptych.errors import DataError, ImageError
from triptych.images.decode import FORMATS

GROUND = (255, 255, 255)
OVERSIZE = 2
"""Drawings that are cut out first are drawn so much larger."""
MARGIN = 0.05
"""Free space around a drawing that was cut out, in sides of the picture."""
FAINT = 12
"""Difference from the ground, of 255, below which nothing is seen."""
# What CairoSVG lets escape on files that it does not understand, beside its own parser's errors.
_CAIRO = (
    ParseError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    RecursionError,
    MemoryError,
    OSError,
)


def render(art: str | Path, size: int, *, loose: bool = False) -> Image.Image:
    """Draw an SVG or an image file into a square of ``size`` pixels, RGBA.

    Args:
        art: an SVG as text, or the path of an SVG or image file.
        size: side of the square in pixels.
        loose: cut the drawing out of its sheet first, and centre it.

    Raises:
        DataError: nothing can draw it, or nothing is to be seen on white.
    """
    drawn = size * OVERSIZE if loose else size
    if isinstance(art, Path) and art.suffix.lower() != ".svg":
        picture = _open(art)
    else:
        picture = _draw(art.read_bytes() if isinstance(art, Path) else art.encode(), drawn)
    box = visible_box(picture)
    if box is None:
        raise DataError("it renders blank")
    if loose:
        picture = picture.crop(box)
    return _fit(picture, size, MARGIN if loose else 0)


def visible_box(picture: Image.Image) -> tuple[int, int, int, int] | None:
    """Left, top, right and bottom of what differs from a white ground; None for a blank picture."""
    table = [255 * (value < 255 - FAINT) for value in range(256)]
    return flatten(picture).convert("L").point(table).getbbox()


def flatten(picture: Image.Image, ground: tuple[int, int, int] = GROUND) -> Image.Image:
    """Lay a picture on a ground, RGB."""
    sheet = Image.new("RGBA", picture.size, (*ground, 255))
    return Image.alpha_composite(sheet, picture.convert("RGBA")).convert("RGB")


def _draw(svg: bytes, size: int) -> Image.Image:
    reasons = []
    for draw in (_cairo, _resvg):
        try:
            drawn = draw(svg, size)
            return Image.open(BytesIO(drawn), formats=("PNG",)).convert("RGBA")
        except DataError as error:
            reasons.append(str(error))
    raise DataError(f"it does not render ({'; '.join(reasons)})")


def _cairo(svg: bytes, size: int) -> bytes:
    try:
        import cairosvg
        from cairocffi import CairoError
    except (ImportError, OSError):
        raise DataError("CairoSVG or libcairo is not installed") from None
    failures = (CairoError, *_CAIRO)
    try:
        drawn: bytes = cairosvg.svg2png(svg, output_width=size, output_height=size)
    except failures as error:
        raise DataError(f"CairoSVG: {_short(error)}") from None
    return drawn


def _resvg(svg: bytes, size: int) -> bytes:
    try:
        import resvg_py
    except ImportError:
        raise DataError("resvg-py is not installed") from None
    try:
        text = svg.decode("utf-8")
        drawn = resvg_py.svg_to_bytes(svg_string=text, width=size, height=size)
    except (ValueError, RuntimeError, TypeError, OSError) as error:
        raise DataError(f"resvg: {_short(error)}") from None
    return bytes(drawn)


def _open(path: Path) -> Image.Image:
    """An image file with its transparency, which ``open_image`` would paint white."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            return image.convert("RGBA")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ImageError(f"{path.name}: not an image that can be read ({_short(error)})") from None


def _fit(picture: Image.Image, size: int, margin: float) -> Image.Image:
    inner = round(size * (1 - 2 * margin))
    if picture.size != (inner, inner):
        scale = inner / max(picture.size)
        width, height = (max(1, round(side * scale)) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    if picture.size == (size, size):
        return picture
    sheet = Image.new("RGBA", (size, size), (255, 255, 255, 0))
    sheet.alpha_composite(picture, ((size - picture.width) // 2, (size - picture.height) // 2))
    return sheet


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__} {text[:80]}".strip()
