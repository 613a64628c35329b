"""Rectangles of queries and keys in which every query sees every key.

MMCA needs hardly any mask: the text between two images sees exactly the images before it, and
the text of a block sees all text before the block. Only a block's own text is triangular.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from triptych.attention.order import RowOrder, Run, Span, find_runs
from triptych.attention.rules import Rule

TILE_KEYS = 640
BLOCK_ROWS = 128
LONGEST_BLOCK = 256


@dataclass(frozen=True)
class Piece:
    """Rows [start, stop) of a block see all of these keys.

    Attributes:
        start: first row of the block.
        stop: row after the last.
        keys: spans of keys, at most ``TILE_KEYS`` of them.
    """

    start: int
    stop: int
    keys: tuple[Span, ...]

    @property
    def pairs(self) -> int:
        """Pairs of a query and a key."""
        return (self.stop - self.start) * width(self.keys)


@dataclass(frozen=True)
class Block:
    """Queries that are worked on together.

    Attributes:
        rows: spans of keys that the queries are; as queries they stand ``first_query`` earlier.
        triangle: the rows see each other causally, as text.
        text: what they see in the text group beside that.
        image: what they see in the image group.
        keeps_value: their own value is added (image rows that see themselves).
    """

    rows: tuple[Span, ...]
    triangle: bool
    text: tuple[Piece, ...]
    image: tuple[Piece, ...]
    keeps_value: bool = False

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
        return own + sum(piece.pairs for piece in (*self.text, *self.image))


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
            tuple(Piece(0, width(self.rows), tile) for tile in tiles(self.seen.text)),
            tuple(_image_pieces(self.rows, self.images, self.seen.image)),
        )
        self.seen.text += self.rows
        self.rows, self.images = [], []
        return [block]


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
                if width(pending.rows) + width([span]) > LONGEST_BLOCK:
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
    rows, size = (run.span,), width([run.span])
    whole = rule.image_scope == "image"
    text = tiles(seen.text) if rule.images_read_text else []
    own = tiles(rows) if whole else []
    return [
        Block(
            rows,
            False,
            tuple(Piece(0, size, tile) for tile in text),
            tuple(Piece(0, size, tile) for tile in own),
            keeps_value=not whole,
        )
    ]


def _image_pieces(
    rows: Sequence[Span], images: Sequence[int], keys: Sequence[Span]
) -> Iterable[Piece]:
    """Pieces of a text block whose k-th run sees the first ``images[k]`` visual tokens."""
    start, before, size = 0, 0, width(rows)
    for span, count in zip(rows, images, strict=True):
        for tile in tiles(cut(keys, before, count)):
            yield Piece(start, size, tile)
        before = count
        start += span[1] - span[0]


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
    """Group spans, long ones cut, into tiles of at most ``TILE_KEYS`` tokens."""
    found: list[tuple[Span, ...]] = []
    tile: tuple[Span, ...] = ()
    for part in (part for span in spans for part in _split(span, TILE_KEYS)):
        if tile and width(tile) + width([part]) > TILE_KEYS:
            found.append(tile)
            tile = ()
        joined = bool(tile) and tile[-1][1] == part[0]
        tile = (*tile[:-1], (tile[-1][0], part[1])) if joined else (*tile, part)
    return [*found, tile] if tile else found


def _split(span: Span, limit: int) -> list[Span]:
    """Cut a span into as few nearly equal parts of at most ``limit`` tokens as there can be."""
    start, stop = span
    parts = max(1, -(-(stop - start) // limit))
    bounds = [start + (stop - start) * part // parts for part in range(parts + 1)]
    return list(pairwise(bounds))
