"""Messages that JSON can carry."""

import base64
import io
from pathlib import Path
from typing import Any

from PIL import Image

from triptych.images.decode import ImageInput
from triptych.model.processing import image_sources


def portable(content: str | list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """A message's content as JSON can carry it.

    Paths become absolute paths; opened images and bytes become data URIs.
    """
    if isinstance(content, str):
        return content
    return [
        {"type": "image", "image": _write_image(image_sources([{"content": [part]}])[0])}
        if part["type"] != "text"
        else part
        for part in content
    ]


def _write_image(source: ImageInput) -> str:
    """An image as JSON can carry it."""
    if isinstance(source, str) and source.startswith("data:"):
        return source
    if isinstance(source, str | Path):
        return str(Path(source).absolute())
    if isinstance(source, Image.Image):
        buffer = io.BytesIO()
        source.save(buffer, format="PNG")
        return _data_uri("image/png", buffer.getvalue())
    with Image.open(io.BytesIO(source)) as image:
        kind = (image.format or "png").lower()
    return _data_uri(f"image/{kind}", source)


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"
