"""An HTML page of a manual as texts and pictures in reading order."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import TypeAlias

WORD = re.compile(r"[\w-]+")
BLOCKS = frozenset(
    WORD.findall(
        """
        address article aside blockquote caption center dd details div dl dt fieldset figcaption
        figure form h1 h2 h3 h4 h5 h6 header hr li main ol p pre section summary table tbody td
        tfoot th thead tr ul
        """
    )
)
"""Elements that begin a new paragraph."""
SILENT = frozenset(
    WORD.findall(
        """
        button footer form head nav noscript script select style svg template
        """
    )
)
VOID = frozenset(
    WORD.findall(
        """
        area base br col embed hr img input link meta source track wbr
        """
    )
)
ASIDES = frozenset(
    WORD.findall(
        """
        admonition-title docnav headerlink icon indexterm navfooter navheader sphx-glr-download
        sphx-glr-download-link-note sphx-glr-footer sphx-glr-signature sphx-glr-thumbcontainer
        sphx-glr-thumbnails sphx-glr-timing toc toctree-wrapper
        """
    )
)
"""Classes of navigation, thumbnails and the like."""


@dataclass(frozen=True)
class Picture:
    """A picture of a page: its address, and what is written in its place where it is missing."""

    source: str
    alt: str = ""


Part: TypeAlias = str | Picture


@dataclass(frozen=True)
class Body:
    """Where the text of a page is.

    Attributes:
        attribute, value: of the element that holds it, such as ``role="main"``; the whole body of
            the page when empty.
    """

    attribute: str = ""
    value: str = ""


@dataclass
class _Element:
    tag: str
    silent: bool
    root: bool


@dataclass
class _Text:
    """A paragraph in the making."""

    pieces: list[str] = field(default_factory=list)
    exact: bool = False

    def take(self) -> str:
        whole = "".join(self.pieces)
        self.pieces.clear()
        if self.exact:
            return whole.strip("\n").rstrip()
        return " ".join(whole.split())


def read_page(html: str, body: Body) -> list[Part]:
    """The paragraphs and pictures of a page in order; a text that was laid out keeps its lines.

    Args:
        html: the page.
        body: where its text is; an element that never closes ends with the page.
    """
    reader = _Reader(body)
    reader.feed(html)
    reader.close()
    reader.flush()
    return reader.parts


class _Reader(HTMLParser):
    def __init__(self, body: Body) -> None:
        super().__init__(convert_charrefs=True)
        self.body = body
        self.parts: list[Part] = []
        self._open: list[_Element] = []
        self._text = _Text()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        # Of an attribute that is written twice the first one counts.
        attributes = {name: value or "" for name, value in reversed(attrs)}
        if tag in BLOCKS or tag == "br":
            self.flush()
        if tag == "img" and self._reads():
            self._picture(attributes)
        if tag in VOID:
            return
        silent = tag in SILENT or not ASIDES.isdisjoint(attributes.get("class", "").split())
        self._open.append(_Element(tag, silent, self._is_body(tag, attributes)))
        self._text.exact = self._text.exact or tag == "pre"

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in BLOCKS:
            self.flush()
        if tag == "pre":
            self._text.exact = False
        # A missing end tag is that of the elements inside.
        if any(element.tag == tag for element in self._open):
            while self._open.pop().tag != tag:
                pass

    def handle_data(self, data: str) -> None:
        if self._reads():
            self._text.pieces.append(data)

    def flush(self) -> None:
        """End a paragraph."""
        text = self._text.take()
        if text:
            self.parts.append(text)

    def _picture(self, attributes: Mapping[str, str]) -> None:
        source = attributes.get("src", "")
        if source:
            self.flush()
            alt = " ".join(attributes.get("alt", "").split())
            self.parts.append(Picture(re.sub(r"[?#].*$", "", source), alt))

    def _is_body(self, tag: str, attributes: Mapping[str, str]) -> bool:
        if not self.body.attribute:
            return tag == "body"
        return attributes.get(self.body.attribute) == self.body.value

    def _reads(self) -> bool:
        inside = any(element.root for element in self._open)
        return inside and not any(element.silent for element in self._open)
