"""The tokens of a batch in the order of their places, and the runs they form.

Shape suffixes: B batch, S tokens of a row that are no padding, N those of all rows.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from triptych.attention.rules import Kind, Rule, Tokens
from triptych.errors import SpanError

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Span = tuple[int, int]


@dataclass(frozen=True)
class RowOrder:
    """One row; all arrays (S,), sorted by place.

    Attributes:
        index: where each token stands among the keys.
        text: whether it counts as text; under the causal rule all tokens do.
        documents: document of each token.
        images: image of each token, 0 for text.
    """

    index: Ints
    text: Bools
    documents: Ints
    images: Ints


@dataclass(frozen=True)
class BatchOrder:
    """All rows of a batch, one behind the other; arrays (N,) but for ``bounds``.

    Attributes:
        rows: row of each token.
        index: as in ``RowOrder``.
        text: as in ``RowOrder``.
        documents: as in ``RowOrder``.
        images: as in ``RowOrder``.
        begins: position in these arrays at which the token's document begins.
        bounds: (B + 1,), where each row begins.
    """

    rows: Ints
    index: Ints
    text: Bools
    documents: Ints
    images: Ints
    begins: Ints
    bounds: Ints

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.bounds) - 1

    def row(self, row: int) -> RowOrder:
        """One row by itself."""
        own = slice(self.bounds[row], self.bounds[row + 1])
        return RowOrder(self.index[own], self.text[own], self.documents[own], self.images[own])

    def count(self, text: bool) -> tuple[Ints, Ints]:
        """For each token, [start, stop) of its document's tokens up to it, text or not.

        The numbers count only tokens of its row that are text (or only those that are not).
        """
        counted = np.concatenate([[0], np.cumsum(self.text == text)])
        before = counted[self.bounds[self.rows]]
        return counted[self.begins] - before, counted[1:] - before


@dataclass(frozen=True)
class Run:
    """Tokens of one kind and document that stand side by side.

    Attributes:
        start: index of the first among the keys.
        stop: index after the last.
        text: whether they are text.
        asks: whether they are among the queries.
        document: their document.
        image: their image, 0 for text.
    """

    start: int
    stop: int
    text: bool
    asks: bool
    document: int
    image: int

    @property
    def span(self) -> Span:
        """[start, stop)."""
        return self.start, self.stop


def order_rows(rule: Rule, tokens: Tokens) -> BatchOrder:
    """Sort the tokens of each row of a batch.

    Raises:
        SpanError: the tokens of a document do not stand together.
    """
    host = tokens.map(lambda field: field.detach().cpu().expand_as(tokens.kinds))
    kinds, places, documents, images = (
        field.numpy().ravel() for field in (host.kinds, host.places, host.documents, host.images)
    )
    batch, keys = tokens.kinds.shape
    kept = np.flatnonzero(kinds != Kind.PAD)
    kept = kept[np.lexsort((places[kept], kept // keys))]
    rows, documents = kept // keys, documents[kept]
    first = np.flatnonzero(starts_anew(rows, documents))
    _check_together(rows[first], documents[first])
    text = (kinds[kept] == Kind.TEXT) | (rule.name == "causal")
    return BatchOrder(
        rows,
        kept % keys,
        text,
        documents,
        np.where(text, 0, images[kept]),
        np.repeat(first, np.diff(first, append=len(rows))),
        np.searchsorted(rows, np.arange(batch + 1)),
    )


def starts_anew(*fields: Ints | Bools) -> Bools:
    """(N,): where any of the arrays (N,) changes, and at the first."""
    changes = np.ones(len(fields[0]), np.bool_)
    for field in fields:
        changes[1:] &= field[1:] == field[:-1]
    changes[1:] = ~changes[1:]
    return changes


def _check_together(rows: Ints, documents: Ints) -> None:
    """Refuse a row in which a document begins twice."""
    pairs, counts = np.unique(np.stack([rows, documents]), axis=1, return_counts=True)
    if (counts > 1).any():
        row = pairs[0, np.argmax(counts > 1)]
        raise SpanError(
            f"sample {row}: the tokens of a document do not stand together in document_ids"
        )


def find_runs(order: RowOrder, first_query: int) -> list[Run]:
    """Cut a row into runs; keys from ``first_query`` on are queries."""
    if not len(order.index):
        return []
    asks = order.index >= first_query
    changes = np.diff(order.index) != 1
    for field in (order.text, order.documents, order.images, asks):
        changes |= field[1:] != field[:-1]
    starts = np.concatenate([[0], np.flatnonzero(changes) + 1])
    stops = np.append(starts[1:], len(order.index))
    return [
        Run(
            int(order.index[start]),
            int(order.index[start]) + int(stop - start),
            bool(order.text[start]),
            bool(asks[start]),
            int(order.documents[start]),
            int(order.images[start]),
        )
        for start, stop in zip(starts, stops, strict=True)
    ]
