"""Rectangles of queries and keys in which every query sees every key.

MMCA needs hardly any mask: the text between two images sees exactly the images before it, and
the text of a block sees all text before the block. Only a block's own text is triangular.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

from triptych.attention.order import RowOrder, Run, Span, find_runs
from triptych.attention.rules import Rule

TILE_KEYS = 640
JOINED_KEYS = 384
LONG_SPAN = 128
BLOCK_ROWS = 128
LONGEST_BLOCK = 256


@dataclass(frozen=True)
class Piece:
    """The rows [start, stop) of a block see all of these keys.

    Attributes:
        start: first row of the block.
        stop: row of the block after the last.
        keys: spans of keys, at most ``TILE_KEYS`` of them.
    """

    start: int
    stop: int
    keys: tuple[Span, ...]


@dataclass(frozen=True)
class Block:
    """Queries that are worked on together.

    Attributes:
        rows: spans of keys that the queries are; as queries they stand ``first_query`` earlier.
        triangle: the rows see each other causally, as text.
        text: what they see in the text group beside that.
        image: what they see in the image group.
        keeps_value: their own value is added (image rows that see themselves).
        owns_images: the keys of ``image`` are the rows themselves, which see their whole image.
    """

    rows: tuple[Span, ...]
    triangle: bool
    text: tuple[Piece, ...]
    image: tuple[Piece, ...]
    keeps_value: bool = False
    owns_images: bool = False

    @property
    def size(self) -> int:
        """Number of queries."""
        return width(self.rows)

    @property
    def calls(self) -> int:
        """Attention calls that the block costs."""
        return self.triangle + len(self.text) + len(self.image)

    @property
    def pairs(self) -> int:
        """Pairs of a query and a key that the block costs."""
        own = self.size * self.size // 2 if self.triangle else 0
        pieces = (*self.text, *self.image)
        return own + sum((piece.stop - piece.start) * width(piece.keys) for piece in pieces)


@dataclass
class _Seen:
    """The keys of a document so far."""

    text: list[Span] = field(default_factory=list)
    image: list[Span] = field(default_factory=list)


@dataclass
class _Pending:
    """Text runs that wait to become a block."""

    seen: _Seen
    rows: list[Span] = field(default_factory=list)
    images: list[int] = field(default_factory=list)

    def flush(self) -> list[Block]:
        """Make the block, and start anew behind its text."""
        if not self.rows:
            return []
        block = Block(
            tuple(self.rows),
            True,
            tuple(_pieces(width(self.rows), tiles(self.seen.text))),
            tuple(self._image_pieces()),
        )
        self.seen.text += self.rows
        self.rows, self.images = [], []
        return [block]

    def _image_pieces(self) -> Iterable[Piece]:
        """What the k-th run of rows sees, of which ``images[k]`` visual tokens stand before it."""
        start, before, size = 0, 0, width(self.rows)
        for span, count in zip(self.rows, self.images, strict=True):
            stop = start + span[1] - span[0]
            keys = cut(self.seen.image, before, count)
            yield from (Piece(start, size, tile) for tile in tiles(keys))
            start, before = stop, count


def plan_blocks(rule: Rule, order: RowOrder, first_query: int) -> tuple[Block, ...]:
    """Cut what the queries of a row see into blocks; together they are exactly the rule.

    Args:
        rule: the attention rule.
        order: the tokens of the row.
        first_query: keys from this one on are queries.
    """
    blocks: list[Block] = []
    seen = _Seen()
    pending = _Pending(seen)
    document: int | None = None
    for run in find_runs(order, first_query):
        if run.document != document:
            blocks += pending.flush()
            seen = _Seen()
            pending, document = _Pending(seen), run.document
        if run.text and run.asks:
            for span in _split(run.span, LONGEST_BLOCK):
                if width([*pending.rows, span]) > LONGEST_BLOCK:
                    blocks += pending.flush()
                pending.rows.append(span)
                pending.images.append(width(seen.image))
                if width(pending.rows) >= BLOCK_ROWS:
                    blocks += pending.flush()
        elif run.text:
            blocks += pending.flush()
            seen.text.append(run.span)
        else:
            if run.asks and (rule.images_read_text or rule.image_scope == "image"):
                blocks += pending.flush()
            blocks += _image_block(rule, run, seen)
            seen.image.append(run.span)
    return (*blocks, *pending.flush())


def _image_block(rule: Rule, run: Run, seen: _Seen) -> list[Block]:
    """What the rows of an image see."""
    if not run.asks:
        return []
    rows = (run.span,)
    whole = rule.image_scope == "image"
    text = tiles(seen.text) if rule.images_read_text else []
    own = tiles(rows) if whole else []
    return [
        Block(
            rows,
            False,
            tuple(_pieces(width(rows), text)),
            tuple(_pieces(width(rows), own)),
            keeps_value=not whole,
            owns_images=whole,
        )
    ]


def _pieces(rows: int, found: Iterable[tuple[Span, ...]]) -> Iterable[Piece]:
    """All rows of a block see these tiles."""
    return (Piece(0, rows, tile) for tile in found)


def width(spans: Iterable[Span]) -> int:
    """Number of tokens of spans."""
    return sum(stop - start for start, stop in spans)


def cut(spans: Iterable[Span], start: int, stop: int) -> list[Span]:
    """Tokens [start, stop) of the tokens of spans."""
    found, passed = [], 0
    for first, last in spans:
        low, high = max(start - passed, 0), min(stop - passed, last - first)
        if low < high:
            found.append((first + low, first + high))
        passed += last - first
    return found


def tiles(spans: Iterable[Span]) -> list[tuple[Span, ...]]:
    """Cut spans into tiles of at most ``TILE_KEYS`` tokens.

    Only spans shorter than ``LONG_SPAN`` share a tile, of at most ``JOINED_KEYS`` tokens: to join
    spans is to copy them.
    """
    found: list[tuple[Span, ...]] = []
    tile: tuple[Span, ...] = ()
    for part in (part for span in _joined(spans) for part in _split(span, TILE_KEYS)):
        sizes = [stop - start for start, stop in (*tile, part)]
        if tile and (sum(sizes) > JOINED_KEYS or max(sizes[0], sizes[-1]) >= LONG_SPAN):
            found.append(tile)
            tile = ()
        tile = (*tile, part)
    return [*found, tile] if tile else found


def _joined(spans: Iterable[Span]) -> list[Span]:
    """Make one span of those that touch."""
    found: list[Span] = []
    for start, stop in spans:
        if found and found[-1][1] == start:
            start = found.pop()[0]
        found.append((start, stop))
    return found


def _split(span: Span, limit: int) -> list[Span]:
    """Cut a span into as few nearly equal parts of at most ``limit`` tokens as there can be."""
    start, stop = span
    parts = max(1, -(-(stop - start) // limit))
    bounds = [start + (stop - start) * part // parts for part in range(parts + 1)]
    return list(pairwise(bounds))
