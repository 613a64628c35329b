"""The tokens of one batch row in the order of their places, and the runs they form.

Shape suffixes: S tokens of the row that are no padding.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from triptych.attention.rules import Kind, Rule, Tokens
from triptych.errors import SpanError

Ints = npt.NDArray[np.int64]
Span = tuple[int, int]


@dataclass(frozen=True)
class RowOrder:
    """One row; all arrays (S,), sorted by place.

    Attributes:
        index: where each token stands among the keys.
        text: whether it counts as text; under the causal rule all tokens do.
        documents: document of each token.
        images: image of each token, 0 for text.
        begins: position in these arrays at which the token's document begins.
    """

    index: Ints
    text: npt.NDArray[np.bool_]
    documents: Ints
    images: Ints
    begins: Ints

    def count(self, text: bool) -> tuple[Ints, Ints]:
        """For each token, [start, stop) of its document's tokens up to it, text or not.

        The numbers count only tokens that are text (or only those that are not).
        """
        counted = np.concatenate([[0], np.cumsum(self.text == text)])
        return counted[self.begins], counted[1:]


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


def order_rows(rule: Rule, tokens: Tokens) -> tuple[RowOrder, ...]:
    """Sort each row of a batch.

    Raises:
        SpanError: the tokens of a document do not stand together.
    """
    host = tokens.map(lambda field: field.detach().cpu())
    fields = zip(
        host.kinds.numpy(), host.places.numpy(), host.documents.numpy(), host.images.numpy(),
        strict=True,
    )  # fmt: skip
    return tuple(_order(rule, row, *field) for row, field in enumerate(fields))


def _order(
    rule: Rule, row: int, kinds: Ints, places: Ints, documents: Ints, images: Ints
) -> RowOrder:
    kept = np.flatnonzero(kinds != Kind.PAD)
    index = kept[np.argsort(places[kept], kind="stable")]
    text = (kinds[index] == Kind.TEXT) | (rule.name == "causal")
    documents = documents[index]
    first = np.flatnonzero(np.diff(documents, prepend=documents[:1] - 1))
    if len(np.unique(documents)) != len(first):
        raise SpanError(
            f"sample {row}: the tokens of a document do not stand together in document_ids"
        )
    begins = np.repeat(first, np.diff(first, append=len(documents)))
    return RowOrder(index, text, documents, np.where(text, 0, images[index]), begins)


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
