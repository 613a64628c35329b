"""The preview as one HTML page that needs no other file."""

import base64
from collections.abc import Sequence
from html import escape
from io import BytesIO

from triptych.data.preview import ImageView, Piece, View
from triptych.errors import ImageError
from triptych.images.decode import open_image

THUMBNAIL = 224

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 2rem auto;
  padding: 0 1rem; }}
article {{ border: 1px solid #8886; border-radius: .5rem; padding: 1rem; margin: 1.5rem 0; }}
h2 {{ font-size: 1rem; margin: 0 0 .75rem; overflow-wrap: anywhere; }}
.turn {{ white-space: pre-wrap; overflow-wrap: anywhere; margin: .75rem 0; }}
.role {{ display: block; font-size: .8rem; font-weight: 600; opacity: .7; }}
mark {{ background: #b7e4c7; color: #10391f; border-bottom: 2px solid #2d6a4f; }}
figure {{ display: inline-block; margin: .25rem .5rem .25rem 0; vertical-align: middle;
  white-space: normal; max-width: {thumbnail}px; }}
figure img {{ display: block; max-width: 100%; image-rendering: auto; }}
figcaption {{ font-size: .8rem; opacity: .8; overflow-wrap: anywhere; }}
.problem {{ color: #c1121f; font-weight: 600; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p><mark>Marked text</mark> is supervised: the model learns to write it.</p>
{articles}
</body>
</html>
"""


def page(views: Sequence[View], title: str) -> str:
    """An HTML page of records: text escaped, pictures inside the page, supervised text marked."""
    articles = "\n".join(_article(shown) for shown in views)
    return PAGE.format(title=escape(title), articles=articles, thumbnail=THUMBNAIL)


def _article(shown: View) -> str:
    turns = "\n".join(_turn(role, pieces) for role, pieces in shown.turns)
    problems = "\n".join(f'<p class="problem">{escape(text)}</p>' for text in shown.problems)
    return f"<article>\n<h2>{escape(shown.title)}</h2>\n{turns}\n{problems}\n</article>"


def _turn(role: str, pieces: Sequence[Piece]) -> str:
    label = f'<span class="role">{escape(role)}</span>' if role else ""
    return f'<div class="turn">{label}{"".join(_piece(piece) for piece in pieces)}</div>'


def _piece(piece: Piece) -> str:
    if isinstance(piece, ImageView):
        return _figure(piece)
    text = escape(piece.text)
    return f"<mark>{text}</mark>" if piece.supervised else text


def _figure(image: ImageView) -> str:
    caption = escape(str(image).strip("[]"))
    try:
        picture = open_image(image.part.location)
    except ImageError as error:
        caption = f'<figcaption class="problem">{caption} {escape(str(error))}</figcaption>'
        return f"<figure>{caption}</figure>"
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    stream = BytesIO()
    picture.save(stream, "JPEG", quality=80)
    data = base64.b64encode(stream.getvalue()).decode("ascii")
    return (
        f'<figure><img alt="image {image.number}" src="data:image/jpeg;base64,{data}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )
